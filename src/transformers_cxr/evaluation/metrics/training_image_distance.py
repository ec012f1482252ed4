"""Distance of generated images to the nearest training image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .image_features import ImageFeatures
from .metric import IMAGE_PAIRS, CxrMetric, Score


class TrainingImageDistance(CxrMetric):
    """
    Whether generated images are copies of training images: Euclidean distance to the nearest training image in a
    feature space, of generated images and, as the value without memorization, of real images that were not trained on.

    - `nearest_distance`, `nearest_distance_real`: medians.
    - `closer_than_real`: probability that a generated image is closer to its nearest training image than a real image
      to its nearest one; a tie counts half; 0.5 without memorization, 1 for copies (Meehan et al. 2020, arXiv
      2004.05675).
    - `share_below_real`: share of the generated images that are closer than the closest real image.

    A unit is a `np.ndarray` of shape `(2,)`: the distances of the generated and of the real image.

    Args:
        features ([`ImageFeatures`]):
            The feature space.
        training_images (`Sequence`):
            The images that the model was trained on. Unreadable ones are named and left out.
    """

    FEATURES = IMAGE_PAIRS
    SCORES = {
        "nearest_distance_real": Score(
            "Distance of real X-rays to training images",
            "Median distance of a held-out real X-ray to the nearest training image.",
            higher_is_better=None,
        ),
        "nearest_distance": Score(
            "Distance to training images",
            "Median distance of a generated X-ray to the nearest training image.",
            higher_is_better=None,
        ),
        "closer_than_real": Score(
            "Closer to training images than real",
            "Probability that a generated X-ray is closer to the training images than a held-out real one. 0.5 "
            "without memorization, 1 for copies.",
            higher_is_better=False,
        ),
        "share_below_real": Score(
            "Closest to training images",
            "Share of the generated X-rays that are closer to a training image than every held-out real one; 0 "
            "without copies.",
            higher_is_better=False,
        ),
    }

    def __init__(self, features: ImageFeatures, training_images: Sequence, **kwargs):
        super().__init__(**kwargs)
        self.image_features = features
        self.training_features = features(training_images, skip_unreadable=True)

    def prepare(self, predictions: Sequence, references: Sequence) -> list[np.ndarray]:
        training, nearest = torch.from_numpy(self.training_features).double(), []
        for images in (predictions, references):
            features = torch.from_numpy(self.image_features(images)).double()
            # In parts: all distances to a large training set would not fit into memory.
            nearest.append(torch.cat([torch.cdist(part, training).amin(dim=1) for part in features.split(16)]))
        return list(torch.stack(nearest, dim=1).numpy())

    def aggregate(self, units: Sequence[np.ndarray]) -> dict[str, float]:
        generated, real = np.stack(units).T
        difference = real[None, :] - generated[:, None]
        return {
            "nearest_distance": float(np.median(generated)),
            "nearest_distance_real": float(np.median(real)),
            "closer_than_real": float((np.sign(difference) + 1).mean() / 2),
            "share_below_real": float((generated < real.min()).mean()),
        }
