import sys

import PIL.Image
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchxrayvision.models import DenseNet, model_urls
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from transformers_cxr.classifiers import ELEVEN_LABELS, XrayClassifier, load_classifier


class Recorder(nn.Module):
    """Features that keep what they were given."""

    def forward(self, pixels):
        self.pixels = pixels
        return pixels.flatten(1)


@pytest.fixture
def classifier() -> XrayClassifier:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
    return XrayClassifier(features, image_size=12, value_range=(-1024, 1024), head=nn.Linear(6, 3), label_names="abc")


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
    classifier = XrayClassifier(recorder, image_size=5, value_range=value_range)
    classifier.features(torch.tensor([-1.0, -0.5, 0.0, 0.75, 1.0]).expand(1, 1, 5, 5))
    assert recorder.pixels[0, 0, 0].tolist() == expected


def test_colours_are_averaged_and_other_sizes_resized(images):
    recorder = Recorder()
    classifier = XrayClassifier(recorder, image_size=10, value_range=(-1, 1))
    classifier.features(torch.cat([images, images * 0, images * 0.5], dim=1))
    assert recorder.pixels.shape == (2, 1, 10, 10)
    expected = F.interpolate(images * 0.5, size=(10, 10), mode="bilinear", antialias=True)
    torch.testing.assert_close(recorder.pixels, expected)


def test_values_beyond_the_range_are_not_clipped():
    recorder = Recorder()
    XrayClassifier(recorder, image_size=2, value_range=(0, 1)).features(torch.full((1, 1, 2, 2), 1.5))
    assert recorder.pixels.unique().tolist() == [1.25]


def test_features_are_pooled(classifier, images):
    assert classifier.features(images).shape == (2, 6)


def test_distance_is_the_mean_squared_difference_of_the_features(classifier, images):
    other = images.flip(-1) * 0.9
    expected = (classifier.features(other) - classifier.features(images)).pow(2).sum() / 12
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
    probabilities = classifier(images)
    torch.testing.assert_close(probabilities, classifier.head(classifier.features(images)).softmax(dim=1))
    assert classifier.predict(probabilities).long().argmax(dim=1).tolist() == probabilities.argmax(dim=1).tolist()
    assert classifier.predict(probabilities).sum(dim=1).tolist() == [1, 1]
    classifier.thresholds = torch.zeros(3)
    probabilities = classifier(images)
    torch.testing.assert_close(probabilities, classifier.head(classifier.features(images)).sigmoid())
    classifier.thresholds = probabilities[0] + torch.tensor([-0.01, 0.01, 0.0])
    assert classifier.predict(probabilities[:1]).tolist() == [[True, False, True]]


def test_images_are_prepared_as_for_the_model_and_batches_change_nothing(classifier):
    generator = torch.Generator().manual_seed(1)
    arrays = torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8, generator=generator).numpy()
    expected = classifier(torch.from_numpy(arrays)[:, None] / 127.5 - 1)
    for batch_size in (2, 3):
        probabilities = classifier.probabilities([PIL.Image.fromarray(a) for a in arrays], batch_size)
        torch.testing.assert_close(probabilities, expected)


def test_an_image_classifier_of_transformers_gives_its_own_logits(tmp_path, images):
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    ViTImageProcessorPil(size={"height": 20, "width": 20}, image_mean=mean, image_std=std).save_pretrained(tmp_path)
    classifier = load_classifier(str(tmp_path))
    normalized = torch.cat([((images + 1) / 2 - m) / s for m, s in zip(mean, std)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), model(normalized).logits.softmax(dim=1))
    assert classifier.features(images).shape == (2, 16) and classifier.label_names == [f"LABEL_{i}" for i in range(3)]


@pytest.mark.parametrize(("name", "count"), [("densenet121-res224-all", 18), ("densenet121-res224-chex", 11)])
def test_a_densenet_of_torchxrayvision_has_its_own_thresholds_and_names(monkeypatch, images, name, count):
    torch.manual_seed(0)
    model = DenseNet(num_classes=18, in_channels=1).eval()
    model.op_threshs = torch.tensor(model_urls[name]["op_threshs"])
    monkeypatch.setattr("torchxrayvision.models.DenseNet", lambda weights: model)
    classifier = load_classifier(name)
    assert len(classifier.label_names) == count and all(classifier.label_names)
    column, own = model_urls[name]["labels"].index("Edema"), classifier.label_names.index("Edema")
    assert classifier.thresholds[own].item() == pytest.approx(model_urls[name]["op_threshs"][column])
    pixels = F.interpolate(images, (224, 224), mode="bilinear", antialias=True) * 1024
    expected = model.classifier(model.features2(pixels)).sigmoid()[:, column]
    torch.testing.assert_close(classifier(images)[:, own], expected)
    if count == 18:
        assert sorted(load_classifier(name, ELEVEN_LABELS).label_names) == sorted(ELEVEN_LABELS)
        with pytest.raises(ValueError, match=r"has no label \['Gout'\]. It has \['Atelectasis'"):
            load_classifier(name, ["Gout"])


def test_without_torchxrayvision_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    monkeypatch.setitem(sys.modules, "torchxrayvision.models", None)
    with pytest.raises(ImportError, match=r"'densenet121-res224-all' is not a folder.*transformers-cxr\[clinical\]"):
        load_classifier("densenet121-res224-all")


def test_without_the_weights_the_error_names_the_way_out(monkeypatch):
    def offline(weights):
        raise OSError("no network")

    monkeypatch.setattr("torchxrayvision.models.DenseNet", offline)
    with pytest.raises(OSError, match=r"'densenet121-res224-all'.*no network.*torchxrayvision/models_data"):
        load_classifier("densenet121-res224-all")


def test_a_classifier_that_is_neither_a_folder_nor_known_is_named():
    with pytest.raises(
        ValueError, match="'nowhere' is neither a folder nor a DenseNet of torchxrayvision: densenet121-"
    ):
        load_classifier("nowhere")
