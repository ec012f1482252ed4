"""Graded corruptions of X-rays, after the image processor, so that a grade means the same for every original size."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import torch
from scipy import ndimage

LEVELS = (1, 2, 3, 4, 5)
# What a level means; level 0 is the image itself.
EXPOSURE_GAMMAS = (1.25, 1.6, 2.0, 2.5, 3.2)
NOISE_SIGMAS = (0.02, 0.04, 0.08, 0.12, 0.18)
BLUR_SIGMAS = (0.5, 1.0, 2.0, 3.0, 5.0)
ROTATION_DEGREES = (3, 7, 15, 30, 45)
CROP_SHARES = (0.95, 0.9, 0.8, 0.7, 0.6)
INVERSION_SHARES = (0.25, 0.4, 0.6, 0.75, 1.0)
JPEG_QUALITIES = (60, 40, 20, 10, 5)


def exposure(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A gamma, at even odds darker or brighter, as of a wrong dose or window."""
    gamma = EXPOSURE_GAMMAS[level - 1]
    return grey ** (gamma if rng.random() < 0.5 else 1 / gamma)


def noise(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise, its standard deviation a share of the range."""
    return grey + NOISE_SIGMAS[level - 1] * rng.standard_normal(grey.shape)


def blur(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian of so many pixels at 256 pixels a side, and as much of the image at other sizes."""
    return ndimage.gaussian_filter(grey, BLUR_SIGMAS[level - 1] * grey.shape[0] / 256, mode="nearest")


def rotation(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A turn by so many degrees, at even odds to either side; the corners become black."""
    degrees = ROTATION_DEGREES[level - 1] * rng.choice((-1, 1))
    return ndimage.rotate(grey, degrees, reshape=False, order=1, mode="constant", cval=0.0)


def crop(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A square of this share of the side, anywhere, enlarged to the whole."""
    side = round(grey.shape[0] * CROP_SHARES[level - 1])
    top, left = rng.integers(grey.shape[0] - side + 1, size=2)
    part = PIL.Image.fromarray(grey[top : top + side, left : left + side].astype(np.float32))
    return np.asarray(part.resize(grey.shape[::-1], PIL.Image.Resampling.BICUBIC), dtype=np.float64)


def inversion(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A blend with the negative: level 5 is a MONOCHROME1 image read as MONOCHROME2."""
    share = INVERSION_SHARES[level - 1]
    return (1 - share) * grey + share * (1 - grey)


def jpeg(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """JPEG of this quality."""
    file = io.BytesIO()
    PIL.Image.fromarray((grey * 255).round().astype(np.uint8)).save(file, "JPEG", quality=JPEG_QUALITIES[level - 1])
    return np.asarray(PIL.Image.open(file), dtype=np.float64) / 255


CORRUPTIONS = {
    function.__name__: function for function in (exposure, noise, blur, rotation, crop, inversion, jpeg)
}  # fmt: skip


def corrupt(pixel_values: torch.FloatTensor, name: str, level: int, seed: int = 0) -> torch.FloatTensor:
    """
    Corrupts a square image; grades and their use after Hendrycks and Dietterich (arXiv 1903.12261).

    Args:
        pixel_values (`torch.FloatTensor` of shape `(channels, size, size)`):
            An image in [-1, 1]; of its channels the mean is taken.
        name (`str`):
            One of `CORRUPTIONS`.
        level (`int`):
            From 1 (slight) to 5; 0 changes nothing.
        seed (`int`, *optional*, defaults to 0):
            Decides noise, directions and places.

    Returns:
        `torch.FloatTensor` of shape `(channels, size, size)`: the image in [-1, 1], all channels alike.

    Raises:
        ValueError: another name or level.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"No corruption '{name}'; there are {', '.join(CORRUPTIONS)}.")
    if level not in (0, *LEVELS):
        raise ValueError(f"The level of a corruption is from 0 to {LEVELS[-1]}, got {level}.")
    if level == 0:
        return pixel_values
    grey = ((pixel_values.mean(dim=0).double().cpu().numpy() + 1) / 2).clip(0, 1)
    corrupted = CORRUPTIONS[name](grey, level, np.random.default_rng(seed)).clip(0, 1)
    return torch.from_numpy(corrupted * 2 - 1).to(pixel_values).expand_as(pixel_values).clone()
