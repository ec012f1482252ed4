"""Scores of binary labels of several classes."""

from __future__ import annotations

import numpy as np


def classification_scores(
    predicted: np.ndarray, reference: np.ndarray, scores: np.ndarray | None = None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """
    Compute F1, AUROC and Jaccard index of each class, and their averages.

    Args:
        predicted, reference (`np.ndarray` of shape `(num_examples, num_classes)` and dtype `bool`):
            Labels.
        scores (`np.ndarray` of shape `(num_examples, num_classes)`, *optional*):
            Scores for AUROC, larger for positive. By default `predicted`, for which AUROC is the mean of sensitivity
            and specificity.

    Returns:
        averages (`dict[str, float]`):
            `{f1, auroc, jaccard}_{micro, macro, weighted}` and `classes`. Micro is over all pairs of example and
            class, macro is the mean over the classes, weighted their mean weighted by the number of positive
            references. Macro and weighted leave out classes whose score is NaN; `classes` counts the classes with a
            positive reference.
        per_class (`dict[str, np.ndarray]`):
            `f1`, `auroc` and `jaccard`, of shape `(num_classes,)`. F1 and Jaccard of a class without a positive
            reference are NaN, and so is the AUROC of a class without a positive or without a negative reference.
    """
    scores, support = predicted if scores is None else scores, reference.sum(axis=0)
    hits, errors = (predicted & reference).sum(axis=0), (predicted != reference).sum(axis=0)
    micro_hits, micro_errors, micro_support = hits.sum(), errors.sum(), support.sum()
    per_class = {
        "f1": _ratio(2 * hits, 2 * hits + errors, support),
        "auroc": np.array([_auroc(scores[:, i], reference[:, i]) for i in range(reference.shape[1])]),
        "jaccard": _ratio(hits, hits + errors, support),
    }
    micro = {
        "f1": _ratio(2 * micro_hits, 2 * micro_hits + micro_errors, micro_support),
        "auroc": _auroc(scores.ravel(), reference.ravel()),
        "jaccard": _ratio(micro_hits, micro_hits + micro_errors, micro_support),
    }
    averages = {}
    for name, values in per_class.items():
        known = ~np.isnan(values)
        averages[f"{name}_micro"] = float(micro[name])
        averages[f"{name}_macro"] = float(values[known].mean()) if known.any() else float("nan")
        averages[f"{name}_weighted"] = (
            float(np.average(values[known], weights=support[known])) if known.any() else float("nan")
        )
    return averages | {"classes": float((support > 0).sum())}, per_class


def _ratio(numerator, denominator, support) -> np.ndarray:
    return np.where(support > 0, numerator / np.maximum(denominator, 1), np.nan)


def _auroc(scores: np.ndarray, reference: np.ndarray) -> float:
    """Return the probability that a positive scores higher than a negative; a tie counts half."""
    positives = int(reference.sum())
    negatives = len(reference) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    if scores.dtype == bool:
        return float((scores[reference].mean() + 1 - scores[~reference].mean()) / 2)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[reference].sum() - positives * (positives + 1) / 2) / (positives * negatives))
