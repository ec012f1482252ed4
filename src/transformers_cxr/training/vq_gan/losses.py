"""Losses of the VQ-GAN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ...classifiers import XrayClassifier, load_classifier, load_efficientnet_lite0
from ...llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizerOutput
from .discriminator import PatchDiscriminator


def reconstruction_loss(
    reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor, gradient_weight: float = 1.0
) -> torch.FloatTensor:
    """
    Return the mean absolute error of the pixels, plus that of their finite differences, which keeps edges that L1
    alone would blur.

    Args:
        reconstruction, pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in [-1, 1].
        gradient_weight (`float`, *optional*, defaults to 1.0): weight of the finite differences.
    """
    error = reconstruction - pixel_values
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + gradient_weight * gradient


def random_crops(size: int, *batches: torch.FloatTensor) -> tuple[torch.FloatTensor, ...]:
    """
    Return one random square of each image, the same for each batch.

    Args:
        size (`int`): side of the squares in pixels.
        batches (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`): batches of images.

    Returns:
        `tuple` of `torch.FloatTensor` of shape `(batch_size, channels, size, size)`.

    Raises:
        ValueError: The images are smaller.
    """
    height, width = batches[0].shape[-2:]
    if size > min(height, width):
        raise ValueError(f"Expected a crop size of at most {min(height, width)} pixels, got {size}.")
    corners = [
        (int(torch.randint(height - size + 1, ())), int(torch.randint(width - size + 1, ()))) for _ in batches[0]
    ]
    return tuple(
        torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(batch, corners)])
        for batch in batches
    )


def spectral_loss(
    reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor, window_size: int = 32
) -> torch.FloatTensor:
    """
    Return the mean absolute difference of local Fourier amplitudes. It ignores phases, so fine structure that the
    codes do not determine keeps its contrast, which a pixel loss would blur. Such losses are used for sound (arXiv
    1910.11480, equation 6).

    Args:
        reconstruction, pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in [-1, 1].
        window_size (`int`, *optional*, defaults to 32):
            Side in pixels of the Hann windows, which overlap by half. Smaller images have one window.

    Returns:
        `torch.FloatTensor` of shape `()`, in units of pixels: white noise of standard deviation `s` has amplitudes
        with a root mean square of `s`.
    """
    size = min(window_size, *pixel_values.shape[-2:])
    window = torch.hann_window(size, device=pixel_values.device)
    window = torch.outer(window, window) / window.square().mean()

    def amplitudes(images: torch.FloatTensor) -> torch.FloatTensor:
        patches = images.float().unfold(-2, size, -(-size // 2)).unfold(-2, size, -(-size // 2))
        return torch.fft.rfft2(patches * window, norm="ortho").abs()

    return (amplitudes(reconstruction) - amplitudes(pixel_values)).abs().mean()


class EfficientNetLiteDistance(nn.Module):
    """
    Distance as in LPIPS (arXiv 1801.03924, equation 1, without its learned weights) in four layers of timm's
    EfficientNet-Lite0, a small network whose ImageNet weights come in a package.

    Raises:
        ImportError: timm or the package of the weights is not installed.
    """

    def __init__(self):
        super().__init__()
        network = load_efficientnet_lite0()
        # The resolution of their outputs is a half, a quarter, an eighth and a sixteenth.
        stem = nn.Sequential(network.conv_stem, network.bn1)
        self.layers = nn.ModuleList([stem, network.blocks[:2], network.blocks[2], network.blocks[3:5]])

    def features(self, pixel_values: torch.FloatTensor) -> list[torch.FloatTensor]:
        hidden_states, features = pixel_values.contiguous(memory_format=torch.channels_last), []
        for layer in self.layers:
            hidden_states = layer(hidden_states)
            features.append(F.normalize(hidden_states, dim=1, eps=1e-10))
        return features

    def forward(self, reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """Return the distance, of shape `(batch_size,)`, of two batches of RGB images in [-1, 1]."""
        with torch.no_grad():
            target = self.features(pixel_values)
        pairs = zip(self.features(reconstruction), target)
        return sum((first - second).square().sum(dim=1).mean(dim=(1, 2)) for first, second in pairs)


def load_perceptual_network(name: str) -> nn.Module:
    """Load the network of a [`PerceptualLoss`]: `"vgg"` (LPIPS) or `"efficientnet-lite0"`."""
    networks = {"vgg": load_lpips, "efficientnet-lite0": EfficientNetLiteDistance}
    if name not in networks:
        raise ValueError(f"`perceptual_network` must be one of {', '.join(networks)}, got '{name}'.")
    return networks[name]()


def load_lpips() -> nn.Module:
    """
    Load LPIPS on VGG-16 (arXiv 1801.03924), the perceptual loss of the VQ-GAN (arXiv 2012.09841, section 3.1).

    Raises:
        ImportError: the package `lpips` is not installed.
        OSError: the weights of VGG-16 cannot be read or downloaded.
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
            f"The VGG-16 weights of torchvision, which LPIPS needs, could not be read or downloaded: {error}. Put the "
            f"file of {VGG16_Weights.IMAGENET1K_V1.url} into '{torch.hub.get_dir()}/checkpoints', or train without "
            "this loss (`perceptual_weight: 0`)."
        ) from error


class PerceptualLoss(nn.Module):
    """
    Distance between images in the features of a frozen network.

    Args:
        network (`nn.Module`): returns one distance per image for two batches of RGB images in [-1, 1], as LPIPS does.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def forward(self, reconstruction: torch.FloatTensor, pixel_values: torch.FloatTensor) -> torch.FloatTensor:
        """
        Return the mean distance over the batch, of shape `()`, of images in [-1, 1] of shape `(batch_size, 1 or 3,
        height, width)`. Gray images are repeated to three channels.
        """
        return self.network(reconstruction.expand(-1, 3, -1, -1), pixel_values.expand(-1, 3, -1, -1)).mean()


def hinge_loss(real_logits: torch.FloatTensor, fake_logits: torch.FloatTensor) -> torch.FloatTensor:
    """
    Return the loss of the discriminator, of shape `()`: the hinge loss of arXiv 1705.02894, halved as in
    taming-transformers. The adversarial loss of the autoencoder is `-fake_logits.mean()`.
    """
    return 0.5 * ((1 - real_logits).relu().mean() + (1 + fake_logits).relu().mean())


def adaptive_weight(
    reconstruction_loss: torch.FloatTensor, adversarial_loss: torch.FloatTensor, last_weight: nn.Parameter
) -> torch.FloatTensor:
    """
    Return the weight of the adversarial loss: the ratio of the gradient norms of both losses at the last layer of the
    decoder, in [0, 1e4] (arXiv 2012.09841, equation 7).

    Args:
        reconstruction_loss, adversarial_loss (`torch.FloatTensor` of shape `()`):
            Losses whose graphs contain `last_weight`. The graphs are kept for a later backward.
        last_weight (`nn.Parameter`): weight of the last layer of the decoder.
    """
    (reconstruction_gradient,) = torch.autograd.grad(reconstruction_loss, last_weight, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial_loss, last_weight, retain_graph=True)
    return (reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(0, 1e4).detach()


@dataclass
class AutoencoderLoss:
    """
    Loss of the autoencoder (arXiv 2012.09841, equations 4 to 7; clinical term: arXiv 2305.11490, section 3.1):

        reconstruction = L1 + gradient_weight * finite differences + spectral_weight * spectral
                         + perceptual_weight * perceptual
        loss = reconstruction + codebook and commitment + clinical_weight * clinical
               + disc_weight * adaptive weight * adversarial

    The adaptive weight uses `reconstruction` alone, as in taming-transformers.

    `perceptual` and `clinical` are a [`PerceptualLoss`] and an [`XrayClassifier`]; without them there is no such term.
    """

    gradient_weight: float = 1.0
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
        crops: tuple[torch.FloatTensor, torch.FloatTensor] | None = None,
    ) -> tuple[torch.FloatTensor, dict[str, torch.FloatTensor]]:
        """
        Return the loss, of shape `()`, and its unweighted terms by name, each of shape `()` and without gradient.

        Args:
            output ([`CXRVQTokenizerOutput`]): output of the tokenizer for `pixel_values`.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, in_channels, image_size, image_size)`):
                Images in [-1, 1].
            last_weight (`nn.Parameter`): weight of the last layer of the decoder.
            discriminator ([`PatchDiscriminator`], *optional*):
                Discriminator of the adversarial term, which gets no gradients. Without it there is no such term.
            crops (`tuple[torch.FloatTensor, torch.FloatTensor]`, *optional*):
                Crops of `output.reconstruction` and `pixel_values` for the spectral, perceptual and adversarial terms.
                By default these terms see the whole images.
        """
        terms = {}
        crops = (output.reconstruction, pixel_values) if crops is None else crops
        reconstruction = reconstruction_loss(output.reconstruction, pixel_values, self.gradient_weight)
        terms["reconstruction"] = reconstruction
        if self.spectral_weight:
            terms["spectral"] = spectral_loss(*crops)
            reconstruction = reconstruction + self.spectral_weight * terms["spectral"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(*crops)
            reconstruction = reconstruction + self.perceptual_weight * terms["perceptual"]
        terms["commitment"] = output.commitment_loss
        loss = output.commitment_loss + reconstruction
        if self.clinical is not None:
            terms["clinical"] = self.clinical.distance(output.reconstruction, pixel_values)
            loss = loss + self.clinical_weight * terms["clinical"]
        if discriminator is not None:
            # Gradients of this loss would be added to those of the discriminator's own loss.
            discriminator.requires_grad_(False)
            terms["adversarial"] = -discriminator(crops[0]).mean()
            discriminator.requires_grad_(True)
            terms["adaptive_weight"] = adaptive_weight(reconstruction, terms["adversarial"], last_weight)
            loss = loss + self.disc_weight * terms["adaptive_weight"] * terms["adversarial"]
        return loss, {name: term.detach() for name, term in terms.items()}


def load_autoencoder_loss(
    perceptual_network: str, clinical_classifier: str, device: torch.device, **weights: float
) -> AutoencoderLoss:
    """
    Load the networks of an [`AutoencoderLoss`] whose weights are not 0.

    Args:
        perceptual_network (`str`): as in [`load_perceptual_network`].
        clinical_classifier (`str`): as in [`load_classifier`].
        device (`torch.device`): device of the networks.
        **weights (`float`): `gradient_weight` and the other weights of [`AutoencoderLoss`].

    Raises:
        ImportError, OSError, ValueError: as [`load_perceptual_network`] and [`load_classifier`].
    """
    loss = AutoencoderLoss(**weights)
    if loss.perceptual_weight:
        loss.perceptual = PerceptualLoss(load_perceptual_network(perceptual_network)).to(device)
    if loss.clinical_weight:
        loss.clinical = load_classifier(clinical_classifier).to(device)
    return loss
