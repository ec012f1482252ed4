"""Labels of generated images against those of real images, as predicted by a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...classifiers import XrayClassifier
from .classification import classification_scores
from .metric import IMAGE_PAIRS, CxrMetric, Score


class ImageLabels(CxrMetric):
    """
    F1, AUROC and Jaccard index of the labels that a classifier predicts for generated images against those that it
    predicts for the real images of the same reports (arXiv 2305.11490, table 4).

    The scores are `{f1, auroc, jaccard}_{micro, macro, weighted}`, `classes` and `{f1, auroc, jaccard}_{label}`, see
    [`classification_scores`]. AUROC is of the probabilities of the generated images. All are in [0, 1], higher is
    better.

    A unit is a `np.ndarray` of shape `(2, num_labels)`: the probabilities of the generated and of the real image.

    Args:
        classifier ([`XrayClassifier`]):
            The classifier, see [`load_classifier`].
    """

    FEATURES = IMAGE_PAIRS
    SCORES = {
        "f1_*": Score(
            "F1 of labels",
            "Harmonic mean of precision and recall of the labels that a classifier gives generated X-rays; its labels "
            "of the real ones are the reference. Averages: micro, over all pairs of X-ray and label; macro, the mean "
            "over the labels; weighted, their mean weighted by the number of references. 1 is perfect.",
            chance=0,
        ),
        "auroc_*": Score(
            "AUROC of labels",
            "Probability that the classifier scores a positive higher than a negative, averaged as F1. 0.5 by chance.",
            chance=0.5,
        ),
        "jaccard_*": Score(
            "Jaccard index of labels",
            "Labels of both X-rays as a share of those of either, averaged as F1. 1 is perfect.",
            chance=0,
        ),
        "classes": Score("Labels averaged", "Number of labels that a real X-ray has.", higher_is_better=None),
    }

    def __init__(self, classifier: XrayClassifier, **kwargs):
        super().__init__(**kwargs)
        self.classifier = classifier

    def prepare(self, predictions: Sequence, references: Sequence) -> list[np.ndarray]:
        probabilities = [probabilities_of(self.classifier, images) for images in (predictions, references)]
        return list(torch.stack(probabilities, dim=1).numpy())

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


def probabilities_of(classifier: XrayClassifier, images: Sequence | torch.FloatTensor) -> torch.FloatTensor:
    """Return probabilities of shape `(num_images, num_labels)`, for `prepare` as given or those of images."""
    return images if isinstance(images, torch.Tensor) else classifier.probabilities(images)
