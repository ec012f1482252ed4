"""Whether generated images show what the real ones of the same report show, as a classifier of X-rays sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Features, Image

from ...classifiers import XrayClassifier
from .classification import classification_scores
from .metric import CxrMetric


class ImageLabels(CxrMetric):
    """
    F1 and AUROC of the labels of generated images against those of real images, both given by a classifier (arXiv
    2305.11490, table 4).

    Names of the numbers are `{f1, auroc, jaccard}_{micro, macro, weighted}`, `classes` and `{f1, auroc,
    jaccard}_{label}`, see [`classification_scores`]. The reference is the label of the real image; AUROC is of the
    probability of the generated one. All are in [0, 1], higher is better. They say as much as the classifier is right.

    A unit is a `np.ndarray` of shape `(2, num_labels)`: the probabilities of the generated and of the real image.

    Args:
        classifier ([`XrayClassifier`]):
            What gives the labels.
    """

    FEATURES = Features({"predictions": Image(), "references": Image()})

    def __init__(self, classifier: XrayClassifier, **kwargs):
        super().__init__(**kwargs)
        self.classifier = classifier

    def _units(self, predictions: Sequence, references: Sequence) -> list[np.ndarray]:
        return self.units_of(*map(self.classifier.probabilities, (predictions, references)))

    @staticmethod
    def units_of(generated: np.ndarray, real: np.ndarray) -> list[np.ndarray]:
        """Return the units for given probabilities of shape `(num_images, num_labels)`."""
        return list(np.stack([generated, real], axis=1))

    def aggregate(self, units: Sequence[np.ndarray]) -> dict[str, float]:
        probabilities = np.stack(units)
        labels = self.classifier.predict(torch.from_numpy(probabilities)).numpy()
        averages, per_class = classification_scores(labels[:, 0], labels[:, 1], scores=probabilities[:, 0])
        for name, values in per_class.items():
            averages |= {
                f"{name}_{label.lower().replace(' ', '_')}": float(value)
                for label, value in zip(self.classifier.label_names, values)
            }
        return averages
