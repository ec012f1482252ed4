"""Accuracy of answers to questions about X-rays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..results.intervals import means
from .metric import CxrMetric, Score


class VqaAccuracy(CxrMetric):
    """
    Accuracy of answers against reference answers, in [0, 1], higher is better.

    - `exact_match`: share of the answers that equal their reference, ignoring case, punctuation and articles.
    - `yes_no_balanced_accuracy`: share of the answers that begin with the same word as their reference, as the mean
      over the references that begin with "yes" and those that begin with "no"; NaN without such references. One answer
      to all questions scores 0.5.
    - `token_f1`: mean F1 of the words that an answer shares with its reference (Rajpurkar et al. 2016, arXiv
      1606.05250, section 6.1); 1 for two empty answers.

    A unit is a `dict` of the scores of an answer, the yes-no score under the word of its reference.
    """

    SCORES = {
        "exact_match": Score(
            "Exact match",
            "Share of the answers that equal their reference, ignoring case, punctuation and articles.",
            chance=0,
        ),
        "yes_no_balanced_accuracy": Score(
            "Yes or no",
            "Share of the right answers to questions whose answer is yes and to those whose answer is no, averaged. "
            "0.5 by chance, 1 is perfect.",
            chance=0.5,
        ),
        "token_f1": Score("Words of answers", "Mean F1 of the words that an answer shares with its reference."),
    }

    def prepare(self, predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
        units = []
        for prediction, reference in zip(map(_words, predictions), map(_words, references)):
            units.append(
                {
                    "exact_match": float(prediction == reference),
                    "token_f1": _token_f1(prediction, reference),
                }
                | {
                    word: float(prediction[:1] == [word]) if reference[:1] == [word] else float("nan")
                    for word in ("yes", "no")
                }
            )
        return units

    def aggregate(self, units: Sequence[dict[str, float]]) -> dict[str, float]:
        scores = super().aggregate(units)
        scores |= means([{"yes_no_balanced_accuracy": scores.pop(word)} for word in ("yes", "no")])
        return scores


def _words(text: str) -> list[str]:
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return [word for word in words if word not in ("a", "an", "the")]


def _token_f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction and not reference:
        return 1.0
    return 2 * (Counter(prediction) & Counter(reference)).total() / (len(prediction) + len(reference))
