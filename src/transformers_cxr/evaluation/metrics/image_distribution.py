"""Distances between the distributions of generated and real images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np
import torch

from .image_features import ImageFeatures
from .metric import IMAGE_PAIRS, CxrMetric, Measurement, Score

try:
    from prdc import compute_prdc
    from torchmetrics.image.kid import poly_mmd
except ImportError as error:
    raise ImportError("KID, precision and recall of images need `pip install transformers-cxr[evaluate]`.") from error


class ImageDistribution(CxrMetric):
    """
    Distances between the distributions of generated and real images in a feature space (arXiv 2305.11490, table 6).

    - `fid`: Fréchet distance (Heusel et al. 2017, arXiv 1706.08500), at least 0, lower is better. It is biased upwards
      for few images; values for different feature spaces or different numbers of images cannot be compared.
    - `kid`: squared maximum mean discrepancy with a cubic kernel (Bińkowski et al. 2018, arXiv 1801.01401), over all
      pairs of images instead of random subsets, lower is better. It is unbiased, so it may be slightly negative.
    - `precision`, `recall` (Kynkäänniemi et al. 2019, arXiv 1904.06991), `density`, `coverage` (Naeem et al. 2020,
      arXiv 2002.09797): with `nearest_k` nearest neighbors; in [0, 1], density at least 0, higher is better.

    NaN for too few images: the distances need two, the others `nearest_k` + 2. A duplicate would be its own nearest
    neighbor, so intervals use [`bootstrap`] with `distinct=True`.

    A unit is a `np.ndarray` of shape `(2, num_features)`: the features of the generated and of the real image.

    Args:
        features ([`ImageFeatures`]):
            The feature space, see [`load_image_features`].
        nearest_k (`int`, *optional*, defaults to 5):
            Number of nearest neighbors that define the neighborhood of an image.
    """

    FEATURES = IMAGE_PAIRS
    DISTINCT = True
    SCORES = {
        "fid_ratio": Score(
            "Fréchet distance ratio",
            "Fréchet distance divided by that of the X-rays, encoded and decoded, which is the limit of the image "
            "tokenizer. 1: as good as these.",
            higher_is_better=False,
        ),
        "fid": Score(
            "Fréchet distance",
            "Distance of the distributions of generated and real X-rays in a feature space, at least 0. It is too "
            "high for few images: compare only equal numbers.",
            higher_is_better=False,
        ),
        "kid": Score(
            "Kernel distance", "Like the Fréchet distance, but not too high for few images.", higher_is_better=False
        ),
        "precision": Score("Precision", "Share of the generated X-rays that are close to a real one."),
        "recall": Score("Recall", "Share of the real X-rays that are close to a generated one."),
        "density": Score("Density", "Like precision, but outliers count less; may be above 1."),
        "coverage": Score("Coverage", "Share of the real X-rays with a generated one as a near neighbor."),
    }

    def __init__(self, features: ImageFeatures, nearest_k: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.image_features = features
        self.nearest_k = nearest_k

    def prepare(self, predictions: Sequence, references: Sequence) -> list[np.ndarray]:
        return list(np.stack([self.image_features(predictions), self.image_features(references)], axis=1))

    def aggregate(self, units: Sequence[np.ndarray]) -> dict[str, float]:
        generated, real = np.stack(units, axis=1)
        scores = dict.fromkeys(("fid", "kid", "precision", "recall", "density", "coverage"), float("nan"))
        if len(units) >= 2:
            scores["fid"] = frechet_distance(generated, real)
            scores["kid"] = poly_mmd(torch.from_numpy(real).double(), torch.from_numpy(generated).double()).item()
        if len(units) > self.nearest_k + 1:
            # compute_prdc prints.
            with redirect_stdout(io.StringIO()):
                scores |= compute_prdc(real, generated, self.nearest_k)
        return {name: float(value) for name, value in scores.items()}

    def measure(
        self, predictions: Sequence, references: Sequence, prefix: str = "", reconstructed: Sequence | None = None
    ) -> Measurement:
        """
        Return the [`Measurement`] of `prepare`. With reconstructions of the real images by the VQ-GAN it also has
        their scores, with the prefix "reconstructed_", and `fid_ratio`, the ratio of both Fréchet distances.
        """
        if not reconstructed:
            return super().measure(predictions, references, prefix)
        features = self.image_features(reconstructed)
        units = [
            np.stack([generated, real, own])
            for (generated, real), own in zip(self.prepare(predictions, references), features)
        ]

        def aggregate(units: Sequence[np.ndarray]) -> dict[str, float]:
            scores = self.aggregate([unit[[0, 1]] for unit in units])
            best = self.aggregate([unit[[2, 1]] for unit in units])
            ratio = scores["fid"] / best["fid"] if best["fid"] > 0 else float("nan")
            return scores | {f"reconstructed_{name}": value for name, value in best.items()} | {"fid_ratio": ratio}

        return Measurement(units, aggregate, prefix, self.DISTINCT)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """
    Compute the Fréchet distance of the normal distributions of two sets of features (Heusel et al. 2017, equation 6).

    The trace of the square root of the product of the covariances equals the sum of the singular values of the product
    of the centered features. This is exact, avoids the square root of a matrix that is singular for few images, and is
    fast enough for a bootstrap.

    Args:
        first, second (`np.ndarray` of shapes `(num_first, num_features)` and `(num_second, num_features)`):
            Features of at least two images each.
    """
    factors, traces = [], 0.0
    for features in (first, second):
        centered = (features - features.mean(axis=0, dtype=np.float64)) / np.sqrt(len(features) - 1)
        traces += (centered**2).sum()
        # The triangular factor has the same singular values.
        factors.append(np.linalg.qr(centered, mode="r") if len(centered) > centered.shape[1] else centered)
    mean_distance = ((first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)) ** 2).sum()
    shared = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    return float(mean_distance + traces - 2 * shared)
