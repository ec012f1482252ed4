"""What reports say of pneumonia, read by rules: the measure of models of label-derived reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from datasets import Features, Value

from ..data.instructions import etiology_of_report, finding_of_report
from .metric import CxrMetric


class PneumoniaAgreement(CxrMetric):
    """
    Balanced accuracy of "normal" or "pneumonia" (`finding_balanced_accuracy`) and of "bacterial" or "viral"
    (`etiology_balanced_accuracy`): the mean over the classes of the share of their studies whose report says so. Studies whose
    reference says neither are left out; a prediction that says neither is wrong. Both are read by the rules of
    `transformers_cxr.data.instructions`, which read every label-derived report right.
    """

    FEATURES = Features({"predictions": Value("string"), "references": Value("string")})

    def _units(self, predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, tuple]]:
        readers = {"finding": finding_of_report, "etiology": etiology_of_report}
        return [
            {name: (read(reference), read(prediction)) for name, read in readers.items()}
            for prediction, reference in zip(predictions, references)
        ]

    def aggregate(self, units: Sequence[dict[str, tuple]]) -> dict[str, float]:
        return {
            f"{name}_balanced_accuracy": _balanced_accuracy([u[name] for u in units])
            for name in ("finding", "etiology")
        }


def _balanced_accuracy(pairs: list[tuple[str | None, str | None]]) -> float:
    right = defaultdict(list)
    for reference, prediction in pairs:
        if reference is not None:
            right[reference].append(prediction == reference)
    return float(np.mean([np.mean(values) for values in right.values()])) if right else float("nan")
