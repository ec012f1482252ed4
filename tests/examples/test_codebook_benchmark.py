"""The quantizers of `benchmarks/codebooks.py`."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F


@pytest.fixture(scope="module")
def ways(load_script):
    with load_script("benchmarks/codebooks.py") as module:
        yield module


@pytest.fixture
def codebook() -> nn.Parameter:
    return nn.Parameter(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_the_plain_way_is_the_quantizer_of_the_tokenizer(ways, tokenizer):
    with torch.no_grad():
        tokenizer.codebook.normal_(generator=torch.Generator().manual_seed(0))
    grid = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    expected, expected_loss, (_, _, expected_codes) = tokenizer.vq_model.quantize(grid)
    quantized, loss, codes = ways.Nearest(tokenizer.codebook)(grid.movedim(1, -1).flatten(0, -2))
    torch.testing.assert_close(quantized, expected.movedim(1, -1).flatten(0, -2))
    torch.testing.assert_close(loss, expected_loss)
    assert torch.equal(codes, expected_codes)


def test_the_rotation_ends_in_the_code_and_turns_the_gradient_by_its_matrix(ways, codebook, latents):
    quantized, _, codes = ways.Rotation(codebook)(latents)
    torch.testing.assert_close(quantized, codebook[codes], rtol=1e-4, atol=1e-5)
    weights = torch.randn(20, 3, generator=torch.Generator().manual_seed(2))
    (quantized * weights).sum().backward()
    for latent, code, weight, gradient in zip(latents.detach(), codes, weights, latents.grad):
        source, target = F.normalize(latent, dim=0), F.normalize(codebook[code].detach(), dim=0)
        middle = F.normalize(source + target, dim=0)
        rotation = torch.eye(3) - 2 * torch.outer(middle, middle) + 2 * torch.outer(target, source)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), rtol=1e-4, atol=1e-5)
        scale = codebook[code].detach().norm() / latent.norm()
        torch.testing.assert_close(gradient, scale * rotation.T @ weight, rtol=1e-4, atol=1e-4)


def test_a_code_of_ema_ends_in_the_mean_of_its_latents(ways, codebook, latents):
    codebook.data[1:] += 100.0
    quantizer = ways.Ema(codebook, decay=0.9)
    _, _, codes = quantizer(latents)
    assert not codes.any()
    before = codebook[0].clone()
    with torch.no_grad():
        quantizer.after_step(latents, codes)
    torch.testing.assert_close(codebook[0], (0.9 * before + 0.1 * latents.sum(dim=0)) / (0.9 + 0.1 * 20))
    with torch.no_grad():
        for _ in range(200):
            quantizer.after_step(latents, codes)
    torch.testing.assert_close(codebook[0], latents.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_cosine_takes_the_code_of_the_smallest_angle_whatever_its_length(ways, codebook, latents):
    codebook.data *= torch.arange(1.0, 9.0)[:, None]
    quantized, _, codes = ways.Cosine(codebook)(latents)
    expected = F.cosine_similarity(latents[:, None], codebook[None], dim=-1).argmax(dim=1)
    assert torch.equal(codes, expected)
    torch.testing.assert_close(quantized.norm(dim=1), torch.ones(20))


def test_fsq_has_a_thousand_codes_and_each_is_one_point(ways):
    latents = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0)) * 2
    quantized, _, codes = ways.Fsq(nn.Parameter(torch.zeros(8, 4)))(latents)
    assert sorted(codes.unique().tolist()) == list(range(1000))
    points = torch.unique(torch.cat([codes[:, None].float(), quantized.round(decimals=4)], dim=1), dim=0)
    assert len(points) == 1000
    assert [len(quantized[:, i].round(decimals=4).unique()) for i in range(4)] == [8, 5, 5, 5]


def test_lookup_free_codes_are_the_bits_of_the_signs(ways):
    latents = torch.tensor([[-1.0] * 10, [1.0] + [-1.0] * 9, [-0.5] * 9 + [2.0], [3.0] * 10]).requires_grad_()
    quantized, loss, codes = ways.LookupFree(nn.Parameter(torch.zeros(8, 10)))(latents)
    assert codes.tolist() == [0, 1, 512, 1023]
    assert torch.equal(quantized.detach(), latents.detach().sign())
    loss.backward()
    assert torch.isfinite(latents.grad).all()
