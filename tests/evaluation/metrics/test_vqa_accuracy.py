import math

import pytest

from transformers_cxr.evaluation.metrics import VqaAccuracy


def test_scores_equal_a_hand_computed_case():
    scores = VqaAccuracy().compute(
        predictions=["Yes.", "No, clear lungs", "the left lower lobe", ""],
        references=["yes", "Yes, an effusion", "Left upper lobe", "right"],
    )
    # "no clear lungs" and "yes effusion" share no word, "left lower lobe" and "left upper lobe" two of three.
    expected = {"exact_match": 1 / 4, "yes_no_balanced_accuracy": 1 / 2, "token_f1": (1 + 0 + 2 / 3 + 0) / 4}
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "answer", "exact_match", "token_f1"),
    [("left left lung", "left lung", 0, 4 / 5), ("  The LEFT lung. ", "left lung", 1, 1), ("", "", 1, 1)],
)
def test_answers_are_compared_as_words(prediction, answer, exact_match, token_f1):
    scores = VqaAccuracy().compute(predictions=[prediction], references=[answer])
    assert math.isnan(scores.pop("yes_no_balanced_accuracy"))
    assert scores == pytest.approx({"exact_match": exact_match, "token_f1": token_f1})


def test_one_answer_to_all_yes_no_questions_scores_a_half():
    scores = VqaAccuracy().compute(predictions=["No."] * 4, references=["No.", "No.", "No.", "Yes."])
    assert scores["yes_no_balanced_accuracy"] == 0.5
