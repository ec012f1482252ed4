"""Whether generated images show the pneumonia of the label-derived reports that they were generated from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Features, Image, Value

from ...classifiers import XrayClassifier
from ...reports.statements import etiology_of_report, finding_of_report
from .report_pneumonia_accuracy import ReportPneumoniaAccuracy


class ImagePneumoniaAccuracy(ReportPneumoniaAccuracy):
    """
    Balanced accuracies of [`ReportPneumoniaAccuracy`], with the prediction of a classifier for the generated image and
    the statement of the report that it was generated from as reference. An image is "pneumonia" if "normal" is not its
    most probable class, and "bacterial" or "viral", whichever of the two is more probable. For real images these are
    the accuracies of the classifier itself.

    Args:
        classifier ([`XrayClassifier`]):
            Classifier of the three classes "normal", "bacterial" and "viral", as trained by
            `examples/train_classifier.py`.

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

    def prepare(self, predictions: Sequence, references: Sequence[str]) -> list[dict[str, tuple]]:
        return self.units_of(self.classifier.probabilities(predictions), references)

    def units_of(self, probabilities: torch.FloatTensor, references: Sequence[str]) -> list[dict[str, tuple]]:
        """Return the units of images from their probabilities, of shape `(num_images, 3)`."""
        units = []
        for row, reference in zip(probabilities.tolist(), references):
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
