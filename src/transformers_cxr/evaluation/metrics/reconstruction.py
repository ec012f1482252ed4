"""How well the VQ-GAN keeps an image: distances, sharpness, the use of its codebook, and pictures."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch

from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from ...llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer

RECONSTRUCTION_NOTICE = "Reconstructed by a VQ-GAN. Synthetic images, for research only, not for clinical use."
# Five scales with windows of 11 pixels.
MIN_SIDE_OF_MS_SSIM = 161


def image_distances(
    reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor
) -> dict[str, torch.FloatTensor]:
    """
    The usual measures of each image of a batch.

    Args:
        reconstruction, pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in [-1, 1].

    Returns:
        `dict` of `torch.FloatTensor` of shape `(batch_size,)`: `psnr` in dB of a range of 2; `ssim` (Wang et al. 2004,
        Gaussian window of 11 pixels, sigma 1.5) and `ms_ssim` (Wang et al. 2003, five scales), at most 1. Images of fewer
        than 161 pixels a side have no `ms_ssim`.

    Raises:
        ImportError: torchmetrics is not installed.
    """
    try:
        from torchmetrics.functional.image import (
            multiscale_structural_similarity_index_measure,
            structural_similarity_index_measure,
        )
    except ImportError as error:
        raise ImportError("SSIM needs torchmetrics: `pip install transformers-cxr[evaluate]`.") from error
    mse = (reconstruction - pixel_values).square().mean(dim=(1, 2, 3))
    options = {"data_range": 2.0, "reduction": "none"}
    distances = {
        "psnr": 10 * torch.log10(4 / mse),
        "ssim": structural_similarity_index_measure(reconstruction, pixel_values, **options).view(-1),
    }
    if min(pixel_values.shape[-2:]) >= MIN_SIDE_OF_MS_SSIM:
        distances["ms_ssim"] = multiscale_structural_similarity_index_measure(
            reconstruction, pixel_values, **options
        ).view(-1)
    return distances


def radial_energy(pixel_values: torch.FloatTensor, num_rings: int = 16) -> torch.DoubleTensor:
    """
    Spectral energy of images, averaged over rings of equal width from 0 to a quarter cycle a pixel.

    The mean over the channels is taken, its mean over the pixels removed, and a Hann window applied in both directions,
    since the jump from one border to the opposite one would otherwise add energy at all frequencies.

    Args:
        pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in any range.
        num_rings (`int`, *optional*, defaults to 16):
            Number of rings, at most a quarter of the shorter side in pixels. Ring `i` holds the frequencies above
            `i / num_rings / 4` up to `(i + 1) / num_rings / 4` cycles a pixel.

    Returns:
        `torch.DoubleTensor` of shape `(batch_size, num_rings)`: mean squared magnitude of the Fourier coefficients.
    """
    height, width = pixel_values.shape[-2:]
    grey = pixel_values.double().mean(dim=1)
    grey = grey - grey.mean(dim=(1, 2), keepdim=True)
    window = [
        torch.hann_window(size, periodic=False, dtype=grey.dtype, device=grey.device) for size in (height, width)
    ]
    energy = torch.fft.fft2(grey * torch.outer(*window)).abs().square().flatten(1)
    frequency = [torch.fft.fftfreq(size, dtype=grey.dtype, device=grey.device) for size in (height, width)]
    radius = torch.hypot(frequency[0][:, None], frequency[1][None, :]).flatten()
    # A frequency on the border of two rings is in the lower one, whatever way it was rounded.
    ring = (radius * 4 * num_rings - 1e-9).ceil().long() - 1
    inside = (ring >= 0) & (ring < num_rings)
    sums = energy.new_zeros(len(energy), num_rings).index_add_(1, ring[inside], energy[:, inside])
    return sums / torch.bincount(ring[inside], minlength=num_rings)


def codebook_statistics(codes: torch.LongTensor, codebook_size: int) -> dict[str, float]:
    """
    Use of the codebook in `codes` (of any shape, each in `[0, codebook_size)`): `codebook_usage`, the share of the codebook
    that occurs, in [0, 1], and `codebook_perplexity`, the exponential of the entropy of the codes, in [1, codebook_size].
    """
    counts = torch.bincount(codes.flatten(), minlength=codebook_size)
    return {
        "codebook_usage": (counts > 0).double().mean().item(),
        "codebook_perplexity": torch.special.entr(counts / counts.sum()).sum().exp().item(),
    }


@torch.no_grad()
def reconstruction_picture(tokenizer: CXRVQTokenizer, pixel_values: torch.FloatTensor) -> PIL.Image.Image:
    """
    Images (`(batch_size, in_channels, image_size, image_size)`, in [-1, 1]) in a row, their reconstructions below them.
    `picture.info["comment"]` says what it shows.
    """
    pixel_values = pixel_values.to(tokenizer.device)
    decoded = tokenizer.decode(tokenizer.encode(pixel_values))
    postprocess = LlmCxrImageProcessor().postprocess
    rows = [
        np.concatenate([np.asarray(image) for image in postprocess(row)], axis=1) for row in (pixel_values, decoded)
    ]
    picture = PIL.Image.fromarray(np.concatenate(rows))
    picture.info["comment"] = RECONSTRUCTION_NOTICE
    return picture
