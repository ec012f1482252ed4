"""What reports and images say of pneumonia: the measures of models of label-derived reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from datasets import Features, Image, Value

from ...classifiers import XrayClassifier
from ...reports.statements import etiology_of_report, finding_of_report
from .metric import CxrMetric


class PneumoniaAgreement(CxrMetric):
    """
    Balanced accuracy of "normal" or "pneumonia" (`finding_balanced_accuracy`) and of "bacterial" or "viral"
    (`etiology_balanced_accuracy`): the mean over the classes of the share of their studies whose report says so. Studies whose
    reference says neither are left out; a prediction that says neither is wrong. Both are read by the rules of
    `transformers_cxr.data.conversations`, which read every label-derived report right.
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


class PneumoniaOfImages(PneumoniaAgreement):
    """
    Whether a classifier sees in an image what the report says that it was drawn from: the balanced accuracies of
    [`PneumoniaAgreement`]. An image is "pneumonia" where "normal" is not its most probable class, and "bacterial" or "viral",
    whichever of these two is more probable. Of real images these are the accuracies of the classifier itself.

    Args:
        classifier ([`XrayClassifier`]):
            Of the three classes "normal", "bacterial" and "viral", such as `examples/train_classifier.py` trains.

    Raises:
        ValueError: the classifier has other classes.
    """

    CLASSES = frozenset(("normal", "bacterial", "viral"))
    FEATURES = Features({"predictions": Image(), "references": Value("string")})

    def __init__(self, classifier: XrayClassifier, **kwargs):
        super().__init__(**kwargs)
        if set(classifier.label_names) != self.CLASSES:
            raise ValueError(
                f"Expected a classifier of the classes {sorted(self.CLASSES)}, got one of {classifier.label_names}."
            )
        self.classifier = classifier

    def _units(self, predictions: Sequence, references: Sequence[str]) -> list[dict[str, tuple]]:
        return self.units_of(self.classifier.probabilities(predictions), references)

    def units_of(self, probabilities: np.ndarray, references: Sequence[str]) -> list[dict[str, tuple]]:
        """The units of images whose probabilities, `(num_images, 3)`, the classifier has given before."""
        units = []
        for row, reference in zip(probabilities, references):
            probability = dict(zip(self.classifier.label_names, row))
            finding = "normal" if max(probability, key=probability.get) == "normal" else "pneumonia"
            etiology = max(("bacterial", "viral"), key=probability.get)
            units.append(
                {
                    "finding": (finding_of_report(reference), finding),
                    "etiology": (etiology_of_report(reference), etiology),
                }
            )
        return units


def _balanced_accuracy(pairs: list[tuple[str | None, str | None]]) -> float:
    right = defaultdict(list)
    for reference, prediction in pairs:
        if reference is not None:
            right[reference].append(prediction == reference)
    return float(np.mean([np.mean(values) for values in right.values()])) if right else float("nan")
