"""Whether generated reports state the pneumonia of label-derived reference reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from datasets import Features, Value

from ...reports.statements import etiology_of_report, finding_of_report
from .metric import CxrMetric


class ReportPneumoniaAccuracy(CxrMetric):
    """
    Balanced accuracy of "normal" or "pneumonia" (`finding_balanced_accuracy`) and of "bacterial" or "viral"
    (`etiology_balanced_accuracy`): the mean over the classes of the share of their reports whose prediction states the
    class. References that state no class are left out; predictions that state none are wrong. The rules of
    `transformers_cxr.reports.statements` read both; they are exact for label-derived reports.

    A unit is a `dict` of pairs of a reference and a predicted class.
    """

    FEATURES = Features({"predictions": Value("string"), "references": Value("string")})

    def prepare(self, predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, tuple]]:
        readers = {"finding": finding_of_report, "etiology": etiology_of_report}
        return [
            {name: (read(reference), read(prediction)) for name, read in readers.items()}
            for prediction, reference in zip(predictions, references)
        ]

    def aggregate(self, units: Sequence[dict[str, tuple]]) -> dict[str, float]:
        return {
            f"{name}_balanced_accuracy": _balanced_accuracy([unit[name] for unit in units])
            for name in ("finding", "etiology")
        }


def _balanced_accuracy(pairs: list[tuple[str | None, str | None]]) -> float:
    correct = defaultdict(list)
    for reference, prediction in pairs:
        if reference is not None:
            correct[reference].append(prediction == reference)
    return float(np.mean([np.mean(values) for values in correct.values()])) if correct else float("nan")
