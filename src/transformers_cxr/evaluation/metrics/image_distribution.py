"""How the distribution of generated images compares with that of real ones: fidelity, diversity and memorisation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from itertools import combinations

import numpy as np
import torch
from datasets import Features, Image, List

from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from .image_features import ImageFeatures
from .metric import CxrMetric
from .reconstruction import image_distances

try:
    from prdc import compute_prdc
    from torchmetrics.image.kid import poly_mmd
except ImportError as error:
    raise ImportError("KID, precision and recall of images need `pip install transformers-cxr[evaluate]`.") from error


class ImageDistribution(CxrMetric):
    """
    Distances of the distributions of generated and real images in a feature space (arXiv 2305.11490, table 6).

    - `fid`: Fréchet distance (Heusel et al. 2017, arXiv 1706.08500), at least 0, lower is better. Biased upwards for few
      images; numbers of different feature spaces or numbers of images do not compare.
    - `kid`: squared maximum mean discrepancy with a cubic kernel (Bińkowski et al. 2018, arXiv 1801.01401), over all pairs of
      images rather than random subsets of them, lower is better. Unbiased, so it may be a little below 0.
    - `precision`, `recall` (Kynkäänniemi et al. 2019, arXiv 1904.06991), `density`, `coverage` (Naeem et al. 2020, arXiv
      2002.09797): with the `nearest_k` nearest neighbours; in [0, 1], density at least 0, higher is better.

    NaN where there are too few images: two for the distances, `nearest_k` + 2 for the others. An image that a set holds twice
    is its own nearest neighbour, so intervals are by [`bootstrap`] with `distinct=True`.

    A unit is a `np.ndarray` of shape `(2, num_features)`: the features of the generated and of the real image.

    Args:
        features ([`ImageFeatures`]):
            The feature space, see [`load_image_features`].
        nearest_k (`int`, *optional*, defaults to 5):
            Nearest neighbours of an image that its neighbourhood reaches to.
    """

    FEATURES = Features({"predictions": Image(), "references": Image()})

    def __init__(self, features: ImageFeatures, nearest_k: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.image_features = features
        self.nearest_k = nearest_k

    def _units(self, predictions: Sequence, references: Sequence) -> list[np.ndarray]:
        return list(np.stack([self.image_features(predictions), self.image_features(references)], axis=1))

    def aggregate(self, units: Sequence[np.ndarray]) -> dict[str, float]:
        generated, real = np.stack(units, axis=1)
        scores = dict.fromkeys(("fid", "kid", "precision", "recall", "density", "coverage"), float("nan"))
        if len(units) >= 2:
            scores["fid"] = frechet_distance(generated, real)
            scores["kid"] = poly_mmd(torch.from_numpy(real).double(), torch.from_numpy(generated).double()).item()
        if len(units) > self.nearest_k + 1:
            # It prints the numbers of images.
            with redirect_stdout(io.StringIO()):
                scores |= compute_prdc(real, generated, self.nearest_k)
        return {name: float(value) for name, value in scores.items()}


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """
    Fréchet distance of the normal distributions of two sets of features (Heusel et al. 2017, equation 6).

    The trace of the square root of the product of the covariances is the sum of the singular values of the product of the
    centred features: exact, without the square root of a matrix that is singular for few images, and quick enough to be
    repeated over resamples.

    Args:
        first, second (`np.ndarray` of shapes `(num_first, num_features)` and `(num_second, num_features)`):
            At least two rows each.

    Raises:
        ValueError: the numbers of features differ.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"Expected features of the same size, got {first.shape[1]} and {second.shape[1]}.")
    factors, traces = [], 0.0
    for features in (first, second):
        centred = (features - features.mean(axis=0, dtype=np.float64)) / np.sqrt(len(features) - 1)
        traces += (centred**2).sum()
        # The singular values are those of the triangular factors.
        factors.append(np.linalg.qr(centred, mode="r") if len(centred) > centred.shape[1] else centred)
    mean_distance = ((first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)) ** 2).sum()
    shared = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    return float(mean_distance + traces - 2 * shared)


class PromptDiversity(CxrMetric):
    """
    `ms_ssim`: the mean MS-SSIM (Wang et al. 2003) of the pairs of images that were drawn from one prompt, mean over the
    prompts; at most 1, lower is more diverse. NaN for prompts of fewer than two images. There are no references: a prediction
    is the list of images of a prompt. A unit is the number of a prompt.
    """

    FEATURES = Features({"predictions": List(Image())})

    def _units(self, predictions: Sequence[Sequence], references: None) -> list[float]:
        processor = LlmCxrImageProcessor(do_convert_rgb=False)
        units = []
        for images in predictions:
            if len(images) < 2:
                units.append(float("nan"))
                continue
            pixel_values = processor(list(images), return_tensors="pt").pixel_values
            first, second = map(list, zip(*combinations(range(len(images)), 2)))
            units.append(image_distances(pixel_values[first], pixel_values[second])["ms_ssim"].mean().item())
        return units

    def aggregate(self, units: Sequence[float]) -> dict[str, float]:
        known = [unit for unit in units if not np.isnan(unit)]
        return {"ms_ssim": float(np.mean(known)) if known else float("nan")}


class TrainingImageDistance(CxrMetric):
    """
    Whether generated images are copies of training images: Euclidean distances in a feature space to the nearest training
    image, of generated images and, as what to expect without memorisation, of real images that were not trained on.

    - `nearest_distance`, `nearest_distance_real`: medians.
    - `closer_than_real`: the probability that a generated image is closer to its nearest training image than a real one to its
      own, ties counted half; 0.5 without memorisation, 1 for copies (the test of Meehan et al. 2020, arXiv 2004.05675).
    - `share_below_real`: the share of the generated images that are closer than the closest real one.

    A unit is a `np.ndarray` of shape `(2, 2)`: distance and index of the nearest training image, of the generated and of the
    real image.

    Args:
        features ([`ImageFeatures`]):
            The feature space.
        training_images (`Sequence`):
            The images that the model was trained on.

    Raises:
        ValueError: there are no training images.
    """

    FEATURES = Features({"predictions": Image(), "references": Image()})

    def __init__(self, features: ImageFeatures, training_images: Sequence, **kwargs):
        super().__init__(**kwargs)
        if len(training_images) == 0:
            raise ValueError("Expected at least one training image, got none.")
        self.image_features = features
        self.training_features = features(training_images)

    def _units(self, predictions: Sequence, references: Sequence) -> list[np.ndarray]:
        nearest = [self._nearest(self.image_features(images)) for images in (predictions, references)]
        return list(np.stack(nearest, axis=1))

    def _nearest(self, features: np.ndarray) -> np.ndarray:
        training = torch.from_numpy(self.training_features).double()
        # A part at a time: the distances to all training images of a large set would fill the memory.
        distances = (torch.cdist(part, training) for part in torch.from_numpy(features).double().split(16))
        return torch.cat([torch.stack(part.min(dim=1), dim=1) for part in distances]).numpy()

    def aggregate(self, units: Sequence[np.ndarray]) -> dict[str, float]:
        generated, real = np.stack(units)[:, :, 0].T
        difference = real[None, :] - generated[:, None]
        return {
            "nearest_distance": float(np.median(generated)),
            "nearest_distance_real": float(np.median(real)),
            "closer_than_real": float((np.sign(difference) + 1).mean() / 2),
            "share_below_real": float((generated < real.min()).mean()),
        }
