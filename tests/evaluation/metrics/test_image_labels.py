import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn

from transformers_cxr.classifiers import XrayClassifier
from transformers_cxr.evaluation.metrics import ImageLabels


class Halves(nn.Module):
    """The mean gray values, in [-4, 4], of both halves of an image."""

    def forward(self, pixel_values):
        return nn.functional.adaptive_avg_pool2d(pixel_values, (1, 2)).flatten(1) * 4


def metric_of(thresholds):
    return ImageLabels(XrayClassifier(Halves(), 256, (-1, 1), nn.Identity(), ["left", "right"], thresholds))


def images_of(halves):
    return [PIL.Image.fromarray(np.repeat([values], 128, axis=1).repeat(256, axis=0)) for values in halves]


REAL = np.array([(200, 50), (200, 60), (40, 70), (50, 210)], np.uint8)
GENERATED = np.array([(190, 20), (90, 150), (10, 80), (60, 180)], np.uint8)


def test_scores_equal_those_of_scikit_learn():
    metric = metric_of([0.5, 0.5])
    scores = metric.compute(predictions=images_of(GENERATED), references=images_of(REAL))
    # The probability of middle gray, 127.5, is one half.
    assert scores["f1_macro"] == pytest.approx(f1_score(REAL > 127.5, GENERATED > 127.5, average="macro"))
    assert scores["auroc_micro"] == pytest.approx(roc_auc_score(REAL > 127.5, GENERATED, average="micro"))
    assert scores["auroc_left"] == pytest.approx(roc_auc_score(REAL[:, 0] > 127.5, GENERATED[:, 0]))
    scores = metric_of([0.5, 0.999]).compute(predictions=images_of(GENERATED), references=images_of(REAL))
    assert np.isnan(scores["f1_right"]) and scores["classes"] == 1


def test_exclusive_labels_are_the_most_probable_ones():
    metric = metric_of(None)
    units = metric.prepare(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([[0.8, 0.2], [0.7, 0.3]]))
    assert metric.aggregate(units)["f1_micro"] == 0.5
