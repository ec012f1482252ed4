import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from transformers_cxr.classifiers import XrayClassifier, load_classifier
from transformers_cxr.evaluation.metrics.image_labels import ImageLabels
from transformers_cxr.evaluation.metrics.pneumonia import PneumoniaOfImages


class Halves(nn.Module):
    """Logits of "left" and "right": how bright each half is."""

    def forward(self, pixel_values):
        return nn.functional.adaptive_avg_pool2d(pixel_values, (1, 2)).flatten(1) * 4


def halves(left, right):
    array = np.full((256, 256), left, np.uint8)
    array[:, 128:] = right
    return PIL.Image.fromarray(array)


def classifier_of(network, label_names, thresholds=None):
    """A classifier whose logits `network` gives for pixels in [-1, 1]."""
    return XrayClassifier(network, 256, (-1, 1), nn.Identity(), label_names, thresholds)


REAL = [halves(200, 50), halves(200, 60), halves(40, 70), halves(50, 210)]
GENERATED = [halves(190, 20), halves(90, 150), halves(10, 80), halves(60, 180)]


def test_scores_equal_those_of_scikit_learn():
    classifier = classifier_of(Halves(), ["left", "right"], [0.5, 0.5])
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
    classifier = classifier_of(Halves(), ["left", "right"], [0.5, 0.999])
    scores = ImageLabels(classifier).compute(predictions=GENERATED, references=REAL)
    assert np.isnan(scores["f1_right"]) and np.isnan(scores["auroc_right"]) and scores["classes"] == 1


def test_images_against_themselves_score_one_in_any_order():
    metric = ImageLabels(classifier_of(Halves(), ["left", "right"], [0.5, 0.5]))
    units = metric.prepare(REAL, REAL)
    assert units[0].shape == (2, 2)
    assert metric.aggregate(units)["f1_macro"] == metric.aggregate(units)["auroc_micro"] == 1
    np.testing.assert_equal(metric.aggregate(units[::-1]), metric.aggregate(units))


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
    classifier = load_classifier(str(tmp_path))
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
    classifier = classifier_of(Greys(), ["viral", "normal", "bacterial"], [0.5] * 3)
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
        PneumoniaOfImages(classifier_of(Halves(), ["left", "right"], [0.5, 0.5]))
