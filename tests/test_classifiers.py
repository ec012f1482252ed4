import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchxrayvision.models import DenseNet, model_urls
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    TimmWrapperConfig,
    ViTConfig,
    ViTImageProcessorPil,
)

from transformers_cxr import checkpoint
from transformers_cxr.classifiers import XrayClassifier, load_classifier

EXAMPLES = Path(__file__).parents[1] / "examples/images"


@pytest.fixture
def classifier() -> XrayClassifier:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
    return XrayClassifier(backbone, 12, (-1024, 1024), head=nn.Linear(6, 3), label_names="abc")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_pixels_are_averaged_over_colors_and_mapped_to_the_range_of_the_network_without_clipping():
    values = torch.tensor([-1.0, -0.5, 0.0, 1.25]).expand(1, 1, 4, 4)
    classifier = XrayClassifier(nn.Flatten(), 4, (0, 255))
    pixel_values = torch.cat([values - 1, values, values + 1], dim=1)
    assert classifier.features(pixel_values)[0, :4].tolist() == pytest.approx([0, 63.75, 127.5, 286.875])


def test_distance_is_the_mean_squared_difference_of_pooled_features(classifier, images):
    other = (images.flip(-1) * 0.9).requires_grad_()
    resized = [F.interpolate(x, (12, 12), mode="bilinear", antialias=True) * 1024 for x in (other, images)]
    features = [classifier.backbone(x).mean(dim=(2, 3)) for x in resized]
    torch.testing.assert_close(classifier.train().features(images), features[1])  # it stays in evaluation mode
    distance = classifier.distance(other, images)
    torch.testing.assert_close(distance, (features[0] - features[1]).pow(2).sum() / 12)
    # The gradient reaches the reconstruction only.
    distance.backward()
    assert other.grad.any() and not any(parameter.requires_grad for parameter in classifier.parameters())


def test_labels_are_the_most_probable_or_those_above_their_thresholds(classifier, images):
    logits = classifier.head(classifier.features(images))
    probabilities = classifier(images)
    torch.testing.assert_close(probabilities, logits.softmax(dim=1))
    assert classifier.predict(probabilities).nonzero().tolist() == [[i, row.argmax()] for i, row in enumerate(logits)]
    classifier.thresholds = logits[0].sigmoid() + torch.tensor([-0.01, 0.01, 0.0])
    torch.testing.assert_close(classifier(images), logits.sigmoid())
    assert classifier.predict(classifier(images)[:1]).tolist() == [[True, False, True]]


def test_images_are_prepared_as_for_the_model_and_batches_change_nothing(classifier):
    arrays = torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = classifier(arrays[:, None] / 127.5 - 1)
    for batch_size in (2, 3):
        probabilities = classifier.probabilities([PIL.Image.fromarray(a.numpy()) for a in arrays], batch_size)
        torch.testing.assert_close(probabilities, expected)


TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.mark.parametrize(
    "config, num_features",
    [
        (ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3), 16),
        (ViTConfig(image_size=20, patch_size=10, num_labels=3, **TINY_VIT), 16),
        (TimmWrapperConfig(architecture="test_efficientnet", num_labels=3), 256),
    ],
)
@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_an_image_classifier_of_transformers_gives_its_own_probabilities(
    tmp_path, images, config, num_features, problem_type
):
    torch.manual_seed(0)
    config.problem_type = problem_type
    model = AutoModelForImageClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    ViTImageProcessorPil(size={"height": 20, "width": 20}, image_mean=mean, image_std=std).save_pretrained(tmp_path)
    classifier = load_classifier(str(tmp_path))
    normalized = torch.cat([((images + 1) / 2 - m) / s for m, s in zip(mean, std)], dim=1)
    logits = model(normalized).logits
    torch.testing.assert_close(classifier(images), logits.sigmoid() if problem_type else logits.softmax(dim=1))
    assert classifier.features(images).shape == (2, num_features)
    assert classifier.label_names == ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize("seed", [0, 1])
def test_embedded_classifiers_read_the_examples(seed):
    classifier = load_classifier(f"xray-classifier-{seed}")
    assert classifier.label_names == ["Pneumonia", "Bacterial Pneumonia", "PA", "Adult"]
    normal, bacterial = classifier.predict(classifier.probabilities(sorted(EXAMPLES.glob("*.jpeg")))).tolist()
    assert [normal[0], *normal[2:]] == [False, False, False]
    assert bacterial == [True, True, False, False]


def test_a_densenet_of_torchxrayvision_has_its_own_thresholds_and_names(monkeypatch, images):
    torch.manual_seed(0)
    name, count = "densenet121-res224-chex", 11
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


def test_missing_packages_weights_and_names_are_errors_with_the_way_out(monkeypatch, tmp_path):
    def offline(weights):
        raise OSError("no network")

    monkeypatch.setattr("torchxrayvision.models.DenseNet", offline)
    with pytest.raises(OSError, match=r"'densenet121-res224-all'.*no network.*torchxrayvision/models_data"):
        load_classifier("densenet121-res224-all")
    monkeypatch.chdir(tmp_path)
    for name in ("nowhere", "llm-cxr"):
        message = f"'{name}' is neither a folder nor a classifier: xray-classifier-0, .*dense"
        with pytest.raises(ValueError, match=message):
            load_classifier(name)
    with pytest.raises(ValueError, match="is a model of type 'llm_cxr', not an image classifier"):
        load_classifier(str(checkpoint("llm-cxr")))
    monkeypatch.setitem(sys.modules, "torchxrayvision.models", None)
    with pytest.raises(ImportError, match=r"'densenet121-res224-all' is not a folder.*transformers-cxr\[clinical\]"):
        load_classifier("densenet121-res224-all")
