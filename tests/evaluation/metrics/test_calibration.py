import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error

from transformers_cxr.evaluation.metrics import Calibration

NAN = float("nan")


def test_scores_equal_a_hand_computed_case():
    scores = Calibration().compute(
        predictions=[0.02, 0.08, 0.62, 0.68, 0.66, 1.0, NAN], references=[0, 1, 1, 1, 0, 1, NAN]
    )
    shares = {name: value for name, value in scores.items() if not np.isnan(value)}
    # Two examples whose mean probability is 0.05, three of 1.96 / 3, one of 1.
    expected = (2 * abs(1 / 2 - 0.05) + 3 * abs(2 / 3 - 1.96 / 3) + 0) / 6
    assert shares.pop("calibration_error") == pytest.approx(expected)
    assert shares == pytest.approx({"yes_share_0.05": 1 / 2, "yes_share_0.65": 2 / 3, "yes_share_0.95": 1})


def test_scores_are_those_of_torchmetrics_and_scikit_learn():
    rng = np.random.default_rng(0)
    probabilities = rng.random(1000)
    answers = (rng.random(1000) < probabilities**2).astype(float)
    scores = Calibration().compute(predictions=probabilities, references=answers)
    expected = binary_calibration_error(torch.tensor(probabilities), torch.tensor(answers).long(), n_bins=10)
    assert scores.pop("calibration_error") == pytest.approx(float(expected), abs=1e-6)
    assert list(scores.values()) == pytest.approx(list(calibration_curve(answers, probabilities, n_bins=10)[0]))


def test_without_yes_no_questions_nothing_is_defined():
    scores = Calibration().compute(predictions=[NAN], references=[NAN])
    assert len(scores) == 11 and np.isnan(list(scores.values())).all()


def test_a_value_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], got 1.5"):
        Calibration().compute(predictions=[0.5, 1.5], references=[0, 1])
