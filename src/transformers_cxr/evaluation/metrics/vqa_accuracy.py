"""Accuracy of answers to questions about X-rays."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from datasets import Features, Value

from .metric import CxrMetric


class VqaAccuracy(CxrMetric):
    """
    Accuracy of answers against reference answers, over all questions and over the questions of each type.

    - `exact_match`: share of the answers that equal their reference, ignoring case, punctuation and articles.
    - `yes_no_accuracy`: share of the questions whose answer begins with the same word as the reference, among the
      questions whose reference begins with "yes" or "no"; NaN without such questions.
    - `token_f1`: mean F1 of the words that an answer shares with its reference (Rajpurkar et al. 2016, arXiv
      1606.05250, section 6.1); 1 for two empty answers.

    Each also with the suffix `_{question type}`, and `count_{question type}`. All but the counts are in [0, 1], higher
    is better. References are `{"answer": ..., "question_type": ...}`; the type may be "". A unit is the type and the
    three scores of a question.
    """

    FEATURES = Features(
        {
            "predictions": Value("string"),
            "references": {"answer": Value("string"), "question_type": Value("string")},
        }
    )

    def prepare(self, predictions: Sequence[str], references: Sequence[dict]) -> list[tuple[str, float, float, float]]:
        units = []
        for prediction, reference in zip(predictions, references):
            given, wanted = _words(prediction), _words(reference["answer"])
            yes_no = float(given[:1] == wanted[:1]) if wanted[:1] in (["yes"], ["no"]) else float("nan")
            units.append((reference["question_type"], float(given == wanted), yes_no, _token_f1(given, wanted)))
        return units

    def aggregate(self, units: Sequence[tuple[str, float, float, float]]) -> dict[str, float]:
        of_type = defaultdict(list)
        for question_type, *values in units:
            of_type[question_type].append(values)
        scores = _means([values for group in of_type.values() for values in group], "")
        for question_type, group in sorted(of_type.items()):
            if question_type:
                scores |= _means(group, f"_{question_type}") | {f"count_{question_type}": float(len(group))}
        return scores


def _means(values: list[list[float]], suffix: str) -> dict[str, float]:
    columns = np.array(values).T
    names = ("exact_match", "yes_no_accuracy", "token_f1")
    means = [float(c[~np.isnan(c)].mean()) if not np.isnan(c).all() else float("nan") for c in columns]
    return {f"{name}{suffix}": mean for name, mean in zip(names, means)}


def _words(text: str) -> list[str]:
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return [word for word in words if word not in ("a", "an", "the")]


def _token_f1(given: list[str], wanted: list[str]) -> float:
    if not given and not wanted:
        return 1.0
    return 2 * (Counter(given) & Counter(wanted)).total() / (len(given) + len(wanted))
