import numpy as np
import pytest
import torch

from transformers_cxr.llm_cxr.configuration_llm_cxr import CXRVQTokenizerConfig
from transformers_cxr.llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer


def tiny_config(**overrides) -> CXRVQTokenizerConfig:
    fields = {
        "image_size": 32,
        "in_channels": 1,
        "block_out_channels": (8, 8, 16),
        "layers_per_block": 1,
        "attention_levels": (2,),
        "latent_channels": 8,
        "norm_num_groups": 4,
        "codebook_size": 16,
        "codebook_dim": 4,
    }
    return CXRVQTokenizerConfig(**(fields | overrides))


def random_images(config: CXRVQTokenizerConfig, batch_size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch_size, config.in_channels, config.image_size, config.image_size, generator=generator) * 2 - 1
    )


def make_tokenizer(seed: int = 0, **overrides) -> CXRVQTokenizer:
    """A random tiny tokenizer whose codebook holds encoder outputs, so that its codes are not all the same."""
    torch.manual_seed(seed)
    tokenizer = CXRVQTokenizer(tiny_config(**overrides)).eval()
    with torch.no_grad():
        latents = tokenizer(random_images(tokenizer.config, 4, seed=100)).latents
        vectors = latents.permute(0, 2, 3, 1).reshape(-1, tokenizer.config.codebook_dim)
        tokenizer.codebook.copy_(vectors[torch.randperm(len(vectors))[: tokenizer.config.codebook_size]])
    return tokenizer


@pytest.fixture
def tokenizer() -> CXRVQTokenizer:
    return make_tokenizer()


@pytest.fixture
def pixel_values(tokenizer) -> torch.Tensor:
    return random_images(tokenizer.config, 3)


@pytest.mark.parametrize(
    ("fields", "grid_size"),
    [
        ({"block_out_channels": (8,), "attention_levels": (0,)}, 32),
        ({"block_out_channels": (4, 8, 8, 8, 8), "attention_levels": (3, 4)}, 2),
        ({"block_out_channels": (8, 16), "attention_levels": (), "patch_size": 4}, 4),
    ],
)
def test_shapes_follow_from_the_config(fields, grid_size):
    tokenizer = make_tokenizer(**fields)
    config = tokenizer.config
    assert (config.grid_size, config.num_image_tokens) == (grid_size, grid_size**2)
    codes = tokenizer.encode(random_images(config, 2))
    assert codes.shape == (2, grid_size**2)
    assert codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < config.codebook_size
    images = tokenizer.decode(codes)
    assert images.shape == (2, 1, 32, 32)
    assert images.dtype == torch.float32


@torch.no_grad()
def test_decoding_the_codes_gives_the_clamped_reconstruction_of_forward(tokenizer, pixel_values):
    tokenizer.vq_model.decoder.conv_out.weight.mul_(8)
    reconstruction = tokenizer(pixel_values).reconstruction
    assert (reconstruction.abs() > 1).any()
    decoded = tokenizer.decode(tokenizer.encode(pixel_values))
    torch.testing.assert_close(decoded, reconstruction.clamp(-1, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("levels", [(4, 4), (8, 5, 2)])
def test_fsq_codes_are_the_evenly_divided_tanh_of_the_latents(levels):
    torch.manual_seed(0)
    tokenizer = CXRVQTokenizer(tiny_config(fsq_levels=levels)).eval()
    assert tokenizer.config.codebook_size == np.prod(levels) and tokenizer.config.codebook_dim == len(levels)
    # Far out are latents that an encoder has at the end of training.
    tokenizer.vq_model.quant_conv.weight.data *= 8
    output = tokenizer(random_images(tokenizer.config, 3))
    output.latents.retain_grad()
    bounded = np.tanh(output.latents.detach().double().numpy())
    digits = [np.floor((bounded[:, i] + 1) / 2 * count).clip(0, count - 1) for i, count in enumerate(levels)]
    codes = np.ravel_multi_index(np.stack(digits).astype(int), levels).reshape(3, -1)
    assert np.array_equal(output.codes.numpy(), codes) and len(np.unique(codes)) > 4

    # Straight through the tanh; the codebook is fixed, so there is nothing to commit to.
    quantized = tokenizer.codebook[output.codes].view(3, 8, 8, -1).permute(0, 3, 1, 2).clone().requires_grad_()
    decoded = tokenizer.vq_model.decoder(tokenizer.vq_model.post_quant_conv(quantized))
    torch.testing.assert_close(decoded, output.reconstruction)
    decoded.square().sum().backward()
    output.reconstruction.square().sum().backward()
    expected = quantized.grad * (1 - torch.from_numpy(bounded).float() ** 2)
    torch.testing.assert_close(output.latents.grad, expected, rtol=1e-3, atol=1e-4)
    assert output.commitment_loss == 0 and not tokenizer.codebook.requires_grad


@pytest.mark.parametrize("fields", [{}, {"patch_size": 2, "fsq_levels": (4, 4), "in_channels": 3}])
def test_save_and_load_are_bit_equal(fields, tmp_path):
    tokenizer = make_tokenizer(**fields) if not fields else CXRVQTokenizer(tiny_config(**fields)).eval()
    pixel_values = random_images(tokenizer.config, 3)
    tokenizer.save_pretrained(tmp_path)
    loaded = CXRVQTokenizer.from_pretrained(tmp_path)
    assert loaded.config.to_dict() == tokenizer.config.to_dict() | {"_name_or_path": loaded.config._name_or_path}
    expected = tokenizer.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not loaded.training
    assert torch.equal(loaded.encode(pixel_values), tokenizer.encode(pixel_values))
    assert torch.equal(loaded(pixel_values).reconstruction, tokenizer(pixel_values).reconstruction)


@torch.no_grad()
def test_codes_do_not_change_inside_autocast(tokenizer, pixel_values):
    codes, output = tokenizer.encode(pixel_values), tokenizer(pixel_values)
    decoded = tokenizer.decode(codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert tokenizer.vq_model.encode(pixel_values).latents.dtype == torch.bfloat16
        assert torch.equal(tokenizer.encode(pixel_values), codes)
        assert torch.equal(tokenizer.decode(codes), decoded)
        inside = tokenizer(pixel_values)
    for name, value in inside.items():
        assert torch.equal(value, output[name]), name


def test_reconstruction_reaches_the_encoder_straight_through_but_not_the_codebook(tokenizer, pixel_values):
    output = tokenizer(pixel_values)
    output.latents.retain_grad()
    decoder_input = tokenizer.codebook[output.codes].detach().view(3, 8, 8, 4).permute(0, 3, 1, 2).requires_grad_()
    tokenizer.vq_model.decoder(tokenizer.vq_model.post_quant_conv(decoder_input)).square().sum().backward()
    tokenizer.zero_grad()
    output.reconstruction.square().sum().backward()
    torch.testing.assert_close(output.latents.grad, decoder_input.grad, rtol=1e-3, atol=1e-4)
    assert tokenizer.codebook.grad is None or not tokenizer.codebook.grad.any()
    assert tokenizer.vq_model.encoder.conv_in.weight.grad.abs().max() > 0


def test_commitment_loss_and_its_gradients_equal_the_formula(tokenizer, pixel_values):
    output = tokenizer(pixel_values)
    output.latents.retain_grad()
    output.commitment_loss.backward()
    latents = output.latents.detach().permute(0, 2, 3, 1).reshape(-1, 4).double().numpy()
    codes, codebook = output.codes.flatten().numpy(), tokenizer.codebook.detach().double().numpy()
    difference = codebook[codes] - latents
    mean_square = (difference**2).mean()
    assert output.commitment_loss.item() == pytest.approx(1.0 * mean_square + 0.25 * mean_square, rel=1e-5)

    latent_grad = -2 * difference / difference.size
    actual = output.latents.grad.permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    np.testing.assert_allclose(actual, latent_grad, rtol=1e-4, atol=1e-7)
    codebook_grad = np.zeros_like(codebook)
    np.add.at(codebook_grad, codes, 0.25 * 2 * difference / difference.size)
    assert np.abs(codebook_grad).max() > 0
    np.testing.assert_allclose(tokenizer.codebook.grad.numpy(), codebook_grad, rtol=1e-4, atol=1e-7)
    assert tokenizer.vq_model.encoder.conv_in.weight.grad.abs().max() > 0


def test_usage_and_perplexity_equal_numpy(tokenizer, pixel_values):
    with torch.no_grad():
        tokenizer.codebook[5:] = 1e3
    output = tokenizer(pixel_values)
    values, counts = np.unique(output.codes.numpy(), return_counts=True)
    assert len(values) > 1
    frequencies = counts / counts.sum()
    assert output.codebook_usage.item() == pytest.approx(len(values) / 16)
    assert output.codebook_perplexity.item() == pytest.approx(np.exp(-(frequencies * np.log(frequencies)).sum()))


def test_pixels_and_codes_of_another_shape_or_range_are_refused(tokenizer):
    for call in (tokenizer, tokenizer.encode):
        with pytest.raises(ValueError, match=r"Expected pixel_values of shape \(batch_size, 1, 32, 32\), got"):
            call(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="Expected 64 codes for an image of 8x8 codes.*got shape"):
        tokenizer.decode(torch.zeros(2, 63, dtype=torch.long))
    for code in (-1, 16):
        with pytest.raises(ValueError, match=rf"Code {code} is outside the codebook: codes are in \[0, 16\)"):
            tokenizer.decode(torch.tensor([[0] * 63 + [code]]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("in_channels", 2, "`in_channels` must be 1 .* or 3 .*, got 2"),
        ("image_size", 34, "`image_size` 34 is not a multiple of 4"),
        ("patch_size", 16, "`image_size` 32 is not a multiple of 64"),
        ("fsq_levels", (4, 1), "`fsq_levels` must be numbers of at least 2, got"),
        ("norm_num_groups", 3, "`norm_num_groups` 3 must divide"),
        ("attention_levels", (3,), "`attention_levels` names level 3, but .* has the levels 0 to 2"),
    ],
)
def test_bad_config_values_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**{field: value})
