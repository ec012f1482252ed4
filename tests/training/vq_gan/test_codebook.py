import numpy as np
import pytest
import torch

from transformers_cxr.training.vq_gan import codebook
from transformers_cxr.training.vq_gan.codebook import CodebookKeeper
from transformers_cxr.training.vq_gan.losses import reconstruction_loss


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()


def assert_rows_are_latents(rows: torch.Tensor, latents: torch.Tensor) -> None:
    vectors = {tuple(latents[b, :, i, j].tolist()) for b in range(2) for i in range(8) for j in range(8)}
    assert {tuple(row.tolist()) for row in rows} <= vectors


def test_initialize_fills_the_codebook_with_latent_vectors(tokenizer, latents):
    keeper = CodebookKeeper(tokenizer)
    keeper.usage.fill_(0.0)
    parameter = tokenizer.codebook
    keeper.initialize(latents)
    assert_rows_are_latents(tokenizer.codebook, latents)
    assert tokenizer.codebook.unique(dim=0).shape[0] > 4
    assert (keeper.usage == 1).all()
    assert tokenizer.codebook is parameter
    assert parameter.is_leaf and parameter.requires_grad and parameter.grad_fn is None


def test_initialize_takes_fewer_vectors_than_codes(tokenizer, latents):
    CodebookKeeper(tokenizer).initialize(latents[:, :, :1, :1])
    assert_rows_are_latents(tokenizer.codebook, latents)


def test_update_is_a_moving_average_of_the_counts(tokenizer):
    keeper = CodebookKeeper(tokenizer, decay=0.9)
    batches = [torch.tensor([[0, 0, 1, 7], [0, 1, 2, 7]]), torch.tensor([[3, 3, 3, 3]])]
    expected = np.ones(8)
    for codes in batches:
        keeper.update(codes)
        expected = 0.9 * expected + 0.1 * np.bincount(codes.flatten().numpy(), minlength=8)
    np.testing.assert_allclose(keeper.usage.numpy(), expected, rtol=1e-6)


def test_an_unused_code_dies_after_the_steps_that_decay_and_min_usage_say(tokenizer):
    keeper = CodebookKeeper(tokenizer, decay=0.5, min_usage=0.2)
    for alive in (True, True, False):
        keeper.update(torch.zeros(1, 8, dtype=torch.long))
        assert (keeper.usage[1:] >= keeper.min_usage).all() == alive
    assert keeper.usage[0] > keeper.min_usage


def test_revive_moves_only_dead_codes_and_counts_them(tokenizer, latents):
    keeper = CodebookKeeper(tokenizer, min_usage=0.05)
    keeper.usage.copy_(torch.tensor([0.0, 0.05, 0.049, 1.0, 3.0, 0.01, 0.06, 1.0]))
    dead = torch.tensor([True, False, True, False, False, True, False, False])
    before, usage, parameter = tokenizer.codebook.detach().clone(), keeper.usage.clone(), tokenizer.codebook
    assert keeper.revive(latents) == 3
    assert tokenizer.codebook is parameter
    assert parameter.is_leaf and parameter.requires_grad
    assert torch.equal(parameter[~dead], before[~dead])
    assert_rows_are_latents(parameter[dead], latents)
    assert (keeper.usage[dead] == 1).all()
    assert torch.equal(keeper.usage[~dead], usage[~dead])
    assert keeper.revive(latents) == 0


def test_revive_without_dead_codes_changes_nothing_and_draws_nothing(tokenizer, latents):
    keeper = CodebookKeeper(tokenizer)
    before, state = tokenizer.codebook.detach().clone(), torch.get_rng_state()
    assert keeper.revive(latents) == 0
    assert torch.equal(tokenizer.codebook, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_fixes_what_initialize_and_revive_draw(tokenizer, latents):
    codebooks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        keeper = CodebookKeeper(tokenizer)
        keeper.initialize(latents)
        keeper.usage[:5] = 0.0
        keeper.revive(latents)
        codebooks.append(tokenizer.codebook.detach().clone())
    assert torch.equal(codebooks[0], codebooks[1])
    assert not torch.equal(codebooks[0], codebooks[2])


def test_state_dict_resumes_the_usage(tokenizer, tmp_path):
    keeper = CodebookKeeper(tokenizer)
    keeper.update(torch.tensor([[0, 0, 1, 7]]))
    torch.save(keeper.state_dict(), tmp_path / "keeper.pt")
    resumed = CodebookKeeper(tokenizer)
    resumed.load_state_dict(torch.load(tmp_path / "keeper.pt"))
    assert torch.equal(resumed.usage, keeper.usage)
    for one in (keeper, resumed):
        one.update(torch.tensor([[2, 2, 2, 2]]))
    assert torch.equal(resumed.usage, keeper.usage)


def test_a_revived_codebook_still_trains(tokenizer, latents):
    pixel_values = torch.rand(1, 1, 32, 32) * 2 - 1
    output = tokenizer(pixel_values)
    keeper = CodebookKeeper(tokenizer)
    keeper.initialize(output.latents)
    output = tokenizer(pixel_values)
    (reconstruction_loss(output.reconstruction, pixel_values) + output.commitment_loss).backward()
    assert tokenizer.codebook.grad is not None
    assert torch.isfinite(tokenizer.codebook.grad).all()


def test_every_process_takes_what_the_main_process_draws(tokenizer, latents, monkeypatch):
    drawn = []

    def receive(indices):
        # What `broadcast` does: another process has drawn other indices, and those of the main process replace them.
        drawn.append(indices)
        return torch.arange(len(indices))

    monkeypatch.setattr(codebook, "broadcast", receive)
    CodebookKeeper(tokenizer).initialize(latents)
    assert len(drawn) == 1
    assert torch.equal(tokenizer.codebook, latents.movedim(1, -1).flatten(0, -2)[:8])


def test_perplexity_and_live_share_follow_the_usage(tokenizer):
    keeper = CodebookKeeper(tokenizer)
    assert keeper.perplexity == pytest.approx(8)
    assert keeper.live_share == 1 and not keeper.has_collapsed
    keeper.usage.copy_(torch.tensor([4.0, 4.0, 0, 0, 0, 0, 0, 0]))
    assert keeper.perplexity == pytest.approx(2)
    assert keeper.live_share == 0.25 and not keeper.has_collapsed


def test_a_codebook_of_which_one_code_in_sixteen_is_used_has_collapsed(tokenizer):
    keeper = CodebookKeeper(tokenizer)
    keeper.usage = torch.ones(64)
    for _ in range(400):
        keeper.update(torch.arange(4).repeat(8)[None])
    assert 4 < keeper.perplexity < 6.4
    assert keeper.has_collapsed
