"""Scores of binary labels of several classes, with what is not defined as NaN."""

from __future__ import annotations

import numpy as np


def classification_scores(
    predicted: np.ndarray, reference: np.ndarray, scores: np.ndarray | None = None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """
    F1, AUROC and Jaccard index of each class and their averages.

    Args:
        predicted, reference (`np.ndarray` of shape `(num_studies, num_classes)` and dtype `bool`):
            Labels.
        scores (`np.ndarray` of shape `(num_studies, num_classes)`, *optional*):
            What AUROC is of, larger for positive; by default `predicted`, where AUROC is the mean of sensitivity and
            specificity.

    Returns:
        averages (`dict[str, float]`):
            `{f1, auroc, jaccard}_{micro, macro, weighted}` and `classes`. Micro is over all pairs of study and class, macro
            the mean over the classes, weighted their mean weighted by their positive references. Macro and weighted leave out
            classes whose number is NaN; `classes` counts those with a positive reference.
        per_class (`dict[str, np.ndarray]`):
            `f1`, `auroc` and `jaccard`, of shape `(num_classes,)`. F1 and Jaccard of a class without a positive reference are
            NaN (it is not known how well it is found), and AUROC of a class without a positive or without a negative one.
    """
    hits = (predicted & reference).sum(axis=0)
    misses = (predicted != reference).sum(axis=0)
    support = reference.sum(axis=0)
    if scores is None:
        false_alarms = misses - (support - hits)
        auroc = _auroc_of_hard_labels(hits, false_alarms, support, len(reference) - support)
        micro_auroc = _auroc_of_hard_labels(hits.sum(), false_alarms.sum(), support.sum(), (~reference).sum())
    else:
        auroc = np.array([_auroc(scores[:, i], reference[:, i]) for i in range(reference.shape[1])])
        micro_auroc = _auroc(scores.ravel(), reference.ravel())
    per_class = {
        "f1": _ratio(2 * hits, 2 * hits + misses, defined=support > 0),
        "auroc": auroc,
        "jaccard": _ratio(hits, hits + misses, defined=support > 0),
    }
    micro = {
        "f1": float(_ratio(2 * hits.sum(), 2 * hits.sum() + misses.sum(), defined=support.sum() > 0)),
        "auroc": float(micro_auroc),
        "jaccard": float(_ratio(hits.sum(), hits.sum() + misses.sum(), defined=support.sum() > 0)),
    }
    averages = {}
    for name, values in per_class.items():
        known = ~np.isnan(values)
        averages[f"{name}_micro"] = micro[name]
        averages[f"{name}_macro"] = float(values[known].mean()) if known.any() else float("nan")
        averages[f"{name}_weighted"] = (
            float(np.average(values[known], weights=support[known])) if known.any() else float("nan")
        )
    averages["classes"] = float((support > 0).sum())
    return averages, per_class


def _ratio(numerator, denominator, defined) -> np.ndarray:
    return np.where(defined, numerator / np.maximum(denominator, 1), np.nan)


def _auroc_of_hard_labels(hits, false_alarms, positives, negatives) -> np.ndarray:
    defined = (positives > 0) & (negatives > 0)
    return (_ratio(hits, positives, defined) + 1 - _ratio(false_alarms, negatives, defined)) / 2


def _auroc(scores: np.ndarray, reference: np.ndarray) -> float:
    """The probability that a positive scores higher than a negative, ties counted half (Mann and Whitney 1947)."""
    positives = int(reference.sum())
    negatives = len(reference) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[reference].sum() - positives * (positives + 1) / 2) / (positives * negatives))
