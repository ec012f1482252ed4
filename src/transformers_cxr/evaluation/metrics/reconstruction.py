"""Image quality, sharpness and codebook usage of VQ-GAN reconstructions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch

from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from ...llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
from .metric import Score

RECONSTRUCTION_NOTICE = "Reconstructed by a VQ-GAN. Synthetic images, for research only, not for clinical use."
# The last of five scales must have more than 10 pixels for the window of 11.
MIN_SIDE_OF_MS_SSIM = 176

SCORES = {
    "psnr": Score("PSNR", "Peak signal-to-noise ratio of reconstructions, in dB."),
    "ssim": Score("SSIM", "Structural similarity of reconstructions, at most 1."),
    "ms_ssim": Score("MS-SSIM", "Structural similarity of reconstructions at five scales, at most 1."),
    "spectral_ratio_*": Score(
        "Sharpness",
        "Energy of reconstructions as a share of that of the X-rays, over the spatial frequencies: their mean, and "
        "that of the worst. Below 1: blurred; above 1: invented texture.",
        higher_is_better=None,
    ),
    "codebook_usage": Score("Codes in use", "Share of the codebook that these X-rays use.", higher_is_better=None),
    "codebook_perplexity": Score(
        "Perplexity of codes",
        "Effective number of different codes, at most the size of the codebook.",
        higher_is_better=None,
    ),
}


def image_distances(
    reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor
) -> dict[str, torch.FloatTensor]:
    """
    Compute PSNR, SSIM and MS-SSIM of each image of a batch.

    Args:
        reconstruction, pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in [-1, 1].

    Returns:
        `dict` of `torch.FloatTensor` of shape `(batch_size,)`: `psnr` in dB for a range of 2; `ssim` (Wang et al.
        2004, Gaussian window of 11 pixels, sigma 1.5) and `ms_ssim` (Wang et al. 2003, five scales), at most 1.
        `ms_ssim` is missing for images smaller than 176 pixels.

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
    Compute the spectral energy of images in rings of equal width from 0 to a quarter cycle per pixel.

    The channels are averaged, the mean is subtracted, and a Hann window is applied in both directions: otherwise the
    jump between opposite borders would add energy at all frequencies.

    Args:
        pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in any range.
        num_rings (`int`, *optional*, defaults to 16):
            Number of rings, at most a quarter of the shorter side in pixels. Ring `i` contains the frequencies above
            `i / num_rings / 4` up to `(i + 1) / num_rings / 4` cycles per pixel.

    Returns:
        `torch.DoubleTensor` of shape `(batch_size, num_rings)`: mean squared magnitude of the Fourier coefficients.
    """
    height, width = pixel_values.shape[-2:]
    gray = pixel_values.double().mean(dim=1)
    gray = gray - gray.mean(dim=(1, 2), keepdim=True)
    window = [
        torch.hann_window(size, periodic=False, dtype=gray.dtype, device=gray.device) for size in (height, width)
    ]
    energy = torch.fft.fft2(gray * torch.outer(*window)).abs().square().flatten(1)
    frequency = [torch.fft.fftfreq(size, dtype=gray.dtype, device=gray.device) for size in (height, width)]
    radius = torch.hypot(frequency[0][:, None], frequency[1][None, :]).flatten()
    # A frequency on the border of two rings belongs to the lower one, whatever the rounding.
    ring = (radius * 4 * num_rings - 1e-9).ceil().long() - 1
    inside = (ring >= 0) & (ring < num_rings)
    sums = energy.new_zeros(len(energy), num_rings).index_add_(1, ring[inside], energy[:, inside])
    return sums / torch.bincount(ring[inside], minlength=num_rings)


def codebook_statistics(codes: torch.LongTensor, codebook_size: int) -> dict[str, float]:
    """
    Compute the codebook usage of `codes` (of any shape, each in `[0, codebook_size)`): `codebook_usage`, the share of
    the codebook that occurs, in [0, 1], and `codebook_perplexity`, the exponential of the entropy of the codes, in [1,
    codebook_size].
    """
    counts = torch.bincount(codes.flatten(), minlength=codebook_size)
    return {
        "codebook_usage": (counts > 0).double().mean().item(),
        "codebook_perplexity": torch.special.entr(counts / counts.sum()).sum().exp().item(),
    }


def reconstruction_units(
    reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor
) -> list[dict[str, np.ndarray]]:
    """
    Return for each image of a batch (as in [`image_distances`]) its distances and both spectral energies, for
    [`aggregate_reconstructions`].
    """
    # A ring must not be narrower than the distance of the frequencies.
    num_rings = min(16, min(pixel_values.shape[-2:]) // 4)
    values = image_distances(reconstruction, pixel_values) | {
        "energy": radial_energy(pixel_values, num_rings),
        "reconstructed_energy": radial_energy(reconstruction, num_rings),
    }
    values = {name: value.cpu().numpy() for name, value in values.items()}
    return [{name: value[i] for name, value in values.items()} for i in range(len(pixel_values))]


def spectral_ratio(units: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """Return the mean spectral energy of reconstructions as a share of that of the images, of shape `(num_rings,)`."""
    energy, reconstructed = (
        np.mean([unit[name] for unit in units], axis=0) for name in ("energy", "reconstructed_energy")
    )
    return reconstructed / energy


def aggregate_reconstructions(units: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """Return the mean of each distance of [`reconstruction_units`], and mean and minimum of the spectral ratio."""
    names = [name for name, value in units[0].items() if np.ndim(value) == 0]
    spectrum = spectral_ratio(units)
    return {name: float(np.mean([unit[name] for unit in units])) for name in names} | {
        "spectral_ratio_mean": float(spectrum.mean()),
        "spectral_ratio_min": float(spectrum.min()),
    }


@torch.no_grad()
def reconstruction_picture(tokenizer: CXRVQTokenizer, pixel_values: torch.FloatTensor) -> PIL.Image.Image:
    """
    Return a picture of images (of shape `(batch_size, in_channels, image_size, image_size)`, in [-1, 1]) in a row
    above their reconstructions. `picture.info["comment"]` marks it as synthetic.
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
