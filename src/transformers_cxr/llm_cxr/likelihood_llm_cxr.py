"""Likelihoods of answers and of images, what an answer depends on, and a check for images that are no chest X-rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers.utils import logging

from .generation_llm_cxr import image_request, question_about

if TYPE_CHECKING:
    from .modeling_llm_cxr import LlmCxrForCausalLM
    from .processing_llm_cxr import LlmCxrProcessor

logger = logging.get_logger(__name__)

BATCH_SIZE = 16
NOT_A_CHEST_XRAY = (
    "This does not look like an upright chest X-ray of the kind that the model was trained on. What it says about it "
    "means nothing."
)


@torch.no_grad()
def answer_log_likelihoods(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    image_codes: Sequence[Sequence[int]] | torch.LongTensor,
    instruction: str | Sequence[str],
    answers: Sequence[str],
) -> torch.FloatTensor:
    """
    Return how likely the model gives certain answers to instructions or questions about X-rays. Each prompt runs once
    for all answers.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor of a checkpoint.
        image_codes (integers of shape `(num_requests, num_image_tokens)`):
            Codes of the X-ray of each request, as `model.vq_tokenizer.encode` returns them.
        instruction (`str` or sequence of `str`):
            Instruction or question, one for all requests or one for each. Special tokens in it become plain text.
        answers (sequence of `str`):
            Answers, the same for all requests, such as `["Yes.", "No."]`.

    Returns:
        `torch.FloatTensor` of shape `(num_requests, num_answers)` on the CPU: natural logarithms of the probabilities
        that the model gives each answer, word for word and to its end, when it samples at temperature 1. The
        probabilities of different answers add up to at most 1; the rest is that of all other answers.

    Raises:
        ValueError: The processor and the model do not belong together, the numbers of X-rays and instructions do not
            match, `answers` is not a list with at least one, or a prompt and its answers exceed the context.
    """
    model.check_processor(processor)
    instructions = [instruction] * len(image_codes) if isinstance(instruction, str) else list(instruction)
    if len(instructions) != len(image_codes):
        raise ValueError(
            f"Expected one instruction for each X-ray, got {len(instructions)} for {len(image_codes)} X-rays."
        )
    if isinstance(answers, str) or not answers:
        raise ValueError(f"Expected a list of answers, got {answers!r}.")
    ids, mask = _answer_ids(processor, answers)
    ids, mask = ids.to(model.device), mask.to(model.device)
    results = []
    for start in range(0, len(instructions), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        prompts = [[question_about(text)] for text in instructions[batch]]
        inputs = processor.encode_prompts(prompts, image_codes=image_codes[batch]).to(model.device)
        model.check_context(inputs.input_ids.shape[1] + ids.shape[1])
        positions = (inputs.attention_mask.cumsum(-1) - 1).clamp(min=0)
        first = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
        cache, copies = first.past_key_values, len(answers)
        cache.reorder_cache(torch.arange(len(prompts), device=model.device).repeat_interleave(copies))
        rows, rows_mask = ids.repeat(len(prompts), 1), mask.repeat(len(prompts), 1)
        following = model(
            rows[:, :-1],
            attention_mask=torch.cat([inputs.attention_mask.repeat_interleave(copies, 0), rows_mask[:, :-1]], dim=1),
            position_ids=positions[:, -1:].repeat_interleave(copies, 0) + torch.arange(1, ids.shape[1]).to(positions),
            past_key_values=cache,
        )
        logits = torch.cat([first.logits.repeat_interleave(copies, 0), following.logits], dim=1)
        token_log_likelihoods = logits.float().log_softmax(-1).gather(-1, rows[..., None]).squeeze(-1)
        results.append((token_log_likelihoods * rows_mask).sum(-1).view(-1, copies).cpu())
    return torch.cat(results)


def _answer_ids(processor: LlmCxrProcessor, answers: Sequence[str]) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Return the ids of answers with the tokens that end a response, padded on the right, and their mask."""
    prompt = processor.apply_chat_template([question_about("")], add_generation_prompt=True)
    texts = []
    for answer in answers:
        whole = processor.apply_chat_template([question_about(""), {"role": "assistant", "content": answer}])
        texts.append(whole.removeprefix(prompt))
    encoded = processor.tokenizer(texts, add_special_tokens=False).input_ids
    rows = [torch.tensor(ids) for ids in encoded]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids, mask


def occlusion_map(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    image_codes: Sequence[int] | torch.LongTensor,
    instruction: str,
    answer: str,
    block_size: int = 2,
) -> torch.FloatTensor:
    """
    Return which parts of an X-ray an answer depends on: how much its log-odds fall if a block of codes is replaced by
    the code that is closest to the mean of the image (occlusion, arXiv 1311.2901).

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor of a checkpoint.
        image_codes (integers of shape `(num_image_tokens,)`):
            Codes of the X-ray in raster order.
        instruction (`str`):
            Instruction or question.
        answer (`str`):
            The answer, such as one of [`generate_text`].
        block_size (`int`, *optional*, defaults to 2):
            Side of the square blocks, in codes.

    Returns:
        `torch.FloatTensor` of shape `(grid_size / block_size, grid_size / block_size)` on the CPU: for each block the
        log-odds of the answer to the whole X-ray, minus those without the block. Positive: the block supports the
        answer; negative: it speaks against it.

    Raises:
        ValueError: `block_size` does not divide the grid, the codes are not those of an image, or an error of
            [`answer_log_likelihoods`].
    """
    grid_size = model.config.vq_config.grid_size
    if block_size < 1 or grid_size % block_size:
        raise ValueError(f"`block_size` must divide the grid of {grid_size}x{grid_size} codes, got {block_size}.")
    codes = torch.from_numpy(processor.check_codes([image_codes])[0])
    codebook = model.vq_tokenizer.codebook.detach().float().cpu()
    neutral = torch.cdist(codebook[codes].mean(0, keepdim=True), codebook).argmin()
    side = grid_size // block_size
    blocks = torch.arange(side**2).view(side, side)
    block_of_code = blocks.repeat_interleave(block_size, 0).repeat_interleave(block_size, 1).flatten()
    occluded = torch.where(block_of_code == blocks.view(-1, 1), neutral, codes)
    rows = torch.cat([codes[None], occluded])
    log_likelihoods = answer_log_likelihoods(model, processor, rows, instruction, [answer])[:, 0].double()
    # Log-odds still change where the probability is almost 1.
    log_odds = log_likelihoods - (-torch.expm1(log_likelihoods.clamp(max=-1e-7))).log()
    return (log_odds[0] - log_odds[1:]).view(side, side).float()


@torch.no_grad()
def chest_xray_scores(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, image_codes: Sequence[Sequence[int]] | torch.LongTensor
) -> torch.FloatTensor:
    """
    Return how much better images fit the chest X-rays that the model generates than they do upside down. A difference,
    because the likelihood itself mostly tells how smooth an image is.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor of a checkpoint.
        image_codes (integers of shape `(num_images, num_image_tokens)`):
            Codes of the images in raster order.

    Returns:
        `torch.FloatTensor` of shape `(num_images,)` on the CPU: log-likelihood of the codes after the prompt of an
        empty text, minus that of the codes with their rows in reverse order, divided by the number of codes.

    Raises:
        ValueError: The processor and the model do not belong together, or the codes are not those of whole images.
    """
    model.check_processor(processor)
    codes, grid_size = torch.from_numpy(processor.check_codes(image_codes)), model.config.vq_config.grid_size
    turned = codes.view(-1, grid_size, grid_size).flip(1).flatten(1)
    prompt = processor.encode_prompts([[image_request("", processor.image_instruction)]]).input_ids
    prompt = torch.cat([prompt, torch.tensor([[model.config.boi_token_id]])], dim=1)
    first, size = model.config.image_token_offset, model.config.vq_config.codebook_size
    log_likelihoods = []
    for batch in torch.cat([codes, turned]).split(BATCH_SIZE):
        ids = torch.cat([prompt.expand(len(batch), -1), batch + first], dim=1)[:, :-1].to(model.device)
        logits = model(ids, logits_to_keep=batch.shape[1]).logits[..., first : first + size].float().cpu()
        log_likelihoods.append(logits.log_softmax(-1).gather(-1, batch[..., None]).mean((1, 2)))
    upright, upside_down = torch.cat(log_likelihoods).chunk(2)
    return upright - upside_down


def not_chest_xrays(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, image_codes: Sequence[Sequence[int]] | torch.LongTensor
) -> list[bool]:
    """
    Return which images do not look like the chest X-rays that the model was trained on: their [`chest_xray_scores`]
    are below `config.min_chest_xray_score`. X-rays that are upside down or inverted are among them.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor of a checkpoint. One without this limit, and one on a server, finds none.
        image_codes (integers of shape `(num_images, num_image_tokens)`):
            Codes of the images in raster order.

    Returns:
        `list[bool]`: for each image, whether it does not look like a chest X-ray.
    """
    limit = model.config.min_chest_xray_score
    if limit is None or not isinstance(model, torch.nn.Module):
        return [False] * len(image_codes)
    return (chest_xray_scores(model, processor, image_codes) < limit).tolist()


def warn_about_other_images(model, processor, image_codes, names: Sequence[str] | None = None) -> None:
    """Log a warning for each of [`not_chest_xrays`], with its name or its number."""
    found = not_chest_xrays(model, processor, image_codes)
    names = names or [f"Image {number} of {len(found)}" for number in range(1, len(found) + 1)]
    for name, is_other in zip(names, found):
        if is_other:
            logger.warning(f"{name}: {NOT_A_CHEST_XRAY}")


__all__ = ["answer_log_likelihoods", "chest_xray_scores", "not_chest_xrays", "occlusion_map"]
