"""Discriminator of the VQ-GAN."""

from __future__ import annotations

import torch
from torch import nn


class PatchDiscriminator(nn.Module):
    """
    PatchGAN of pix2pix (arXiv 1611.07004, section 6.1.2) as in the VQ-GAN (arXiv 2012.09841, section 3.1): 4x4
    convolutions that classify overlapping patches of 70x70 pixels as real or reconstructed.

    Args:
        in_channels (`int`, *optional*, defaults to 3):
            Number of image channels.
        channels (`int`, *optional*, defaults to 64):
            Channels of the first layer. Each of the next three layers doubles them.
    """

    def __init__(self, in_channels: int = 3, channels: int = 64):
        super().__init__()
        layers = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        width = channels
        for stride in (2, 2, 1):
            previous, width = width, 2 * width
            # The batch normalization has the bias.
            layers += [
                nn.Conv2d(previous, width, 4, stride=stride, padding=1, bias=False),
                # It is never evaluated, and processes would have to synchronize running statistics.
                nn.BatchNorm2d(width, track_running_stats=False),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(width, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, in_channels, height, width)`):
                Images in [-1, 1], at least 32 pixels high and wide.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, 1, rows, columns)`: a logit for each patch, positive for real;
            30x30 logits for 256x256 pixels.
        """
        return self.layers(pixel_values)
