import numpy as np
import pytest

from transformers_cxr.evaluation.metrics import ReportPneumoniaAccuracy

NORMAL, BACTERIAL, VIRAL = "Normal chest X-ray.", "Bacterial pneumonia.", "Viral pneumonia."


def test_accuracy_is_the_mean_over_the_classes():
    references = [NORMAL, NORMAL, NORMAL, BACTERIAL, VIRAL, "A hernia."]
    predictions = [NORMAL, NORMAL, VIRAL, BACTERIAL, "No pneumonia.", NORMAL]
    scores = ReportPneumoniaAccuracy().compute(predictions=predictions, references=references)
    # Normal 2 of 3, pneumonia 1 of 2; bacterial 1 of 1, viral 0 of 1. The hernia is left out.
    expected = {"finding_balanced_accuracy": (2 / 3 + 1 / 2) / 2, "etiology_balanced_accuracy": 0.5}
    assert scores == pytest.approx(expected)
    scores = ReportPneumoniaAccuracy().compute(predictions=[NORMAL], references=["A hernia."])
    assert np.isnan(list(scores.values())).all()
