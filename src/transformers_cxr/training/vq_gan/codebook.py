"""Codebook initialization and dead-code revival."""

from __future__ import annotations

import math

import torch
from accelerate.utils import broadcast
from transformers.utils import logging

from ...llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer

logger = logging.get_logger(__name__)


class CodebookManager:
    """
    Track the usage of the codebook, initialize it from encoder outputs, and move dead codes onto encoder outputs (the
    restarts of Jukebox, arXiv 2005.00341, section 3.1).

    Under Accelerate every process passes the codes and latents of all processes (`Accelerator.gather`) and gets the
    same codebook, because the main process chooses the latents.

    Args:
        tokenizer ([`CXRVQTokenizer`]):
            The tokenizer in training. `fsq_levels` are neither initialized nor revived.
        initialize_step (`int`, *optional*, defaults to -1):
            Step of [`~CodebookManager.maintain`] that initializes the codebook; -1 never does.
        revive_every (`int`, *optional*, defaults to 0):
            Steps between revivals after it; 0 never revives.
        revive_until (`float`, *optional*, defaults to infinity):
            Step from which codes are not revived.
        decay (`float`, *optional*, defaults to `0.99`):
            Decay of the moving average of a code's uses per step.
        min_usage (`float`, *optional*, defaults to `0.05`):
            A code with a lower average is dead.
    """

    def __init__(
        self,
        tokenizer: CXRVQTokenizer,
        initialize_step: int = -1,
        revive_every: int = 0,
        revive_until: float = math.inf,
        decay: float = 0.99,
        min_usage: float = 0.05,
    ):
        self.tokenizer = tokenizer
        self.initialize_step = initialize_step
        self.revive_every = revive_every
        self.revive_until = revive_until
        self.decay = decay
        self.min_usage = min_usage
        self.usage = torch.ones(tokenizer.config.codebook_size, device=tokenizer.device)
        self._is_collapsed = False

    @property
    def live_fraction(self) -> float:
        """Fraction of the codes that are not dead, in [0, 1]."""
        return (self.usage >= self.min_usage).float().mean().item()

    @property
    def perplexity(self) -> float:
        """
        Exponential of the entropy of the usage, in [1, codebook_size]. It starts at `codebook_size` and is meaningful
        after about `3 / (1 - decay)` steps.
        """
        return torch.special.entr(self.usage / self.usage.sum()).sum().exp().item()

    def warn_if_collapsed(self, step: int) -> None:
        """Warn when the perplexity falls below a tenth of the codebook size."""
        was_collapsed, self._is_collapsed = self._is_collapsed, self.perplexity < len(self.usage) / 10
        if self._is_collapsed and not was_collapsed:
            logger.warning(
                f"The codebook has collapsed at step {step}: its perplexity is {self.perplexity:.0f} of "
                f"{len(self.usage)}. Revive dead codes more often (`revive_every`), initialize the codebook from the "
                "data (`initialize_codebook_step`), or lower the learning rate."
            )

    def maintain(self, latents: torch.FloatTensor, step: int) -> None:
        """
        Initialize the codebook or revive dead codes, if it is time for it.

        Args:
            latents (`torch.FloatTensor` of shape `(batch_size, codebook_dim, grid_size, grid_size)`): encoder outputs.
            step (`int`): steps before this one.
        """
        if self.tokenizer.config.fsq_levels:
            return
        if step == self.initialize_step:
            self.initialize(latents)
        elif self.initialize_step < step < self.revive_until and self.revive_every and step % self.revive_every == 0:
            self.revive(latents)

    @torch.no_grad()
    def initialize(self, latents: torch.FloatTensor) -> None:
        """Replace the codebook by random vectors of `latents` (`(batch_size, codebook_dim, grid_size, grid_size)`)."""
        self.tokenizer.codebook.copy_(self._sample(latents, len(self.usage)))
        self.usage.fill_(1.0)

    @torch.no_grad()
    def update(self, codes: torch.LongTensor) -> None:
        """Update the usage with the `codes` of a step (`(batch_size, num_image_tokens)`)."""
        counts = torch.bincount(codes.flatten(), minlength=len(self.usage))
        self.usage.lerp_(counts.to(self.usage.dtype), 1 - self.decay)

    @torch.no_grad()
    def revive(self, latents: torch.FloatTensor) -> int:
        """Replace dead codes by random vectors of `latents` and return their number."""
        dead = self.usage < self.min_usage
        count = int(dead.sum())
        if count:
            self.tokenizer.codebook[dead] = self._sample(latents, count)
            self.usage[dead] = 1.0
        return count

    def _sample(self, latents: torch.FloatTensor, count: int) -> torch.FloatTensor:
        vectors = latents.movedim(1, -1).flatten(0, -2)
        # Each process has its own random state.
        return vectors[broadcast(torch.randint(len(vectors), (count,), device=vectors.device))]

    def state_dict(self) -> dict:
        return {"usage": self.usage}

    def load_state_dict(self, state: dict) -> None:
        self.usage.copy_(state["usage"])
