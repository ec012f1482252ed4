import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn

from transformers_cxr.classifiers import XrayClassifier
from transformers_cxr.evaluation.metrics import ImageLabels, ImagePneumoniaAccuracy


def classifier_of(rows, columns, label_names, thresholds=None):
    """A classifier whose logits are the mean gray values, in [-4, 4], of the parts of an image."""

    def backbone(pixel_values):
        return nn.functional.adaptive_avg_pool2d(pixel_values, (rows, columns)).flatten(1) * 4

    classifier = XrayClassifier(nn.Identity(), 256, (-1, 1), nn.Identity(), label_names, thresholds)
    classifier.backbone = type("Parts", (nn.Module,), {"forward": lambda self, pixels: backbone(pixels)})()
    return classifier


def image_of(parts):
    """An image of equal parts with these gray values."""
    array = np.repeat(np.repeat(np.array(parts, np.uint8), 256 // len(parts), 0), 256 // len(parts[0]), 1)
    return PIL.Image.fromarray(array)


REAL = [image_of([values]) for values in ((200, 50), (200, 60), (40, 70), (50, 210))]
GENERATED = [image_of([values]) for values in ((190, 20), (90, 150), (10, 80), (60, 180))]


def test_scores_equal_those_of_scikit_learn():
    metric = ImageLabels(classifier_of(1, 2, ["left", "right"], [0.5, 0.5]))
    scores = metric.compute(predictions=GENERATED, references=REAL)
    generated, real = (np.array([np.asarray(i)[0, [0, -1]] for i in images], float) for images in (GENERATED, REAL))
    # The probability of middle gray, 127.5, is one half.
    for average in ("micro", "macro", "weighted"):
        assert scores[f"f1_{average}"] == pytest.approx(f1_score(real > 127.5, generated > 127.5, average=average))
        assert scores[f"auroc_{average}"] == pytest.approx(roc_auc_score(real > 127.5, generated, average=average))
    assert scores["auroc_left"] == pytest.approx(roc_auc_score(real[:, 0] > 127.5, generated[:, 0]))
    assert metric.compute(predictions=REAL, references=REAL)["f1_macro"] == 1


def test_thresholds_are_applied_and_an_absent_class_is_nan():
    metric = ImageLabels(classifier_of(1, 2, ["left", "right"], [0.5, 0.999]))
    scores = metric.compute(predictions=GENERATED, references=REAL)
    assert np.isnan(scores["f1_right"]) and np.isnan(scores["auroc_right"]) and scores["classes"] == 1


def test_exclusive_labels_are_the_most_probable_ones():
    metric = ImageLabels(classifier_of(1, 2, ["left", "right"]))
    generated, real = torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([[0.8, 0.2], [0.7, 0.3]])
    assert metric.aggregate(metric.units_of(generated, real))["f1_micro"] == 0.5


def test_pneumonia_of_an_image_is_compared_with_its_report():
    metric = ImagePneumoniaAccuracy(classifier_of(4, 1, ["viral", "normal", "bacterial", ""]))
    reports = ["Normal chest X-ray."] * 3 + ["Bacterial pneumonia."] * 2 + ["Viral pneumonia.", "A hernia."]
    # Viral, normal, bacterial.
    grays = [(10, 200, 20)] * 2 + [(200, 100, 20)]
    grays += [(10, 20, 200), (50, 200, 60), (50, 10, 60), (10, 10, 200)]
    images = [image_of([[gray] for gray in (*each, 0)]) for each in grays]
    # Normal 2 of 3, pneumonia 2 of 3; bacterial 2 of 2 (60 is above 50), viral 0 of 1. The hernia is left out.
    expected = {"finding_balanced_accuracy": 2 / 3, "etiology_balanced_accuracy": 0.5}
    assert metric.compute(predictions=images, references=reports) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"\['bacterial', 'normal', 'viral'\], got one of \['left', 'right'\]"):
        ImagePneumoniaAccuracy(classifier_of(1, 2, ["left", "right"]))
