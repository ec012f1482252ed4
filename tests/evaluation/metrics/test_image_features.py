import sys

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from transformers_cxr.classifiers import load_efficientnet_lite0
from transformers_cxr.evaluation.metrics import image_features, load_image_features


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [PIL.Image.fromarray(rng.integers(0, 256, (300, 260), dtype=np.uint8)) for _ in range(5)]


def test_a_vision_model_of_transformers_gives_its_pooled_output(tmp_path, images):
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.2] * 3)
    processor.save_pretrained(tmp_path)
    features = load_image_features(str(tmp_path))(images)
    # The same preparation by hand: shorter side to 256, center crop, then the processor of the vision model.
    prepared = [image.resize((256, 295), PIL.Image.Resampling.LANCZOS).crop((0, 19, 256, 275)) for image in images]
    with torch.no_grad():
        inputs = processor([image.convert("RGB") for image in prepared], return_tensors="pt")
        expected = model(**inputs).pooler_output.numpy()
    assert features.shape == (5, 16)
    np.testing.assert_allclose(features, expected, atol=0.05)


def test_an_image_classifier_gives_the_features_before_its_head(tmp_path, images):
    torch.manual_seed(0)
    config = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessorPil(size={"height": 256, "width": 256}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(tmp_path)
    found = load_image_features(str(tmp_path))
    with torch.no_grad():
        expected = model.resnet(found.image_processor(images, return_tensors="pt").pixel_values).pooler_output
    np.testing.assert_allclose(found(images), expected.flatten(1).numpy(), atol=1e-4)


def test_efficientnet_lite0_gives_its_pooled_imagenet_features(images):
    found = load_image_features("efficientnet-lite0")
    pixel_values = found.image_processor(images, return_tensors="pt").pixel_values
    network = load_efficientnet_lite0().eval()
    with torch.no_grad():
        expected = network.forward_features(pixel_values.expand(-1, 3, -1, -1)).mean(dim=(2, 3)).numpy()
    assert expected.shape == (5, 1280)
    np.testing.assert_allclose(found(images), expected, atol=1e-4)


def offline(*args, **kwargs):
    raise OSError("no network")


def test_missing_weights_and_packages_are_named(monkeypatch):
    monkeypatch.setattr(image_features.AutoModel, "from_pretrained", offline)
    with pytest.raises(OSError, match="'microsoft/rad-dino' could not be read.*hf download microsoft/rad-dino"):
        load_image_features("rad-dino")
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", offline)
    with pytest.raises(OSError, match="Inception v3 could not be read.*pt_inception-2015-12-05-6726825d.pth"):
        load_image_features("inception")
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"transformers-cxr\[evaluate\]"):
        load_image_features("inception")
