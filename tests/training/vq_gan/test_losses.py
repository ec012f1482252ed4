import math
import sys

import lpips
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformers_cxr.classifiers import XrayClassifier
from transformers_cxr.llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizerOutput
from transformers_cxr.training.vq_gan.discriminator import PatchDiscriminator
from transformers_cxr.training.vq_gan.losses import (
    AutoencoderLoss,
    PerceptualLoss,
    adaptive_weight,
    hinge_loss,
    load_lpips,
    reconstruction_loss,
    spectral_loss,
)


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def lpips_network() -> nn.Module:
    torch.manual_seed(0)
    # The smallest of its networks, with random weights: nothing is downloaded.
    return lpips.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, verbose=False)


@pytest.mark.parametrize("gradient_weight", [0.0, 1.0, 2.5])
def test_reconstruction_loss_equals_numpy(gradient_weight):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 3, 5, 7, generator=generator) * 2 - 1 for _ in range(2))
    error = first.double().numpy() - second.double().numpy()
    horizontal = np.abs(error[:, :, :, 1:] - error[:, :, :, :-1]).mean()
    vertical = np.abs(error[:, :, 1:] - error[:, :, :-1]).mean()
    expected = np.abs(error).mean() + gradient_weight * (horizontal + vertical)
    loss = reconstruction_loss(first, second, gradient_weight)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert reconstruction_loss(second, first, gradient_weight).item() == pytest.approx(expected, rel=1e-5)


def test_reconstruction_loss_weighs_gradients_by_one_unless_told():
    first, second = torch.eye(4)[None, None], torch.zeros(1, 1, 4, 4)
    assert reconstruction_loss(first, second).item() == pytest.approx(0.25 + 2 * 0.5)


def test_reconstruction_loss_of_equal_images_is_zero_and_of_an_offset_its_size():
    image = torch.rand(1, 1, 6, 6)
    assert reconstruction_loss(image, image).item() == 0
    assert reconstruction_loss(image + 0.5, image).item() == pytest.approx(0.5, abs=1e-5)


def test_squared_weight_adds_the_mean_squared_error():
    image = torch.rand(1, 1, 6, 6)
    assert reconstruction_loss(image + 0.5, image, squared_weight=4.0).item() == pytest.approx(
        0.5 + 4 * 0.25, abs=1e-5
    )


def test_reconstruction_loss_has_a_gradient():
    reconstruction = torch.zeros(1, 1, 4, 4, requires_grad=True)
    reconstruction_loss(reconstruction, torch.eye(4)[None, None]).backward()
    assert torch.isfinite(reconstruction.grad).all()
    assert reconstruction.grad.any()


def test_spectral_loss_equals_numpy_window_by_window():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 1, 24, 32, generator=generator) * 2 - 1 for _ in range(2))
    # A periodic Hann window by its definition, scaled to a root mean square of one.
    hann = np.sin(np.pi * np.arange(16) / 16) ** 2
    window = np.outer(hann, hann) / np.sqrt((np.outer(hann, hann) ** 2).mean())
    differences = []
    for image in range(2):
        for row in (0, 8):
            for column in (0, 8, 16):
                amplitudes = [
                    np.abs(np.fft.rfft2(of[image, 0, row : row + 16, column : column + 16].double().numpy() * window))
                    / 16
                    for of in (first, second)
                ]
                differences.append(np.abs(amplitudes[0] - amplitudes[1]))
    assert spectral_loss(first, second, window_size=16).item() == pytest.approx(np.mean(differences), rel=1e-5)


def test_spectral_loss_sees_blur_and_not_the_phase():
    columns = torch.arange(64)
    wave, shifted = (torch.cos(2 * math.pi * (columns + shift) / 8).expand(1, 1, 64, 64) for shift in (0, 3))
    blurred = wave * 0.1
    assert spectral_loss(shifted, wave).item() < 1e-3
    assert spectral_loss(blurred, wave).item() == pytest.approx(0.9 * spectral_loss(wave * 0, wave).item(), rel=1e-5)
    # What a loss of pixels prefers.
    assert reconstruction_loss(blurred, wave) < reconstruction_loss(shifted, wave)


def test_spectral_loss_of_images_smaller_than_its_window_has_a_gradient():
    image = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    reconstruction = (image * 0.5).requires_grad_()
    spectral_loss(reconstruction, image).backward()
    assert torch.isfinite(reconstruction.grad).all() and reconstruction.grad.any()
    assert spectral_loss(image, image).item() == 0


def test_hinge_loss_equals_its_definition_patch_by_patch():
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(3, 1, 2, 5, generator=generator) * 2 for _ in range(2))
    of_real = [max(0.0, 1 - logit) for logit in real.flatten().tolist()]
    of_fake = [max(0.0, 1 + logit) for logit in fake.flatten().tolist()]
    expected = (math.fsum(of_real) / 30 + math.fsum(of_fake) / 30) / 2
    assert hinge_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)


def test_hinge_loss_is_one_in_ignorance_and_zero_in_certainty():
    zero, sure = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 1.5)
    assert hinge_loss(zero, zero).item() == 1
    assert hinge_loss(sure, -sure).item() == 0


def test_adaptive_weight_equals_the_ratio_of_the_gradients_of_a_full_backward():
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 1, 3, padding=1)).double()
    judge = nn.Conv2d(1, 1, 4, stride=2).double()
    latents, image = torch.randn(2, 2, 8, 8).double(), torch.randn(2, 1, 8, 8).double()
    last_weight = decoder[2].weight

    def losses():
        decoded = decoder(latents)
        return (decoded - image).abs().mean(), -judge(decoded).mean()

    norms = []
    for which in range(2):
        decoder.zero_grad()
        losses()[which].backward()
        norms.append(last_weight.grad.norm())
    reconstruction, adversarial = losses()
    weight = adaptive_weight(reconstruction, adversarial, last_weight)
    assert weight.shape == () and not weight.requires_grad
    torch.testing.assert_close(weight, norms[0] / (norms[1] + 1e-4))
    (reconstruction + weight * adversarial).backward()


def test_adaptive_weight_is_at_most_ten_thousand():
    weight = nn.Parameter(torch.ones(1))
    assert adaptive_weight((10 * weight).sum(), (0 * weight).sum(), weight).item() == 1e4


def test_gradient_of_the_commitment_equals_finite_differences(tokenizer):
    quantize = tokenizer.vq_model.quantize
    codebook = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()
    quantize.embedding.weight = nn.Parameter(codebook.clone())
    latents = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    _, loss, (_, _, codes) = quantize(latents)
    loss.backward()

    def squared_distance(latents: torch.Tensor, codebook: torch.Tensor) -> float:
        vectors = latents.movedim(1, -1).reshape(-1, 3)
        return sum(((vectors[i] - codebook[code]) ** 2).sum().item() for i, code in enumerate(codes)) / vectors.numel()

    # The loss is this distance twice: at weight 1 for the encoder, at beta = 0.25 for the codebook.
    assert loss.item() == pytest.approx(1.25 * squared_distance(latents.detach(), codebook))
    step = 1e-6
    for index in range(latents.numel()):
        shift = torch.zeros(latents.numel(), dtype=torch.double)
        shift[index] = step
        ahead, behind = (squared_distance(latents.detach() + s * shift.view(1, 3, 2, 2), codebook) for s in (1, -1))
        assert latents.grad.flatten()[index].item() == pytest.approx((ahead - behind) / (2 * step), abs=1e-8)
    for index in range(codebook.numel()):
        shift = torch.zeros(codebook.numel(), dtype=torch.double)
        shift[index] = step
        ahead, behind = (squared_distance(latents.detach(), codebook + s * shift.view(8, 3)) for s in (1, -1))
        expected = 0.25 * (ahead - behind) / (2 * step)
        assert quantize.embedding.weight.grad.flatten()[index].item() == pytest.approx(expected, abs=1e-8)


def test_the_quantizer_is_straight_through_by_finite_differences(tokenizer):
    quantize = tokenizer.vq_model.quantize.double()
    quantize.embedding.weight = nn.Parameter(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double())
    latents = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    quantized, _, _ = quantize(latents)

    def after(quantized: torch.Tensor) -> torch.Tensor:
        return (quantized**3 + torch.arange(12).view(1, 3, 2, 2) * quantized).sum()

    after(quantized).backward()
    for index in range(12):
        shift = torch.zeros(12, dtype=torch.double)
        shift[index] = 1e-6
        ahead, behind = (after(quantized.detach() + s * shift.view(1, 3, 2, 2)).item() for s in (1, -1))
        assert latents.grad.flatten()[index].item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-6, abs=1e-6)


def test_perceptual_loss_equals_the_formula_of_lpips_on_repeated_grey(lpips_network, pixel_values):
    loss = PerceptualLoss(lpips_network)
    reconstruction = (pixel_values * 0.5).requires_grad_()
    value = loss(reconstruction, pixel_values)
    assert value.shape == ()

    scaling, total = lpips_network.scaling_layer, 0.0
    with torch.no_grad():
        features = [
            lpips_network.net((torch.cat([image] * 3, dim=1) - scaling.shift) / scaling.scale)
            for image in (reconstruction, pixel_values)
        ]
        for first, second, linear in zip(*features, lpips_network.lins):
            difference = (F.normalize(first, dim=1, eps=1e-10) - F.normalize(second, dim=1, eps=1e-10)) ** 2
            total += linear.model[-1](difference).mean(dim=(1, 2, 3))
    torch.testing.assert_close(value.detach(), total.mean(), rtol=1e-4, atol=1e-6)
    value.backward()
    assert torch.isfinite(reconstruction.grad).all() and reconstruction.grad.any()
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_perceptual_loss_of_equal_images_is_zero(lpips_network, pixel_values):
    assert PerceptualLoss(lpips_network)(pixel_values, pixel_values).item() == 0


def test_lpips_without_the_weights_of_vgg_names_the_way_out(monkeypatch):

    def offline(**kwargs):
        raise OSError("no network")

    monkeypatch.setattr(lpips, "LPIPS", offline)
    with pytest.raises(OSError, match=r"no network.*vgg16-\w+\.pth into '.*checkpoints'.*`perceptual_weight: 0`"):
        load_lpips()


def test_missing_lpips_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"transformers-cxr\[train\]"):
        load_lpips()


def test_the_loss_is_the_weighted_sum_of_its_parts(tokenizer, pixel_values, lpips_network):
    torch.manual_seed(2)
    clinical = XrayClassifier(nn.Conv2d(1, 4, 3), image_size=16, value_range=(0, 1))
    discriminator = PatchDiscriminator(in_channels=1, channels=4)
    loss_of = AutoencoderLoss(
        gradient_weight=0.5,
        squared_weight=2.0,
        spectral_weight=0.3,
        perceptual=PerceptualLoss(lpips_network),
        perceptual_weight=0.7,
        clinical=clinical,
        clinical_weight=3.0,
        disc_weight=0.8,
    )
    output, last_weight = tokenizer(pixel_values), tokenizer.vq_model.decoder.conv_out.weight
    loss, parts = loss_of(output, pixel_values, last_weight, discriminator)
    assert set(parts) == {
        "reconstruction", "spectral", "perceptual", "commitment", "clinical", "adversarial", "adaptive_weight"
    }  # fmt: skip
    pixels = reconstruction_loss(output.reconstruction, pixel_values, 0.5, 2.0)
    torch.testing.assert_close(parts["reconstruction"], pixels.detach())
    spectral = spectral_loss(output.reconstruction, pixel_values)
    torch.testing.assert_close(parts["spectral"], spectral.detach())
    near = pixels + 0.3 * spectral + 0.7 * loss_of.perceptual(output.reconstruction, pixel_values)
    torch.testing.assert_close(
        parts["adaptive_weight"], adaptive_weight(near, -discriminator(output.reconstruction).mean(), last_weight)
    )
    expected = (
        parts["reconstruction"]
        + 0.3 * parts["spectral"]
        + 0.7 * parts["perceptual"]
        + parts["commitment"]
        + 3.0 * parts["clinical"]
        + 0.8 * parts["adaptive_weight"] * parts["adversarial"]
    )
    torch.testing.assert_close(loss.detach(), expected)


def test_the_adversarial_loss_reaches_the_autoencoder_and_not_the_discriminator(tokenizer, pixel_values):
    discriminator = PatchDiscriminator(in_channels=1, channels=4)
    last_weight = tokenizer.vq_model.decoder.conv_out.weight
    gradients = []
    for judge in (None, discriminator):
        tokenizer.zero_grad()
        loss, _ = AutoencoderLoss()(tokenizer(pixel_values), pixel_values, last_weight, judge)
        loss.backward()
        gradients.append(tokenizer.vq_model.encoder.conv_in.weight.grad.clone())
    assert not torch.equal(*gradients)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in discriminator.parameters())


def test_the_loss_without_extras_is_that_of_the_embedded_recipe(tokenizer, pixel_values):
    output = tokenizer(pixel_values)
    loss, parts = AutoencoderLoss(gradient_weight=0.25, squared_weight=10.0)(
        output, pixel_values, tokenizer.vq_model.decoder.conv_out.weight
    )
    expected = output.commitment_loss + reconstruction_loss(output.reconstruction, pixel_values, 0.25, 10.0)
    assert torch.equal(loss, expected)
    assert set(parts) == {"reconstruction", "commitment"}


@pytest.mark.parametrize("channels", [1, 3])
def test_losses_and_gradients_equal_those_of_taming_transformers(monkeypatch, lpips_network, channels):
    from taming.modules.losses import vqperceptual

    # taming's own LPIPS downloads its weights.
    monkeypatch.setattr(vqperceptual, "LPIPS", lambda: PerceptualLoss(lpips_network))
    theirs = vqperceptual.VQLPIPSWithDiscriminator(
        disc_start=10, disc_weight=0.8, perceptual_weight=0.7, disc_in_channels=channels, disc_ndf=8
    )
    discriminator = PatchDiscriminator(channels, channels=8)
    for parameter, their_parameter in zip(discriminator.parameters(), theirs.discriminator.parameters(), strict=True):
        parameter.data.copy_(their_parameter)
    ours = AutoencoderLoss(
        gradient_weight=0.0, perceptual=PerceptualLoss(lpips_network), perceptual_weight=0.7, disc_weight=0.8
    )
    generator = torch.Generator().manual_seed(3)
    hidden, images = (torch.rand(2, channels, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    last_layer = nn.Conv2d(channels, channels, 3, padding=1)
    commitment = torch.tensor(0.3)

    for step in (9, 10):
        reconstruction = last_layer(hidden)
        expected, _ = theirs(commitment, images, reconstruction, 0, step, last_layer=last_layer.weight)
        (expected_gradient,) = torch.autograd.grad(expected, last_layer.weight)
        reconstruction = last_layer(hidden)
        loss, _ = ours(
            CXRVQTokenizerOutput(reconstruction=reconstruction, commitment_loss=commitment),
            images,
            last_layer.weight,
            discriminator if step >= 10 else None,
        )
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
        (gradient,) = torch.autograd.grad(loss, last_layer.weight)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)

    expected, _ = theirs(commitment, images, reconstruction, 1, 10)
    loss = hinge_loss(discriminator(images), discriminator(reconstruction.detach()))
    torch.testing.assert_close(loss, expected)


def test_bf16_training_keeps_the_quantizer_and_the_output_in_fp32(tokenizer, pixel_values):
    with torch.no_grad():
        tokenizer.codebook.copy_(tokenizer(pixel_values).latents.movedim(1, -1).flatten(0, -2)[:8])
    seen = []
    tokenizer.vq_model.quantize.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].dtype))
    tokenizer.vq_model.decoder.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    exact = tokenizer(pixel_values)
    with torch.autocast("cpu", torch.bfloat16):
        fast = tokenizer(pixel_values, follow_autocast=True)
        same = tokenizer(pixel_values)
    assert seen == [torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float32]
    assert torch.equal(same.reconstruction, exact.reconstruction)
    assert fast.latents.dtype == fast.reconstruction.dtype == fast.commitment_loss.dtype == torch.float32
    # Given the latents, the codes are those of fp32.
    vectors = fast.latents.movedim(1, -1).flatten(0, -2)
    assert torch.equal(fast.codes.flatten(), torch.cdist(vectors, tokenizer.codebook).argmin(dim=1))
    torch.testing.assert_close(fast.latents, exact.latents, rtol=0.1, atol=0.05)
    loss, _ = AutoencoderLoss()(fast, pixel_values, tokenizer.vq_model.decoder.conv_out.weight)
    loss.backward()
    assert all(parameter.grad is not None for parameter in tokenizer.parameters())


def test_the_spectral_loss_of_images_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 1, 64, 64\), got \(1, 1, 32, 32\)"):
        spectral_loss(torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 64, 64))
