import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from transformers_cxr.classifiers import ClinicalClassifier, load_clinical_classifier


class Recorder(nn.Module):
    """Features that keep what they were given."""

    def forward(self, pixels):
        self.pixels = pixels
        return pixels.flatten(1)


@pytest.fixture
def classifier() -> ClinicalClassifier:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
    return ClinicalClassifier(features, image_size=12, value_range=(-1024, 1024), head=nn.Linear(6, 3))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    ("value_range", "expected"),
    [
        ((-1024, 1024), [-1024, -512, 0, 768, 1024]),
        ((0, 1), [0, 0.25, 0.5, 0.875, 1]),
        ((0, 255), [0, 63.75, 127.5, 223.125, 255]),
    ],
)
def test_pixels_are_mapped_to_the_range_of_the_network_value_by_value(value_range, expected):
    recorder = Recorder()
    classifier = ClinicalClassifier(recorder, image_size=5, value_range=value_range)
    classifier(torch.tensor([-1.0, -0.5, 0.0, 0.75, 1.0]).expand(1, 1, 5, 5))
    assert recorder.pixels[0, 0, 0].tolist() == expected


def test_colours_are_averaged_and_other_sizes_resized(images):
    recorder = Recorder()
    classifier = ClinicalClassifier(recorder, image_size=10, value_range=(-1, 1))
    classifier(torch.cat([images, images * 0, images * 0.5], dim=1))
    assert recorder.pixels.shape == (2, 1, 10, 10)
    expected = F.interpolate(images * 0.5, size=(10, 10), mode="bilinear", antialias=True)
    torch.testing.assert_close(recorder.pixels, expected)


def test_values_beyond_the_range_are_not_clipped():
    recorder = Recorder()
    ClinicalClassifier(recorder, image_size=2, value_range=(0, 1))(torch.full((1, 1, 2, 2), 1.5))
    assert recorder.pixels.unique().tolist() == [1.25]


def test_features_are_pooled(classifier, images):
    assert classifier(images).shape == (2, 6)


def test_distance_is_the_mean_squared_difference_of_the_features(classifier, images):
    other = images.flip(-1) * 0.9
    expected = (classifier(other) - classifier(images)).pow(2).sum() / 12
    torch.testing.assert_close(classifier.distance(other, images), expected)
    assert classifier.distance(images, images).item() == 0


def test_gradient_reaches_the_reconstruction_only(classifier, images):
    reconstruction, original = (images * 0.8).requires_grad_(), images.clone().requires_grad_()
    classifier.distance(reconstruction, original).backward()
    assert torch.isfinite(reconstruction.grad).all() and reconstruction.grad.any()
    assert original.grad is None
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_the_network_stays_frozen_in_training(classifier, images):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    classifier.train()
    classifier(images)
    assert not any(module.training for module in classifier.modules())
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_labels_are_the_most_probable_or_those_above_their_thresholds(classifier, images):
    logits = classifier.head(classifier(images))
    assert classifier.labels(logits).tolist() == logits.argmax(dim=1)[:, None].tolist()
    probabilities = logits.sigmoid()
    classifier.thresholds = probabilities[0] + torch.tensor([-0.01, 0.01, 0.0])
    assert classifier.labels(logits[:1]).tolist() == [[1, 0, 1]]


def test_an_image_classifier_of_transformers_gives_its_own_logits(tmp_path, images):
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    ViTImageProcessorPil(size={"height": 20, "width": 20}, image_mean=mean, image_std=std).save_pretrained(tmp_path)
    classifier = load_clinical_classifier(str(tmp_path))
    normalized = torch.cat([((images + 1) / 2 - m) / s for m, s in zip(mean, std)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(classifier.head(classifier(images)), model(normalized).logits)
    assert classifier(images).shape == (2, 16)


def test_without_torchxrayvision_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    monkeypatch.setitem(sys.modules, "torchxrayvision.models", None)
    with pytest.raises(ImportError, match=r"'densenet121-res224-all' is no folder.*transformers-cxr\[clinical\]"):
        load_clinical_classifier("densenet121-res224-all")


def test_without_the_weights_the_error_names_the_way_out(monkeypatch):
    def offline(weights):
        raise OSError("no network")

    monkeypatch.setattr("torchxrayvision.models.DenseNet", offline)
    with pytest.raises(OSError, match=r"'densenet121-res224-all'.*no network.*torchxrayvision/models_data"):
        load_clinical_classifier("densenet121-res224-all")


def test_a_classifier_that_is_neither_a_folder_nor_known_is_named():
    with pytest.raises(
        ValueError, match="'nowhere' is neither a folder nor a DenseNet of torchxrayvision: densenet121-"
    ):
        load_clinical_classifier("nowhere")
