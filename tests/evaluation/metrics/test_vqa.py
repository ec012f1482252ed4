import math

import pytest

from transformers_cxr.evaluation.metrics.vqa import VqaAccuracy


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
            # "no clear lungs" and "yes effusion" share no word; "left lower lobe" and "left upper lobe" share two of three.
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


def test_words_that_occur_twice_count_twice():
    scores = VqaAccuracy().compute(predictions=["left left lung"], references=references(("left lung", "")))
    assert scores["token_f1"] == pytest.approx(2 * 2 / 5)


def test_case_punctuation_and_articles_do_not_matter_and_a_missing_type_is_no_group():
    scores = VqaAccuracy().compute(predictions=["  The LEFT lung. "], references=references(("left lung", "")))
    assert scores["exact_match"] == scores["token_f1"] == 1
    assert set(scores) == {"exact_match", "yes_no_accuracy", "token_f1"}


def test_two_empty_answers_agree():
    assert VqaAccuracy().compute(predictions=[""], references=references(("", "")))["token_f1"] == 1
