import numpy as np
import pytest
from nltk.translate.meteor_score import single_meteor_score

from transformers_cxr.evaluation.metrics.meteor import Meteor
from transformers_cxr.evaluation.metrics.text_overlap import tokenize

from .conftest import PREDICTIONS, REFERENCES


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


# What METEOR 1.5, run by pycocoevalcap 1.2, printed for PREDICTIONS and an empty report for "Clear lungs.": the counts
# of each report (0 for the last matchers), the scores of the reports, and that of the corpus.
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
    with pytest.raises(OSError, match="'java' is not on the PATH.*variant 'stem'"):
        Meteor("1.5").prepare(PREDICTIONS, REFERENCES)
