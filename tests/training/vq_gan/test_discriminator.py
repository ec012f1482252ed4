import torch
from torch.nn import functional as F

from transformers_cxr.training.vq_gan import PatchDiscriminator


def reference(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The 70x70 PatchGAN in functional form: C64-C128-C256-C512 and a last convolution, with batch statistics."""
    convolutions = [weights[f"layers.{i}.weight"] for i in (0, 2, 5, 8, 11)]
    hidden = F.conv2d(images, convolutions[0], weights["layers.0.bias"], stride=2, padding=1)
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    for convolution, norm, stride in zip(convolutions[1:4], (3, 6, 9), (2, 2, 1)):
        hidden = F.conv2d(hidden, convolution, stride=stride, padding=1)
        mean = hidden.mean(dim=(0, 2, 3), keepdim=True)
        variance = ((hidden - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        hidden = (hidden - mean) / torch.sqrt(variance + 1e-5)
        scale, shift = (weights[f"layers.{norm}.{name}"].view(1, -1, 1, 1) for name in ("weight", "bias"))
        hidden = hidden * scale + shift
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    return F.conv2d(hidden, convolutions[4], weights["layers.11.bias"], padding=1)


def test_discriminator_equals_the_reference():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(in_channels=3, channels=8)
    images = torch.rand(2, 3, 48, 64) * 2 - 1
    expected = reference(dict(discriminator.named_parameters()), images)
    torch.testing.assert_close(discriminator(images), expected, rtol=1e-4, atol=1e-5)
