"""Augmentation of X-rays."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def augment(pixel_values: torch.FloatTensor) -> torch.FloatTensor:
    """
    Rotate each image by up to 10 degrees, scale it by up to 10 %, shift it by up to 5 % of its side, and change its
    contrast by up to 20 % and its brightness by up to 10 % of the range from black to white.

    Args:
        pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in [-1, 1]. Their borders are repeated.

    Returns:
        `torch.FloatTensor` of the same shape, in [-1, 1].
    """

    def uniform(limit: float) -> torch.FloatTensor:
        return (torch.rand(len(pixel_values)) * 2 - 1) * limit

    angle, scale = uniform(math.radians(10)), 1 + uniform(0.1)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cosine, -sine, uniform(0.1)], -1), torch.stack([sine, cosine, uniform(0.1)], -1)]
    grid = F.affine_grid(torch.stack(rows, 1).to(pixel_values), pixel_values.shape, align_corners=False)
    # Bilinear interpolation would blur.
    moved = F.grid_sample(pixel_values, grid, mode="bicubic", padding_mode="border", align_corners=False)
    contrast, brightness = ((mean + uniform(0.2)).to(pixel_values).view(-1, 1, 1, 1) for mean in (1, 0))
    return (moved * contrast + brightness).clamp(-1, 1)
