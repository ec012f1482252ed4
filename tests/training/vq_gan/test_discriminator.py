import torch
from torch.nn import functional as F

from transformers_cxr.training.vq_gan.discriminator import PatchDiscriminator


def written_out(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The 70x70 PatchGAN in functional form: C64-C128-C256-C512 and a last convolution, batch statistics by hand."""
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


def test_discriminator_equals_its_written_out_form():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(in_channels=3, channels=8)
    images = torch.rand(2, 3, 48, 64) * 2 - 1
    expected = written_out(dict(discriminator.named_parameters()), images)
    torch.testing.assert_close(discriminator(images), expected, rtol=1e-4, atol=1e-5)


def test_defaults_are_those_of_pix2pix():
    discriminator = PatchDiscriminator()
    shapes = [tuple(p.shape) for name, p in discriminator.named_parameters() if p.ndim == 4]
    assert shapes == [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]
    # Batch normalisation has a scale and a shift of each channel; the first and the last convolution have a bias.
    norms = [p.numel() for p in discriminator.parameters() if p.ndim == 1]
    assert norms == [64, 128, 128, 256, 256, 512, 512, 1]
    with torch.no_grad():
        assert discriminator(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_a_logit_sees_a_patch_of_70_pixels():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(in_channels=1, channels=4)
    # The statistics of a batch are those of all its patches.
    layers = [layer for layer in discriminator.layers if not isinstance(layer, torch.nn.BatchNorm2d)]
    discriminator.layers = torch.nn.Sequential(*layers)
    images = torch.zeros(1, 1, 160, 160, requires_grad=True)
    logits = discriminator(images)
    logits[0, 0, 9, 9].backward()
    rows, columns = images.grad[0, 0].nonzero().T
    assert rows.max() - rows.min() + 1 == 70
    assert columns.max() - columns.min() + 1 == 70


def test_weights_are_drawn_as_in_pix2pix():
    torch.manual_seed(0)
    layers = PatchDiscriminator().layers
    assert abs(layers[8].weight.std().item() - 0.02) < 1e-3 and abs(layers[8].weight.mean().item()) < 1e-3
    assert abs(layers[9].weight.mean().item() - 1) < 1e-2 and abs(layers[9].weight.std().item() - 0.02) < 5e-3
    assert not layers[9].bias.any()
