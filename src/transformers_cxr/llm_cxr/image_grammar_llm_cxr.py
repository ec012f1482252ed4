"""Image grammar: a logits processor that keeps every generated image whole."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from .configuration_llm_cxr import LlmCxrConfig


class ImageGrammarLogitsProcessor(LogitsProcessor):
    """
    Allow only well-formed output: after the begin-of-image token come exactly `num_image_tokens` codes and the
    end-of-image token; text holds no other image tokens, and an image begins only if it can end before `max_length`.
    If begin and end are ordinary text tokens (`config.text_image_markers`), text may hold both, and the first code
    begins the image.

    It has no state and treats each row on its own, so batches, beams and caches of any kind work.

    Args:
        config ([`LlmCxrConfig`]):
            Configuration with the token ids and the number of codes of an image.
        allow_images (`bool`, *optional*, defaults to `True`):
            Whether an image may begin. An image that the prompt has begun is completed in any case.
        max_length (`int`, *optional*):
            Number of tokens, prompt included, after which generation ends.
    """

    def __init__(self, config: LlmCxrConfig, allow_images: bool = True, max_length: int | None = None):
        self.config = config
        self.allow_images = allow_images
        self.max_length = max_length
        self.num_image_tokens = config.vq_config.num_image_tokens
        self.code_end = config.image_token_offset + config.vq_config.codebook_size

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        config = self.config
        tail = input_ids[:, -self.num_image_tokens :]
        is_code = (tail >= config.image_token_offset) & (tail < self.code_end)
        # Number of codes at the end of each row.
        run = is_code.flip(-1).long().cumprod(-1).sum(-1, keepdim=True)
        image_full = run == self.num_image_tokens
        image_begun = (run > 0) & ~image_full

        ids = torch.arange(scores.shape[-1], device=scores.device)
        codes = (ids >= config.image_token_offset) & (ids < self.code_end)
        text = ~codes & (ids != config.image_token_id)
        # A prompt of embeddings has no ids.
        after_boi = (input_ids[:, -1:] == config.boi_token_id).any(-1, keepdim=True)
        end = input_ids.shape[1] + self.num_image_tokens + (1 if config.text_image_markers else 2)
        may_begin = self.allow_images and (self.max_length is None or end <= self.max_length)
        if config.text_image_markers:
            text = text | (codes & after_boi & may_begin)
        else:
            text &= (ids != config.eoi_token_id) & ((ids != config.boi_token_id) | may_begin)
            image_begun |= after_boi
        allowed = torch.where(image_begun, codes, torch.where(image_full, ids == config.eoi_token_id, text))
        scores = scores.masked_fill(~allowed, -torch.inf)
        # Other processors, such as `no_repeat_ngram_size`, may have excluded every token that continues the image.
        stuck = (image_begun | image_full) & scores.isneginf().all(-1, keepdim=True)
        return scores.masked_fill(allowed & stuck, 0)


__all__ = ["ImageGrammarLogitsProcessor"]
