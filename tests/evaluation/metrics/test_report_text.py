import math
from collections import Counter

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.meteor_score import single_meteor_score

from transformers_cxr.evaluation.metrics.report_text import Meteor, TextOverlap, tokenize

REFERENCES = [
    "Heart size is normal. No pleural effusion or pneumothorax.",
    "There is a small left pleural effusion.\nMild cardiomegaly.",
    "The lungs are clear.",
    "Right lower lobe consolidation, concerning for pneumonia.",
]
PREDICTIONS = [
    "The heart size is normal. No effusion or pneumothorax.",
    "There is a small right pleural effusion.",
    "The lungs are clear.",
    "There is no pneumonia.",
]


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


def cider_of(predictions: list[list[str]], references: list[list[str]]) -> list[float]:
    """CIDEr-D written from its paper (arXiv 1411.5726, equations 2, 3 and section 6)."""

    def grams(words, n):
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for given, wanted in zip(predictions, references):
        total = 0.0
        for n in range(1, 5):
            frequency = Counter(gram for reference in references for gram in grams(reference, n))
            frequency = {g: sum(g in grams(reference, n) for reference in references) for g in frequency}
            first, second = (
                {g: c * math.log(len(references) / max(1, frequency.get(g, 0))) for g, c in grams(words, n).items()}
                for words in (given, wanted)
            )
            norms = [math.sqrt(sum(v * v for v in weights.values())) for weights in (first, second)]
            if all(norms):
                shared = sum(min(first[g], second[g]) * second[g] for g in first if g in second)
                total += shared / (norms[0] * norms[1])
        total *= math.exp(-((len(given) - len(wanted)) ** 2) / (2 * 6**2))
        scores.append(10 * total / 4)
    return scores


def test_cider_equals_its_definition():
    units = TextOverlap().prepare(PREDICTIONS, REFERENCES)
    expected = cider_of(list(map(tokenize, PREDICTIONS)), list(map(tokenize, REFERENCES)))
    np.testing.assert_allclose([unit.cider for unit in units], expected, rtol=1e-9)
    assert expected[2] == pytest.approx(10)


def test_cider_of_one_report_is_not_defined():
    scores = TextOverlap().compute(predictions=["clear lungs"], references=["clear lungs"])
    assert math.isnan(scores["cider"]) and scores["bleu_2"] == pytest.approx(1)


def test_reports_against_themselves_score_highest_and_order_does_not_matter():
    metric = TextOverlap()
    scores = metric.compute(predictions=REFERENCES, references=REFERENCES)
    assert scores == pytest.approx({"bleu_1": 1, "bleu_2": 1, "bleu_3": 1, "bleu_4": 1, "rouge_l": 1, "cider": 10})
    units = metric.prepare(PREDICTIONS, REFERENCES)
    assert metric.aggregate(units[::-1]) == pytest.approx(metric.aggregate(units))


def test_empty_reports_score_zero():
    for metric in (TextOverlap(), Meteor()):
        scores = metric.compute(predictions=["", ""], references=REFERENCES[:2])
        assert list(scores.values()) == pytest.approx([0] * len(scores), abs=1e-6)
    scores = TextOverlap().compute(predictions=["clear", "clear"], references=["", ""])
    assert math.isnan(scores["cider"]) and scores["rouge_l"] == 0


class NoWordNet:
    def synsets(self, word):
        return []


def test_meteor_of_stems_is_the_mean_of_nltks_and_matches_inflections():
    expected = [
        single_meteor_score(tokenize(r), tokenize(p), wordnet=NoWordNet()) for p, r in zip(PREDICTIONS, REFERENCES)
    ]
    assert Meteor().compute(predictions=PREDICTIONS, references=REFERENCES)["meteor"] == pytest.approx(
        np.mean(expected)
    )
    # Two matches in one chunk: 1 - 0.5 * (1 / 2) ** 3.
    score = Meteor().compute(predictions=["small effusions"], references=["small effusion"])["meteor"]
    assert score == pytest.approx(1 - 0.5 / 8)


# What METEOR 1.5, run by pycocoevalcap 1.2, printed for PREDICTIONS and an empty report for "Clear lungs.": the counts of each
# report (those of the last matchers are 0), the scores of the reports, and that of the corpus.
METEOR_COUNTS = ["9 9 4 3 5 5 3 3", "7 9 3 3 3 3 3 3", "4 4 2 2 2 2 2 2", "4 7 3 1 1 1 0 0", "0 2 0 0 0 0 0 0"]
METEOR_CHUNKS = ["2 8 8", "2 6 6", "1 4 4", "1 1 1", "0 0 0"]
METEOR_SCORES = [0.47416089569293957, 0.3094657092202158, 1.0, 0.07038123167155425, 0.0]
METEOR_OF_CORPUS = 0.3123952989492748


def test_meteor_1_5_equals_what_pycocoevalcap_printed(monkeypatch):
    predictions, references = [*PREDICTIONS, ""], [*REFERENCES, "Clear lungs."]

    class MeteorOfJava:
        def _stat(self, hypothesis, references_of_report):
            number = [" ".join(tokenize(report)) for report in predictions].index(hypothesis)
            assert references_of_report == [" ".join(tokenize(references[number]))]
            return f"{METEOR_COUNTS[number]} {'0 ' * 12}{METEOR_CHUNKS[number]}"

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("pycocoevalcap.meteor.meteor.Meteor", MeteorOfJava)
    metric = Meteor("1.5")
    units = metric.prepare(predictions, references)
    assert metric.aggregate(units)["meteor"] == pytest.approx(METEOR_OF_CORPUS, abs=1e-12)
    assert [metric.aggregate([unit])["meteor"] for unit in units] == pytest.approx(METEOR_SCORES, abs=1e-12)


def test_without_java_meteor_1_5_names_the_variant_that_needs_none(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError, match="no 'java' on the PATH.*'stem' needs none"):
        Meteor("1.5").prepare(PREDICTIONS, REFERENCES)
