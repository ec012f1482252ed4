"""The reconstruction loss of the VQ-GAN and the care of its codebook."""

from __future__ import annotations

import torch

from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer


def reconstruction_loss(
    reconstruction: torch.FloatTensor,
    pixel_values: torch.FloatTensor,
    gradient_weight: float = 1.0,
    squared_weight: float = 0.0,
) -> torch.FloatTensor:
    """
    Mean absolute error of the pixels, plus that of their finite differences, which keeps edges that L1 alone would blur,
    plus their mean squared error, which is what PSNR measures.

    Args:
        reconstruction, pixel_values (`torch.FloatTensor` of shape `(batch_size, channels, height, width)`):
            Images in [-1, 1].
        gradient_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the finite differences.
        squared_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the squared error.

    Returns:
        `torch.FloatTensor` of shape `()`.
    """
    error = reconstruction - pixel_values
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + gradient_weight * gradient + squared_weight * error.square().mean()


class CodebookKeeper:
    """
    Keeps the codebook alive: fills it from the data at the start, and moves codes that nothing uses onto encoder outputs
    of the current batch (the restarts of Jukebox, arXiv 2005.00341, section 3.1).

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
        return vectors[torch.randint(len(vectors), (count,), device=vectors.device)]

    def state_dict(self) -> dict:
        return {"usage": self.usage}

    def load_state_dict(self, state: dict) -> None:
        self.usage.copy_(state["usage"])
