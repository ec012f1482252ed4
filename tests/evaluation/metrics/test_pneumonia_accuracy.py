import numpy as np
import pytest
import torch
from torch import nn

from transformers_cxr.classifiers import XrayClassifier
from transformers_cxr.evaluation.metrics import PneumoniaAccuracy

NORMAL, BACTERIAL, VIRAL, OTHER = "Normal chest X-ray.", "Bacterial pneumonia.", "Viral pneumonia.", "A hernia."


def classifier_of(label_names):
    return XrayClassifier(nn.Identity(), 256, (-1, 1), nn.Identity(), label_names, [0.5] * len(label_names))


def test_accuracy_of_reports_is_the_mean_over_the_classes():
    references = [NORMAL, NORMAL, NORMAL, BACTERIAL, VIRAL, OTHER]
    predictions = [NORMAL, NORMAL, VIRAL, BACTERIAL, "No pneumonia.", NORMAL]
    scores = PneumoniaAccuracy().compute(predictions=predictions, references=references)
    # Normal 2 of 3, pneumonia 1 of 2; bacterial 1 of 1, viral 0 of 1. The hernia is left out.
    expected = {"finding_balanced_accuracy": (2 / 3 + 1 / 2) / 2, "etiology_balanced_accuracy": 0.5}
    assert scores == pytest.approx(expected)
    scores = PneumoniaAccuracy().compute(predictions=[NORMAL], references=[OTHER])
    assert np.isnan(list(scores.values())).all()


def test_pneumonia_of_an_image_is_compared_with_its_report():
    metric = PneumoniaAccuracy(classifier_of(["Bacterial Pneumonia", "Adult", "Pneumonia"]))
    reports = [NORMAL] * 3 + [BACTERIAL] * 2 + [VIRAL, OTHER]
    rows = [(0.7, 0.9, 0.1)] * 2 + [(0.2, 0.1, 0.6)]
    rows += [(0.7, 0.1, 0.8), (0.6, 0.1, 0.4), (0.5, 0.9, 0.9), (0.1, 0.1, 0.1)]
    # Normal 2 of 3, pneumonia 2 of 3; bacterial 2 of 2, viral 0 of 1. The hernia is left out.
    expected = {"finding_balanced_accuracy": 2 / 3, "etiology_balanced_accuracy": 0.5}
    assert metric.aggregate(metric.prepare(torch.tensor(rows), reports)) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"'Bacterial Pneumonia'\), got one of \['Edema', 'Pneumonia'\]"):
        PneumoniaAccuracy(classifier_of(["Edema", "Pneumonia"]))
