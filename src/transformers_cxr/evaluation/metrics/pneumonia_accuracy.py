"""Whether generated reports or images state the pneumonia of label-derived reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from datasets import Features, Image, Value

from ...classifiers import XrayClassifier
from ...reports.statements import etiology_of_report, finding_of_report
from .image_labels import probabilities_of
from .metric import CxrMetric, Score


class PneumoniaAccuracy(CxrMetric):
    """
    Balanced accuracy of "normal" or "pneumonia" (`finding_balanced_accuracy`) and of "bacterial" or "viral"
    (`etiology_balanced_accuracy`): the mean over the classes of the share of their reports whose prediction states the
    class. References that state no class are left out; predictions that state none are wrong.

    Predictions are reports or, with a classifier, images that were generated from the reference reports. The rules of
    `transformers_cxr.reports.statements` read reports; they are exact for label-derived reports. An image is
    "pneumonia" if the classifier predicts "Pneumonia", otherwise "normal", and "bacterial" if it predicts "Bacterial
    Pneumonia", otherwise "viral". For real images these are the accuracies of the classifier itself.

    A unit is a `dict` of pairs of a reference and a predicted class.

    Args:
        classifier ([`XrayClassifier`], *optional*):
            Multi-label classifier with the labels "Pneumonia" and "Bacterial Pneumonia", as trained by
            `examples/train_classifier.py`.

    Raises:
        ValueError: the classifier lacks one of the labels.
    """

    LABELS = ("Pneumonia", "Bacterial Pneumonia")
    SCORES = {
        "finding_balanced_accuracy": Score(
            "Normal or pneumonia",
            "Share of the right outputs for normal references and for references with pneumonia, averaged (balanced "
            "accuracy). 0.5 by chance, 1 is perfect.",
            chance=0.5,
        ),
        "etiology_balanced_accuracy": Score(
            "Bacterial or viral",
            "Share of the right outputs for bacterial and for viral pneumonia, averaged. 0.5 by chance, 1 is perfect.",
            chance=0.5,
        ),
    }

    def __init__(self, classifier: XrayClassifier | None = None, **kwargs):
        if classifier is not None:
            if not set(self.LABELS) <= set(classifier.label_names):
                raise ValueError(
                    f"Expected a classifier with the labels {self.LABELS}, got one of {classifier.label_names}."
                )
            self.FEATURES = Features({"predictions": Image(), "references": Value("string")})
        super().__init__(**kwargs)
        self.classifier = classifier

    def prepare(self, predictions: Sequence, references: Sequence[str]) -> list[dict[str, tuple]]:
        if self.classifier is None:
            classes = [(finding_of_report(report), etiology_of_report(report)) for report in predictions]
        else:
            classes = self._classes_of_images(predictions)
        return [
            {
                "finding": (finding_of_report(reference), finding),
                "etiology": (etiology_of_report(reference), etiology),
            }
            for (finding, etiology), reference in zip(classes, references)
        ]

    def _classes_of_images(self, images: Sequence | torch.FloatTensor) -> list[tuple[str, str]]:
        predicted = self.classifier.predict(probabilities_of(self.classifier, images))
        columns = [self.classifier.label_names.index(name) for name in self.LABELS]
        return [
            ("pneumonia" if has_pneumonia else "normal", "bacterial" if is_bacterial else "viral")
            for has_pneumonia, is_bacterial in predicted[:, columns].tolist()
        ]

    def aggregate(self, units: Sequence[dict[str, tuple]]) -> dict[str, float]:
        scores = {}
        for name in ("finding", "etiology"):
            correct = defaultdict(list)
            for reference, prediction in (unit[name] for unit in units):
                if reference is not None:
                    correct[reference].append(prediction == reference)
            recalls = [np.mean(values) for values in correct.values()]
            scores[f"{name}_balanced_accuracy"] = float(np.mean(recalls)) if recalls else float("nan")
        return scores
