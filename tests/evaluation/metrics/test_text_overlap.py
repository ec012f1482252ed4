import math

import pytest
from nltk.translate.bleu_score import corpus_bleu

from transformers_cxr.evaluation.metrics.text_overlap import TextOverlap, tokenize

from .conftest import PREDICTIONS, REFERENCES


def test_tokens_are_lower_case_words_without_punctuation():
    assert tokenize("FINDINGS: The heart (2.5 cm)\nis enlarged. It's mild; stable.") == (
        ["findings", "the", "heart", "2.5", "cm", "is", "enlarged", "it", "'s", "mild", "stable"]
    )
    assert tokenize("") == []


def test_bleu_equals_that_of_nltk():
    scores = TextOverlap().compute(predictions=PREDICTIONS, references=REFERENCES)
    given, wanted = list(map(tokenize, PREDICTIONS)), [[tokenize(report)] for report in REFERENCES]
    for n in range(1, 5):
        assert scores[f"bleu_{n}"] == pytest.approx(corpus_bleu(wanted, given, weights=[1 / n] * n), rel=1e-6)


def test_rouge_l_equals_a_hand_computed_case():
    # "lungs clear" of "the lungs are clear": precision 1, recall 1/2.
    score = TextOverlap().compute(predictions=["lungs clear"], references=["The lungs are clear."])["rouge_l"]
    assert score == pytest.approx((1 + 1.2**2) * 0.5 / (0.5 + 1.2**2))


def test_reports_against_themselves_score_highest_and_empty_ones_zero():
    scores = TextOverlap().compute(predictions=REFERENCES, references=REFERENCES)
    assert scores == pytest.approx({"bleu_1": 1, "bleu_2": 1, "bleu_3": 1, "bleu_4": 1, "rouge_l": 1, "cider": 10})
    scores = TextOverlap().compute(predictions=["", ""], references=REFERENCES[:2])
    assert list(scores.values()) == pytest.approx([0] * len(scores), abs=1e-6)
    # CIDEr weighs words by the other references.
    assert math.isnan(TextOverlap().compute(predictions=["clear lungs"], references=["clear lungs"])["cider"])
    scores = TextOverlap().compute(predictions=["clear", "clear"], references=["", ""])
    assert math.isnan(scores["cider"]) and scores["rouge_l"] == 0
