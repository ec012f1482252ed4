import numpy as np
import pytest
import torch

from transformers_cxr.training.vq_gan import CodebookManager, codebook


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()


def assert_rows_are_latents(rows: torch.Tensor, latents: torch.Tensor) -> None:
    vectors = set(map(tuple, latents.movedim(1, -1).flatten(0, -2).tolist()))
    assert set(map(tuple, rows.tolist())) <= vectors


def test_initialize_fills_the_codebook_with_latents(tokenizer, latents):
    manager = CodebookManager(tokenizer)
    manager.usage.fill_(0.0)
    manager.initialize(latents[:, :, :1, :1])
    assert_rows_are_latents(tokenizer.codebook, latents)
    manager.initialize(latents)
    assert_rows_are_latents(tokenizer.codebook, latents)
    assert len(tokenizer.codebook.unique(dim=0)) > 4
    assert (manager.usage == 1).all()


def test_update_is_a_moving_average_of_the_counts(tokenizer):
    manager = CodebookManager(tokenizer, decay=0.9)
    batches = [torch.tensor([[0, 0, 1, 7], [0, 1, 2, 7]]), torch.tensor([[3, 3, 3, 3]])]
    expected = np.ones(8)
    for codes in batches:
        manager.update(codes)
        expected = 0.9 * expected + 0.1 * np.bincount(codes.flatten().numpy(), minlength=8)
    np.testing.assert_allclose(manager.usage.numpy(), expected, rtol=1e-6)


def test_revive_replaces_only_dead_codes_and_counts_them(tokenizer, latents):
    manager = CodebookManager(tokenizer, min_usage=0.05)
    manager.usage.copy_(torch.tensor([0.0, 0.05, 0.049, 1.0, 3.0, 0.01, 0.06, 1.0]))
    dead = torch.tensor([True, False, True, False, False, True, False, False])
    before, usage = tokenizer.codebook.detach().clone(), manager.usage.clone()
    assert manager.revive(latents) == 3
    assert torch.equal(tokenizer.codebook[~dead], before[~dead])
    assert_rows_are_latents(tokenizer.codebook[dead], latents)
    assert (manager.usage[dead] == 1).all()
    assert torch.equal(manager.usage[~dead], usage[~dead])
    # Without dead codes the random state does not change.
    state = torch.get_rng_state()
    assert manager.revive(latents) == 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("fsq_levels", "calls"), [(None, ["initialize 3", "revive 4", "revive 6"]), ([2, 4], [])])
def test_maintain_initializes_then_revives_and_leaves_fixed_levels(tokenizer, latents, monkeypatch, fsq_levels, calls):
    tokenizer.config.fsq_levels, seen = fsq_levels, []
    manager = CodebookManager(tokenizer, initialize_step=3, revive_every=2, revive_until=7.5)
    for name in ("initialize", "revive"):
        monkeypatch.setattr(manager, name, lambda latents, name=name: seen.append(f"{name} {step}"))
    for step in range(10):
        manager.maintain(latents, step)
    assert seen == calls


def test_every_process_takes_the_latents_that_the_main_process_chooses(tokenizer, latents, monkeypatch):
    # `broadcast` replaces the indices of another process by those of the main process.
    monkeypatch.setattr(codebook, "broadcast", lambda indices: torch.arange(len(indices)))
    CodebookManager(tokenizer).initialize(latents)
    assert torch.equal(tokenizer.codebook, latents.movedim(1, -1).flatten(0, -2)[:8])


def test_perplexity_and_live_fraction_follow_the_usage(tokenizer):
    manager = CodebookManager(tokenizer)
    assert manager.perplexity == pytest.approx(8)
    assert manager.live_fraction == 1
    manager.usage.copy_(torch.tensor([4.0, 4.0, 0, 0, 0, 0, 0, 0]))
    assert manager.perplexity == pytest.approx(2)
    assert manager.live_fraction == 0.25


def test_a_collapse_gives_one_warning(tokenizer, caplog):
    manager = CodebookManager(tokenizer)
    manager.usage = torch.ones(64)
    for step in range(400):
        manager.update(torch.arange(4).repeat(8)[None])
        manager.warn_if_collapsed(step)
    assert 4 < manager.perplexity < 6.4
    assert caplog.text.count("The codebook has collapsed at step") == 1
