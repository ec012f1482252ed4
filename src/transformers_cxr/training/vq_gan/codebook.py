"""The care of the VQ-GAN's codebook in training."""

from __future__ import annotations

import torch
from accelerate.utils import broadcast

from ...llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer


class CodebookKeeper:
    """
    Keeps the codebook alive: fills it from the data at the start, and moves codes that nothing uses onto encoder outputs
    of the current batch (the restarts of Jukebox, arXiv 2005.00341, section 3.1).

    Under Accelerate every process gives it the codes and latents of all processes (`Accelerator.gather`) and gets the same
    codebook: the main process draws for all of them.

    Args:
        tokenizer ([`CXRVQTokenizer`]):
            The tokenizer in training.
        decay (`float`, *optional*, defaults to `0.99`):
            Decay of the moving average of the uses of a code a step.
        min_usage (`float`, *optional*, defaults to `0.05`):
            A code whose average falls below this many uses a step is dead.
    """

    def __init__(self, tokenizer: CXRVQTokenizer, decay: float = 0.99, min_usage: float = 0.05):
        self.tokenizer = tokenizer
        self.decay = decay
        self.min_usage = min_usage
        self.usage = torch.ones(tokenizer.config.codebook_size, device=tokenizer.device)

    @property
    def live_share(self) -> float:
        """Share of the codes that are not dead, in [0, 1]."""
        return (self.usage >= self.min_usage).float().mean().item()

    @property
    def perplexity(self) -> float:
        """
        Exponential of the entropy of the moving average of the uses, in [1, codebook_size]. It starts at `codebook_size`
        and sinks as the steps show which codes are used, over some `3 / (1 - decay)` steps.
        """
        return torch.special.entr(self.usage / self.usage.sum()).sum().exp().item()

    @property
    def has_collapsed(self) -> bool:
        """Whether the perplexity is below a tenth of the codebook: a few codes do all the work."""
        return self.perplexity < len(self.usage) / 10

    @torch.no_grad()
    def initialize(self, latents: torch.FloatTensor) -> None:
        """Fills the codebook with random vectors of `latents` (`(batch_size, codebook_dim, grid_size, grid_size)`)."""
        self.tokenizer.codebook.copy_(self._sample(latents, len(self.usage)))
        self.usage.fill_(1.0)

    @torch.no_grad()
    def update(self, codes: torch.LongTensor) -> None:
        """Counts the uses in a step's `codes` (`(batch_size, num_image_tokens)`)."""
        counts = torch.bincount(codes.flatten(), minlength=len(self.usage))
        self.usage.lerp_(counts.to(self.usage.dtype), 1 - self.decay)

    @torch.no_grad()
    def revive(self, latents: torch.FloatTensor) -> int:
        """Moves the dead codes onto random vectors of `latents` and returns their number."""
        dead = self.usage < self.min_usage
        count = int(dead.sum())
        if count:
            self.tokenizer.codebook[dead] = self._sample(latents, count)
            self.usage[dead] = 1.0
        return count

    def _sample(self, latents: torch.FloatTensor, count: int) -> torch.FloatTensor:
        vectors = latents.movedim(1, -1).flatten(0, -2)
        # Each process has its own random state; other draws would leave each with another codebook.
        return vectors[broadcast(torch.randint(len(vectors), (count,), device=vectors.device))]

    def state_dict(self) -> dict:
        return {"usage": self.usage}

    def load_state_dict(self, state: dict) -> None:
        self.usage.copy_(state["usage"])
