import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn
from torchxrayvision.models import DenseNet, model_urls
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from transformers_cxr.evaluation.metrics.image_labels import ELEVEN_LABELS, ImageClassifier, ImageLabels
from transformers_cxr.evaluation.metrics.pneumonia import PneumoniaOfImages


class Halves(nn.Module):
    """Logits of "left" and "right": how bright each half is."""

    def forward(self, pixel_values):
        return nn.functional.adaptive_avg_pool2d(pixel_values, (1, 2)).flatten(1) * 4


def halves(left, right):
    array = np.full((256, 256), left, np.uint8)
    array[:, 128:] = right
    return PIL.Image.fromarray(array)


REAL = [halves(200, 50), halves(200, 60), halves(40, 70), halves(50, 210)]
GENERATED = [halves(190, 20), halves(90, 150), halves(10, 80), halves(60, 180)]


def test_scores_equal_those_of_scikit_learn():
    classifier = ImageClassifier(Halves(), ["left", "right"], batch_size=3, device="cpu")
    scores = ImageLabels(classifier).compute(predictions=GENERATED, references=REAL)
    # Above the middle grey of 127.5 the probability is above one half.
    bright = {
        name: np.array([[np.asarray(i)[0, 0], np.asarray(i)[0, -1]] for i in images], float)
        for name, images in (("generated", GENERATED), ("real", REAL))
    }
    reference, predicted = bright["real"] > 127.5, bright["generated"] > 127.5
    for average in ("micro", "macro", "weighted"):
        assert scores[f"f1_{average}"] == pytest.approx(f1_score(reference, predicted, average=average))
        expected = roc_auc_score(reference, bright["generated"], average=average)
        assert scores[f"auroc_{average}"] == pytest.approx(expected)
    assert scores["auroc_left"] == pytest.approx(roc_auc_score(reference[:, 0], bright["generated"][:, 0]))


def test_thresholds_are_applied_and_an_absent_class_is_nan():
    classifier = ImageClassifier(Halves(), ["left", "right"], thresholds=[0.5, 0.999], device="cpu")
    scores = ImageLabels(classifier).compute(predictions=GENERATED, references=REAL)
    assert np.isnan(scores["f1_right"]) and np.isnan(scores["auroc_right"]) and scores["classes"] == 1


def test_images_against_themselves_score_one_in_any_order():
    metric = ImageLabels(ImageClassifier(Halves(), ["left", "right"], device="cpu"))
    units = metric.prepare(REAL, REAL)
    assert units[0].shape == (2, 2)
    assert metric.aggregate(units)["f1_macro"] == metric.aggregate(units)["auroc_micro"] == 1
    np.testing.assert_equal(metric.aggregate(units[::-1]), metric.aggregate(units))


def test_a_module_of_fewer_labels_and_missing_names_are_refused():
    with pytest.raises(ValueError, match=r"logits of 3 labels, got an output of shape \(4, 2\)"):
        ImageClassifier(Halves(), ["a", "b", "c"], device="cpu")(GENERATED)
    with pytest.raises(ValueError, match="label_names"):
        ImageClassifier(Halves())
    with pytest.raises(ValueError, match="Expected 2 thresholds, got 1"):
        ImageClassifier(Halves(), ["a", "b"], thresholds=[0.5])


def densenet_of(name):
    """The architecture of torchxrayvision with random weights and the thresholds of its own ones."""
    torch.manual_seed(0)
    model = DenseNet(num_classes=18, in_channels=1).eval()
    model.op_threshs = torch.tensor(model_urls[name]["op_threshs"])
    return lambda weights: model


@pytest.mark.parametrize(("name", "count"), [("densenet121-res224-all", 18), ("densenet121-res224-chex", 11)])
def test_a_densenet_of_torchxrayvision_has_its_own_thresholds_and_names(monkeypatch, name, count):
    monkeypatch.setattr("torchxrayvision.models.DenseNet", densenet_of(name))
    classifier = ImageClassifier(name, device="cpu")
    assert len(classifier.label_names) == count and all(classifier.label_names)
    column, own = model_urls[name]["labels"].index("Edema"), classifier.label_names.index("Edema")
    assert classifier.thresholds[own] == pytest.approx(model_urls[name]["op_threshs"][column])
    scores = ImageLabels(classifier).compute(predictions=GENERATED[:1], references=REAL[:1])
    assert "f1_lung_opacity" in scores


def test_the_eleven_labels_of_the_paper_can_be_chosen_and_unknown_ones_are_named(monkeypatch):
    monkeypatch.setattr("torchxrayvision.models.DenseNet", densenet_of("all"))
    assert ImageClassifier("densenet121-res224-all", ELEVEN_LABELS, device="cpu").label_names == list(ELEVEN_LABELS)
    with pytest.raises(ValueError, match=r"has no label \['Gout'\]; it has \['Atelectasis'"):
        ImageClassifier("densenet121-res224-all", ["Gout"], device="cpu")


def test_labels_of_a_classifier_of_transformers_exclude_each_other(tmp_path):
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=3,
        embedding_size=8,
        hidden_sizes=[8],
        depths=[1],
        layer_type="basic",
        id2label={0: "normal", 1: "bacterial", 2: "viral"},
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    classifier = ImageClassifier(str(tmp_path), device="cpu")
    assert classifier.label_names == ["normal", "bacterial", "viral"]
    metric = ImageLabels(classifier)
    units = metric.prepare(GENERATED, REAL)
    np.testing.assert_allclose(np.stack(units).sum(axis=-1), 1, rtol=1e-5)
    reference, predicted = (np.stack(units)[:, i].argmax(axis=-1) for i in (1, 0))
    assert metric.aggregate(units)["f1_micro"] == pytest.approx((reference == predicted).mean())


class Greys(nn.Module):
    """Logits of "viral", "normal" and "bacterial": how bright each third of the height is."""

    def forward(self, pixel_values):
        return nn.functional.adaptive_avg_pool2d(pixel_values, (3, 1)).flatten(1)


def thirds(viral, normal, bacterial):
    array = np.repeat(np.array([viral, normal, bacterial], np.uint8), 85)[:, None].repeat(255, axis=1)
    return PIL.Image.fromarray(array)


def test_drawn_pneumonia_is_what_the_classifier_sees_of_what_was_asked_for():
    classifier = ImageClassifier(Greys(), ["viral", "normal", "bacterial"], device="cpu")
    metric = PneumoniaOfImages(classifier)
    reports = ["Normal chest X-ray."] * 3 + ["Bacterial pneumonia."] * 2 + ["Viral pneumonia.", "A hernia."]
    images = [thirds(10, 200, 20)] * 2 + [thirds(200, 100, 20)]
    images += [thirds(10, 20, 200), thirds(50, 200, 60), thirds(50, 10, 60), thirds(10, 10, 200)]
    # Normal 2 of 3, pneumonia 2 of 3; bacterial 2 of 2 (the second one's is above viral), viral 0 of 1. The hernia is neither.
    expected = {"finding_balanced_accuracy": 2 / 3, "etiology_balanced_accuracy": 0.5}
    assert metric.compute(predictions=images, references=reports) == pytest.approx(expected)
    units = metric.prepare(images, reports)
    assert metric.aggregate(units[::-1]) == pytest.approx(expected)
    # One more that is viral and seen as such: pneumonia 3 of 4, viral 1 of 2. Exchanged, the two causes would give 0.25.
    more = metric.aggregate(units + metric.prepare([thirds(60, 10, 50)], ["Viral pneumonia."]))
    assert more == pytest.approx(
        {"finding_balanced_accuracy": (2 / 3 + 3 / 4) / 2, "etiology_balanced_accuracy": 0.75}
    )
    only = metric.aggregate(units[-1:])
    assert np.isnan(list(only.values())).all()


def test_a_classifier_of_other_classes_says_nothing_of_pneumonia():
    with pytest.raises(
        ValueError, match=r"classes \['bacterial', 'normal', 'viral'\], got one of \['left', 'right'\]"
    ):
        PneumoniaOfImages(ImageClassifier(Halves(), ["left", "right"], device="cpu"))


def test_no_images_are_an_error():
    with pytest.raises(ValueError, match="at least one image to classify, got none"):
        ImageClassifier(torch.nn.Identity(), ["a", "b"], device="cpu")([])
