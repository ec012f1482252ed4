"""The losses of the VQ-GAN; `AutoencoderLoss` puts them together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...classifiers import XrayClassifier
from ...llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizerOutput
from .discriminator import PatchDiscriminator


def reconstruction_loss(
    reconstruction: torch.FloatTensor,
    pixel_values: torch.FloatTensor,
    gradient_weight: float = 1.0,
    squared_weight: float = 0.0,
) -> torch.FloatTensor:
    """
    Mean absolute error of the pixels, plus that of their finite differences, which keeps edges that L1 alone would blur,
    plus their mean squared error, which is what PSNR measures.

    Args:
        reconstruction, pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in [-1, 1].
        gradient_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the finite differences.
        squared_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the squared error.

    Returns:
        `torch.FloatTensor` of shape `()`.
    """
    error = reconstruction - pixel_values
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + gradient_weight * gradient + squared_weight * error.square().mean()


def spectral_loss(
    reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor, window_size: int = 32
) -> torch.FloatTensor:
    """
    Mean absolute difference of local Fourier amplitudes, whatever the phases: what codes do not tell is drawn with the
    contrast that it has in the image, where a loss of pixels would leave it out. Such losses are used for sound (arXiv
    1910.11480, equation 6).

    Args:
        reconstruction, pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in [-1, 1].
        window_size (`int`, *optional*, defaults to 32):
            Side in pixels of the Hann windows, which overlap by half; the side of the image where that is smaller.

    Returns:
        `torch.FloatTensor` of shape `()`, in the units of pixels: white noise of standard deviation `s` has amplitudes of
        root mean square `s`.

    Raises:
        ValueError: the two differ in shape.
    """
    if reconstruction.shape != pixel_values.shape:
        raise ValueError(
            f"Expected a reconstruction of the images' shape {tuple(pixel_values.shape)}, got {tuple(reconstruction.shape)}."
        )
    size = min(window_size, *pixel_values.shape[-2:])
    window = torch.hann_window(size, device=pixel_values.device)
    window = torch.outer(window, window) / window.square().mean()

    def amplitudes(images: torch.FloatTensor) -> torch.FloatTensor:
        patches = images.float().unfold(-2, size, -(-size // 2)).unfold(-2, size, -(-size // 2))
        return torch.fft.rfft2(patches * window, norm="ortho").abs()

    return (amplitudes(reconstruction) - amplitudes(pixel_values)).abs().mean()


def load_lpips() -> nn.Module:
    """
    LPIPS on VGG-16 (arXiv 1801.03924), the perceptual loss of the VQ-GAN (arXiv 2012.09841, section 3.1).

    Raises:
        ImportError: the package `lpips` is not installed.
        OSError: the weights of VGG-16 are neither there nor can be downloaded.
    """
    try:
        import lpips
    except ImportError as error:
        raise ImportError("The perceptual loss needs lpips: `pip install transformers-cxr[train]`.") from error
    from torchvision.models import VGG16_Weights

    try:
        return lpips.LPIPS(net="vgg", verbose=False)
    except OSError as error:
        raise OSError(
            f"LPIPS needs torchvision's weights of VGG-16, which could not be read or downloaded: {error}. Put the file "
            f"of {VGG16_Weights.IMAGENET1K_V1.url} into '{torch.hub.get_dir()}/checkpoints', or train without this loss "
            "(`perceptual_weight: 0`)."
        ) from error


class PerceptualLoss(nn.Module):
    """
    Distance of images in the features of a frozen network.

    Args:
        network (`nn.Module`):
            Takes two batches of RGB images in [-1, 1] and gives one distance an image, as [`load_lpips`] does.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def forward(self, reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """
        Args:
            reconstruction, pixel_values (`torch.FloatTensor` of shape `(batch_size, 1 or 3, height, width)`):
                Images in [-1, 1]; grey ones are repeated to three channels.

        Returns:
            `torch.FloatTensor` of shape `()`: the mean over the batch.
        """
        return self.network(reconstruction.expand(-1, 3, -1, -1), pixel_values.expand(-1, 3, -1, -1)).mean()


def hinge_loss(real_logits: torch.FloatTensor, fake_logits: torch.FloatTensor) -> torch.FloatTensor:
    """
    The discriminator's loss (hinge loss of arXiv 1705.02894, halved as in taming-transformers), a scalar that is 1 where
    it knows nothing and 0 where it is sure and right. The autoencoder's counterpart is `-fake_logits.mean()`.
    """
    return 0.5 * ((1 - real_logits).relu().mean() + (1 + fake_logits).relu().mean())


def adaptive_weight(
    reconstruction_loss: torch.FloatTensor, adversarial_loss: torch.FloatTensor, last_weight: nn.Parameter
) -> torch.FloatTensor:
    """
    Weight that makes the adversarial loss pull as hard as the reconstruction loss at the decoder's last layer: the ratio
    of the norms of their gradients there, in [0, 1e4] (arXiv 2012.09841, equation 7).

    Args:
        reconstruction_loss, adversarial_loss (`torch.FloatTensor` of shape `()`):
            Losses whose graphs hold `last_weight`; the graphs stay for a later backward.
        last_weight (`nn.Parameter`):
            The weight of the decoder's last layer.

    Returns:
        `torch.FloatTensor` of shape `()`, without gradient.
    """
    (reconstruction_gradient,) = torch.autograd.grad(reconstruction_loss, last_weight, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial_loss, last_weight, retain_graph=True)
    return (reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(0, 1e4).detach()


@dataclass
class AutoencoderLoss:
    """
    What the autoencoder is trained for (arXiv 2012.09841, equations 4 to 7; clinical term: arXiv 2305.11490, section 3.1):

        reconstruction = L1 + gradient_weight * finite differences + squared_weight * L2 + spectral_weight * spectral
                         + perceptual_weight * LPIPS
        loss = reconstruction + codebook and commitment + clinical_weight * clinical
               + disc_weight * adaptive weight * adversarial

    The adaptive weight compares with `reconstruction` alone, as taming-transformers does.

    gradient_weight (`float`, *optional*, defaults to `1.0`): weight of the finite differences.
    squared_weight (`float`, *optional*, defaults to `0.0`): weight of the squared error.
    spectral_weight (`float`, *optional*, defaults to `0.0`): weight of the local Fourier amplitudes.
    perceptual (`PerceptualLoss`, *optional*): the perceptual loss, none by default.
    perceptual_weight (`float`, *optional*, defaults to `1.0`): its weight.
    clinical (`XrayClassifier`, *optional*): the clinical network, none by default.
    clinical_weight (`float`, *optional*, defaults to `100.0`): weight of the clinical term.
    disc_weight (`float`, *optional*, defaults to `0.8`): factor of the adaptive weight.
    """

    gradient_weight: float = 1.0
    squared_weight: float = 0.0
    spectral_weight: float = 0.0
    perceptual: PerceptualLoss | None = None
    perceptual_weight: float = 1.0
    clinical: XrayClassifier | None = None
    clinical_weight: float = 100.0
    disc_weight: float = 0.8

    def __call__(
        self,
        output: CXRVQTokenizerOutput,
        pixel_values: torch.FloatTensor,
        last_weight: nn.Parameter,
        discriminator: PatchDiscriminator | None = None,
    ) -> tuple[torch.FloatTensor, dict[str, torch.FloatTensor]]:
        """
        Args:
            output ([`CXRVQTokenizerOutput`]):
                Of the training forward for `pixel_values`.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, in_channels, image_size, image_size)`):
                Images in [-1, 1].
            last_weight (`nn.Parameter`):
                The weight of the decoder's last layer.
            discriminator ([`PatchDiscriminator`], *optional*):
                Judges the reconstruction; it gets no gradients. Without it there is no adversarial term.

        Returns:
            `tuple`: the loss, of shape `()`, and its unweighted parts by name, each of shape `()` and without gradient.
        """
        parts = {}
        reconstruction = reconstruction_loss(
            output.reconstruction, pixel_values, self.gradient_weight, self.squared_weight
        )
        parts["reconstruction"] = reconstruction
        if self.spectral_weight:
            parts["spectral"] = spectral_loss(output.reconstruction, pixel_values)
            reconstruction = reconstruction + self.spectral_weight * parts["spectral"]
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(output.reconstruction, pixel_values)
            reconstruction = reconstruction + self.perceptual_weight * parts["perceptual"]
        parts["commitment"] = output.commitment_loss
        loss = output.commitment_loss + reconstruction
        if self.clinical is not None:
            parts["clinical"] = self.clinical.distance(output.reconstruction, pixel_values)
            loss = loss + self.clinical_weight * parts["clinical"]
        if discriminator is not None:
            # Its gradients of this loss would be added to those of its own.
            discriminator.requires_grad_(False)
            parts["adversarial"] = -discriminator(output.reconstruction).mean()
            discriminator.requires_grad_(True)
            parts["adaptive_weight"] = adaptive_weight(reconstruction, parts["adversarial"], last_weight)
            loss = loss + self.disc_weight * parts["adaptive_weight"] * parts["adversarial"]
        return loss, {name: part.detach() for name, part in parts.items()}
