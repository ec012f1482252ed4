"""
Corruptions of X-rays in five levels, after Hendrycks and Dietterich (arXiv 1903.12261). They are applied after the
image processor, so that a level means the same for every original size.
"""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import torch

try:
    from scipy import ndimage
except ImportError as error:
    raise ImportError("The task robustness needs `pip install transformers-cxr[evaluate]`.") from error


def exposure(gray: np.ndarray, gamma: float, rng: np.random.Generator) -> np.ndarray:
    """Apply a gamma, darker or brighter with equal probability, as a wrong dose or window does."""
    return gray ** (gamma if rng.random() < 0.5 else 1 / gamma)


def noise(gray: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise; its standard deviation is a share of the value range."""
    return gray + sigma * rng.standard_normal(gray.shape)


def blur(gray: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Apply a Gaussian blur; its standard deviation is in pixels of an image of 256 pixels."""
    return ndimage.gaussian_filter(gray, sigma * gray.shape[0] / 256, mode="nearest")


def rotation(gray: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Rotate to a random side; the corners become black."""
    return ndimage.rotate(gray, degrees * rng.choice((-1, 1)), reshape=False, order=1, mode="constant", cval=0.0)


def crop(gray: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Enlarge a random square that has this share of the side."""
    side = round(gray.shape[0] * share)
    top, left = rng.integers(gray.shape[0] - side + 1, size=2)
    part = PIL.Image.fromarray(gray[top : top + side, left : left + side].astype(np.float32))
    return np.asarray(part.resize(gray.shape[::-1], PIL.Image.Resampling.BICUBIC), dtype=np.float64)


def inversion(gray: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Blend with the negative; a share of 1 is a MONOCHROME1 image read as MONOCHROME2."""
    return (1 - share) * gray + share * (1 - gray)


def jpeg(gray: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    """Compress as JPEG."""
    file = io.BytesIO()
    PIL.Image.fromarray((gray * 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(file), dtype=np.float64) / 255


# The function of each corruption, and its parameter at levels 1 to 5.
CORRUPTIONS = {
    "exposure": (exposure, (1.25, 1.6, 2.0, 2.5, 3.2)),
    "noise": (noise, (0.02, 0.04, 0.08, 0.12, 0.18)),
    "blur": (blur, (0.5, 1.0, 2.0, 3.0, 5.0)),
    "rotation": (rotation, (3, 7, 15, 30, 45)),
    "crop": (crop, (0.95, 0.9, 0.8, 0.7, 0.6)),
    "inversion": (inversion, (0.25, 0.4, 0.6, 0.75, 1.0)),
    "jpeg": (jpeg, (60, 40, 20, 10, 5)),
}


def corrupt(pixel_values: torch.FloatTensor, name: str, level: int, seed: int = 0) -> torch.FloatTensor:
    """
    Corrupt a square image.

    Args:
        pixel_values (`torch.FloatTensor` of shape `(channels, size, size)`):
            An image in [-1, 1]; its channels are averaged.
        name (`str`):
            A key of `CORRUPTIONS`.
        level (`int`):
            From 1 (slight) to 5; 0 changes nothing.
        seed (`int`, *optional*, defaults to 0):
            Seed of noise, directions and places.

    Returns:
        `torch.FloatTensor` of shape `(channels, size, size)`: the image in [-1, 1], with equal channels.
    """
    if level == 0:
        return pixel_values
    gray = ((pixel_values.mean(dim=0).double().cpu().numpy() + 1) / 2).clip(0, 1)
    function, parameters = CORRUPTIONS[name]
    corrupted = function(gray, parameters[level - 1], np.random.default_rng(seed)).clip(0, 1)
    return torch.from_numpy(corrupted * 2 - 1).to(pixel_values).expand_as(pixel_values).clone()
