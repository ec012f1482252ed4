import sys

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from transformers_cxr.evaluation.metrics import image_features
from transformers_cxr.evaluation.metrics.image_features import ImageFeatures, load_image_features


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [PIL.Image.fromarray(rng.integers(0, 256, (300, 260), dtype=np.uint8)) for _ in range(5)]


class Mean(nn.Module):
    def forward(self, pixel_values):
        self.shape = pixel_values.shape
        return pixel_values.mean(dim=(2, 3))


def test_a_given_module_sees_the_pixels_of_the_model_and_batches_change_nothing(images):
    module = Mean()
    features = load_image_features(module, batch_size=2, device="cpu")(images)
    assert features.shape == (5, 1) and features.dtype == np.float32
    assert module.shape == (1, 1, 256, 256)
    np.testing.assert_allclose(features, load_image_features(module, batch_size=5, device="cpu")(images), atol=1e-6)


def test_a_network_for_images_of_another_size_is_refused(images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(224 * 224, 3))
    with pytest.raises(ValueError, match=r"does not take images of shape \(5, 1, 256, 256\)"):
        ImageFeatures(network)(images)


@pytest.mark.parametrize("network", [nn.Identity(), lambda pixels: pixels.mean(dim=0).flatten(1)])
def test_what_is_no_row_of_features_an_image_is_refused(images, network):
    with pytest.raises(ValueError, match=r"Expected features of shape \(5, num_features\)"):
        ImageFeatures(network)(images)


def test_a_vision_model_of_transformers_gives_its_pooled_output(tmp_path, images):
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.2] * 3)
    processor.save_pretrained(tmp_path)
    features = load_image_features(str(tmp_path), device="cpu")(images)
    # The same preparation by hand: shorter side to 256, centre, then the processor of the vision model.
    prepared = [image.resize((256, 295), PIL.Image.Resampling.LANCZOS).crop((0, 19, 256, 275)) for image in images]
    with torch.no_grad():
        inputs = processor([image.convert("RGB") for image in prepared], return_tensors="pt")
        expected = model(**inputs).pooler_output.numpy()
    assert features.shape == (5, 16)
    np.testing.assert_allclose(features, expected, atol=0.05)


def test_a_grey_image_classifier_gives_the_features_before_its_head(tmp_path, images):
    torch.manual_seed(0)
    config = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessorPil(size={"height": 256, "width": 256}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(tmp_path)
    found = load_image_features(str(tmp_path), device="cpu")
    features = found(images)
    with torch.no_grad():
        expected = model.resnet(found.image_processor(images, return_tensors="pt").pixel_values).pooler_output
    assert features.shape == (5, 12)
    np.testing.assert_allclose(features, expected.flatten(1).numpy(), atol=1e-4)


def test_rad_dino_without_its_weights_says_how_to_bring_them(monkeypatch):
    def offline(name):
        raise OSError("no network")

    monkeypatch.setattr(image_features.AutoModel, "from_pretrained", offline)
    with pytest.raises(
        OSError, match="'microsoft/rad-dino' could not be read.*hf download microsoft/rad-dino --local-dir"
    ):
        load_image_features("rad-dino")


def test_inception_without_its_weights_says_which(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", offline)
    with pytest.raises(OSError, match="Inception v3 could not be read.*pt_inception-2015-12-05-6726825d.pth"):
        load_image_features("inception")


def test_without_torchmetrics_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"transformers-cxr\[evaluate\]"):
        load_image_features("inception")
