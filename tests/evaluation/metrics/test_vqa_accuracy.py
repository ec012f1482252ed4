import math

import pytest

from transformers_cxr.evaluation.metrics.vqa_accuracy import VqaAccuracy


def references(*pairs):
    return [{"answer": answer, "question_type": question_type} for answer, question_type in pairs]


def test_scores_equal_a_hand_computed_case():
    scores = VqaAccuracy().compute(
        predictions=["Yes.", "No, clear lungs", "the left lower lobe", ""],
        references=references(
            ("yes", "presence"),
            ("Yes, an effusion", "presence"),
            ("Left upper lobe", "location"),
            ("right", "location"),
        ),
    )
    assert scores == pytest.approx(
        {
            "exact_match": 1 / 4,
            "yes_no_accuracy": 1 / 2,
            # "no clear lungs" and "yes effusion" share no word, "left lower lobe" and "left upper lobe" two of three.
            "token_f1": (1 + 0 + 2 / 3 + 0) / 4,
            "exact_match_presence": 1 / 2,
            "yes_no_accuracy_presence": 1 / 2,
            "token_f1_presence": 1 / 2,
            "count_presence": 2,
            "exact_match_location": 0,
            "yes_no_accuracy_location": math.nan,
            "token_f1_location": 1 / 3,
            "count_location": 2,
        },
        nan_ok=True,
    )


@pytest.mark.parametrize(
    ("prediction", "answer", "exact_match", "token_f1"),
    [("left left lung", "left lung", 0, 4 / 5), ("  The LEFT lung. ", "left lung", 1, 1), ("", "", 1, 1)],
)
def test_answers_are_compared_as_words(prediction, answer, exact_match, token_f1):
    scores = VqaAccuracy().compute(predictions=[prediction], references=references((answer, "")))
    assert math.isnan(scores.pop("yes_no_accuracy"))
    assert scores == pytest.approx({"exact_match": exact_match, "token_f1": token_f1})
