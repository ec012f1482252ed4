"""Accuracy of answers to questions about X-rays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from .metric import CxrMetric


class VqaAccuracy(CxrMetric):
    """
    Accuracy of answers against reference answers, in [0, 1], higher is better.

    - `exact_match`: share of the answers that equal their reference, ignoring case, punctuation and articles.
    - `yes_no_accuracy`: share of the answers that begin with the same word as their reference, among the references
      that begin with "yes" or "no"; NaN without such references.
    - `token_f1`: mean F1 of the words that an answer shares with its reference (Rajpurkar et al. 2016, arXiv
      1606.05250, section 6.1); 1 for two empty answers.

    A unit is a `dict` of the scores of an answer.
    """

    def prepare(self, predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
        units = []
        for prediction, reference in zip(map(_words, predictions), map(_words, references)):
            is_yes_no = reference[:1] in (["yes"], ["no"])
            units.append(
                {
                    "exact_match": float(prediction == reference),
                    "yes_no_accuracy": float(prediction[:1] == reference[:1]) if is_yes_no else float("nan"),
                    "token_f1": _token_f1(prediction, reference),
                }
            )
        return units


def _words(text: str) -> list[str]:
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return [word for word in words if word not in ("a", "an", "the")]


def _token_f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction and not reference:
        return 1.0
    return 2 * (Counter(prediction) & Counter(reference)).total() / (len(prediction) + len(reference))
