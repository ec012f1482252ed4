"""Generation of LLM-CXR: the image grammar, the image loop that costs only image logits, and `generate_image`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import PIL.Image
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput, logging

from .configuration_llm_cxr import LlmCxrConfig

if TYPE_CHECKING:
    from .modeling_llm_cxr import LlmCxrForCausalLM
    from .processing_llm_cxr import LlmCxrProcessor


def seeds_of_images(seed: int | Sequence[int] | None, num_images: int) -> Sequence[int] | None:
    """`seed + i` for image `i` where there is one seed, else the seeds as they are given; those of an array as a list."""
    seed = seed.tolist() if hasattr(seed, "tolist") else seed
    return [seed + i for i in range(num_images)] if isinstance(seed, Integral) else seed


class ImageGrammarLogitsProcessor(LogitsProcessor):
    """
    Allows only well-formed interleaved output: after the begin-of-image token exactly `num_image_tokens` codes, then the
    end-of-image token; no code and no end-of-image token in text. An image that would not fit before `max_length` is not
    begun. Where begin and end are ordinary text tokens (`config.text_image_markers`), both are allowed in text, a code is
    allowed in text right after a begin-of-image token, and the first code is what begins the image.

    It looks only at the ids so far, so it holds for every row on its own: batches, beams and caches of any kind work.

    Args:
        config ([`LlmCxrConfig`]):
            Gives the token ids and the number of codes of an image.
        max_length (`int`, *optional*):
            Length in tokens, prompt included, at which generation ends.
        allow_images (`bool`, *optional*, defaults to `True`):
            `False` never begins an image; one that the prompt has begun is still finished.
    """

    def __init__(self, config: LlmCxrConfig, max_length: int | None = None, allow_images: bool = True):
        self.config = config
        self.num_image_tokens = config.vq_config.num_image_tokens
        self.code_end = config.image_token_offset + config.vq_config.codebook_size
        self.max_length = max_length
        # The length, prompt included, at which an image that the prompt has begun is whole.
        self.min_length = 0
        self.allow_images = allow_images

    def _count_codes(self, input_ids: torch.LongTensor) -> tuple[torch.LongTensor, torch.BoolTensor, torch.BoolTensor]:
        """
        Of each row (`(batch_size, 1)`): how many codes it ends with, whether it ends with the begin-of-image token, and
        whether it ends within an image.
        """
        offset, length = self.config.image_token_offset, self.num_image_tokens
        tail = input_ids[:, -length:]
        run = ((tail >= offset) & (tail < self.code_end)).flip(-1).long().cumprod(-1).sum(-1, keepdim=True)
        # A prompt that is given as embeddings has no ids.
        after_boi = (input_ids[:, -1:] == self.config.boi_token_id).any(-1, keepdim=True)
        begun = (run > 0) & (run < length)
        return run, after_boi, begun if self.config.text_image_markers else begun | after_boi

    def missing_codes(self, input_ids: torch.LongTensor) -> int:
        """The codes that a row (`(batch_size, sequence_length)`) still needs to end the image that it ends within."""
        run, _, begun = self._count_codes(input_ids)
        return int(((self.num_image_tokens - run) * begun).max())

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        config, length = self.config, self.num_image_tokens
        run, after_boi, image_begun = self._count_codes(input_ids)
        # A full run of codes is closed by the end-of-image token.
        image_full = run == length

        ids = torch.arange(scores.shape[-1], device=scores.device)
        is_code = (ids >= config.image_token_offset) & (ids < self.code_end)
        is_text = ~is_code & (ids != config.image_token_id)
        if config.text_image_markers:
            fits = self.max_length is None or input_ids.shape[1] + length + 1 <= self.max_length
            if self.allow_images and fits:
                is_text = is_text | (is_code & after_boi)
        else:
            is_text &= ids != config.eoi_token_id
            fits = self.max_length is None or input_ids.shape[1] + length + 2 <= self.max_length
            if not (self.allow_images and fits):
                is_text &= ids != config.boi_token_id
        allowed = torch.where(image_begun, is_code, torch.where(image_full, ids == config.eoi_token_id, is_text))
        scores = scores.masked_fill(~allowed, -torch.inf)
        # Other processors, as that of `no_repeat_ngram_size`, may have forbidden all that an image can go on with.
        stuck = (image_begun | image_full) & scores.isneginf().all(-1, keepdim=True)
        return scores.masked_fill(allowed & stuck, 0)


@dataclass
class LlmCxrImageOutput(ModelOutput):
    """
    Output of `LlmCxrForCausalLM.generate_image`; image `i` belongs to prompt `i // num_images`.

    codes (`torch.LongTensor` of shape `(batch_size * num_images, num_image_tokens)`):
        VQ codes in raster order, each in `[0, codebook_size)`.
    pixel_values (`torch.FloatTensor` of shape `(batch_size * num_images, in_channels, image_size, image_size)`):
        Decoded images in [-1, 1].
    """

    codes: torch.LongTensor | None = None
    pixel_values: torch.FloatTensor | None = None


def _left_pad(rows: Sequence[torch.LongTensor], device: torch.device) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Rows of ids of any length to `input_ids` and `attention_mask`, padded on the left with id 0."""
    length = max(len(row) for row in rows)
    input_ids = torch.zeros((len(rows), length), dtype=torch.long, device=device)
    attention_mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, length - len(row) :] = row
        attention_mask[index, length - len(row) :] = 1
    return input_ids, attention_mask


def _has_plain_head(language_model: nn.Module) -> bool:
    """Whether the logits are the hidden states through one linear layer, at hand and not offloaded, and nothing else."""
    config, head = language_model.config, language_model.get_output_embeddings()
    scaled = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
    return (
        type(head) is nn.Linear and not head.weight.is_meta and not any(getattr(config, name, None) for name in scaled)
    )


class LlmCxrImageGenerationMixin:
    """The image loop of [`LlmCxrForCausalLM`]."""

    @torch.no_grad()
    def generate_image(
        self: LlmCxrForCausalLM,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        num_images: int = 1,
        guidance_scale: float | None = None,
        negative_input_ids: torch.LongTensor | None = None,
        negative_attention_mask: torch.LongTensor | None = None,
        do_sample: bool = True,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | Sequence[int] | None = None,
        streamer: BaseStreamer | None = None,
    ) -> LlmCxrImageOutput:
        """
        Draws images: a prompt is prefilled once for all its images, each step computes only the logits of the codes, and
        classifier-free guidance (arXiv 2207.12598) is part of the same batch. Under `do_sample=False` the codes are those
        of `generate` after the begin-of-image token.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Prompts, padded on the left. The begin-of-image token is added where a prompt does not end with it.
            attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for tokens, 0 for padding; no padding by default.
            pixel_values (`torch.FloatTensor` of shape `(num_prompt_images, in_channels, image_size, image_size)`, *optional*):
                Images of the prompts, for the placeholders in `input_ids`.
            num_images (`int`, *optional*, defaults to 1):
                Images a prompt.
            guidance_scale (`float`, *optional*):
                Weight of the prompt against `negative_input_ids`; 1 is no guidance. The default is that of
                `generation_config.image_generation`, or else 1.
            negative_input_ids (`torch.LongTensor` of shape `(1 or batch_size, negative_length)`, *optional*):
                Prompts to be guided away from; needed for a `guidance_scale` above 1, and without them its default is 1.
            negative_attention_mask (`torch.LongTensor` of shape `(1 or batch_size, negative_length)`, *optional*):
                1 for tokens, 0 for padding.
            do_sample (`bool`, *optional*, defaults to `True`):
                Draw from the distribution; `False` takes the likeliest code.
            temperature, top_k, top_p:
                As in `generate`. The defaults are those of `generation_config.image_generation`, or else the whole distribution.
            seed (`int` or sequence of `int`, *optional*):
                One seed an image (`batch_size * num_images`), or one from which image `i` gets `seed + i`. An image
                depends on its seed and prompt, not on the batch that it is drawn in, but for rounding, which in a batch of
                another size can tip a draw now and then.
            streamer (`BaseStreamer`, *optional*):
                Receives the codes of each step as they are drawn, a `torch.LongTensor` of shape
                `(batch_size * num_images,)` on the CPU, and then `end()`. An error that it raises ends the drawing.

        Returns:
            [`LlmCxrImageOutput`].

        Raises:
            ValueError: ids of another shape, no images asked for, guidance below 1 or without a negative prompt, seeds that
                are no integers or a wrong number of them, or a prompt that leaves no room for an image in the context.
        """
        if input_ids.ndim != 2:
            raise ValueError(
                f"Expected `input_ids` of shape (batch_size, sequence_length), got {tuple(input_ids.shape)}."
            )
        if not isinstance(num_images, Integral) or num_images < 1:
            raise ValueError(f"`num_images` must be a whole number of at least 1, got {num_images}.")
        defaults = self.generation_config.image_generation
        if unknown := sorted(set(defaults) - {"guidance_scale", "temperature", "top_k", "top_p"}):
            raise ValueError(
                f"`image_generation` in the generation config has {unknown}; expected `guidance_scale`, `temperature`, "
                "`top_k` and `top_p`."
            )
        if guidance_scale is None:
            guidance_scale = defaults.get("guidance_scale", 1.0) if negative_input_ids is not None else 1.0
        temperature = defaults.get("temperature", 1.0) if temperature is None else temperature
        top_k = defaults.get("top_k") if top_k is None else top_k
        top_p = defaults.get("top_p") if top_p is None else top_p
        batch_size, total = input_ids.shape[0], input_ids.shape[0] * num_images
        if not 1 <= guidance_scale < math.inf:
            raise ValueError(f"`guidance_scale` must be at least 1 (1 is no guidance), got {guidance_scale}.")
        if guidance_scale > 1 and negative_input_ids is None:
            raise ValueError(
                f"`guidance_scale={guidance_scale}` needs `negative_input_ids`, the prompt to guide away from; "
                "`transformers_cxr.generate_image` makes one."
            )
        seeds = seeds_of_images(seed, total)
        if seeds is not None:
            if not isinstance(seeds, Sequence) or not all(isinstance(s, Integral) for s in seeds):
                raise ValueError(f"`seed` must be an integer or a list of integers, got {seeds!r}.")
            if len(seeds) != total:
                raise ValueError(f"Expected one seed for each of the {total} images, got {len(seeds)}.")
        input_ids = self._with_prompt_images(input_ids, pixel_values)

        device = self.device
        rows = self._image_prompts(input_ids, attention_mask)
        if guidance_scale > 1:
            negative_rows = self._image_prompts(negative_input_ids, negative_attention_mask)
            if len(negative_rows) not in (1, batch_size):
                raise ValueError(f"Expected 1 or {batch_size} negative prompts, got {len(negative_rows)}.")
            rows = rows + negative_rows * (batch_size // len(negative_rows))
        prompt_ids, mask = _left_pad(rows, device)
        num_codes = self.config.vq_config.num_image_tokens
        self.check_context(prompt_ids.shape[1] + num_codes + 1)

        uniforms = None
        if do_sample:
            generators = (
                [torch.Generator().manual_seed(int(s)) for s in seeds] if seeds is not None else [None] * total
            )
            uniforms = torch.stack([torch.rand(num_codes, generator=g, dtype=torch.float64) for g in generators])
            uniforms = uniforms.to(device)
        warpers = LogitsProcessorList()
        if temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(temperature))
        if top_k:
            warpers.append(TopKLogitsWarper(top_k))
        if top_p is not None and top_p != 1.0:
            warpers.append(TopPLogitsWarper(top_p))

        code_logits = self._code_logits_function()
        logits, cache = code_logits(prompt_ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), None)
        if num_images > 1:
            # Caches of every kind can be reordered, those of linear attention too.
            cache.reorder_cache(torch.arange(len(mask), device=device).repeat_interleave(num_images))
            logits = logits.repeat_interleave(num_images, dim=0)
            mask = mask.repeat_interleave(num_images, dim=0)
        positions = mask.sum(-1, keepdim=True)
        codes = torch.empty((total, num_codes), dtype=torch.long, device=device)
        for step in logging.tqdm(range(num_codes), desc="Drawing", unit="code", disable=None):
            if guidance_scale > 1:
                conditional, unconditional = logits.log_softmax(-1).chunk(2)
                logits = unconditional + guidance_scale * (conditional - unconditional)
            if do_sample:
                cumulative = warpers(codes, logits).double().softmax(-1).cumsum(-1)
                threshold = uniforms[:, step, None] * cumulative[:, -1:]
                next_codes = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
            else:
                next_codes = logits.argmax(-1)
            codes[:, step] = next_codes
            if streamer is not None:
                streamer.put(next_codes.cpu())
            if step + 1 < num_codes:
                next_ids = (next_codes + self.config.image_token_offset).repeat(len(mask) // total)
                mask = F.pad(mask, (0, 1), value=1)
                logits, cache = code_logits(next_ids[:, None], mask, positions + step, cache)
        if streamer is not None:
            streamer.end()
        return LlmCxrImageOutput(codes=codes, pixel_values=self.vq_tokenizer.decode(codes))

    def _image_prompts(
        self: LlmCxrForCausalLM, input_ids: torch.LongTensor, attention_mask: torch.LongTensor | None
    ) -> list[torch.LongTensor]:
        """The prompts without padding, each ending with the begin-of-image token."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        boi = torch.tensor([self.config.boi_token_id], device=input_ids.device)
        rows = [ids[keep.bool()] for ids, keep in zip(input_ids, attention_mask)]
        return [row if len(row) and row[-1] == boi else torch.cat([row, boi]) for row in rows]

    def _code_logits_function(self: LlmCxrForCausalLM):
        """A function `(input_ids, attention_mask, position_ids, cache) -> (last code logits in fp32, cache)`."""
        language_model = self.language_model
        codes = slice(
            self.config.image_token_offset, self.config.image_token_offset + self.config.vq_config.codebook_size
        )
        plain = _has_plain_head(language_model)
        if plain:
            head, decoder = language_model.get_output_embeddings(), language_model.get_decoder()
            weight, bias = head.weight[codes], None if head.bias is None else head.bias[codes]

        def code_logits(input_ids, attention_mask, position_ids, cache):
            inputs = {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "position_ids": position_ids,
                "past_key_values": cache,
                "use_cache": True,
            }
            if plain:
                output = decoder(**inputs)
                logits = F.linear(output.last_hidden_state[:, -1].to(weight.device), weight, bias)
            else:
                output = language_model(**inputs, logits_to_keep=1)
                logits = output.logits[:, -1, codes]
            # The head may be on another device than the prompt.
            return logits.float().to(input_ids.device), output.past_key_values

        return code_logits


def generate_text(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    images=None,
    instruction: str | Sequence[str] | None = None,
    *,
    image_codes: Sequence | torch.LongTensor | None = None,
    history: Sequence[dict] | None = None,
    streamer: BaseStreamer | None = None,
    max_new_tokens: int = 256,
    **generate_kwargs,
) -> list[str]:
    """
    Generate text about chest X-rays: reports, answers to questions, or plain text.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor of a checkpoint.
        images (`ImageInput`, *optional*):
            One image of any kind that [`LlmCxrImageProcessor`] takes, or a list with an entry for each request: an image or
            a list of images.
        instruction (`str` or sequence of `str`, *optional*, defaults to `processor.report_instruction`):
            Instruction or question, one for all requests or one for each. Special tokens in it become plain text.
        image_codes (integers of shape `(num_requests, num_image_tokens)`, *optional*):
            Codes instead of `images`; or a list with the rows of codes of each request.
        history (sequence of `dict`, *optional*):
            Earlier messages of a single request, in chat format, with `{"type": "image"}` for each image, also for generated
            ones. They take the first images of the request; the others belong to the new message.
        streamer (`BaseStreamer`, *optional*):
            As in `generate`.
        max_new_tokens (`int`, *optional*, defaults to 256):
            Maximum number of new tokens; reduced to those that fit into the context.
        **generate_kwargs:
            Other arguments of `generate`, such as `do_sample` and `num_return_sequences`.

    Returns:
        `list[str]`: a text for each request, or `num_return_sequences` texts for the first request, then for the second.

    Raises:
        ValueError: the processor and the model do not belong together; the numbers of images, instructions and image slots
            do not match; or a prompt leaves no room in the context.
    """
    model.check_processor(processor)
    if image_codes is None:
        codes = None if images is None else _encode_images(model, processor, images)
    elif images is None:
        codes = _rows_of_requests(image_codes)
    else:
        raise ValueError("Give `images` or `image_codes`, not both.")
    instruction = processor.report_instruction if instruction is None else instruction
    single = isinstance(instruction, str)
    num_requests = len(codes or [[]]) if single else len(instruction)
    instructions = [instruction] * num_requests if single else list(instruction)
    codes = [[] for _ in instructions] if codes is None else codes
    if not isinstance(images, (list, tuple)) and image_codes is None and len(codes) == 1:
        codes = codes * num_requests
    if len(codes) != num_requests:
        raise ValueError(f"Expected one instruction for each request, got {num_requests} for {len(codes)} images.")
    if history is not None and num_requests != 1:
        raise ValueError(f"Expected a single request with `history`, got {num_requests}.")

    history = list(history or [])
    num_earlier = sum(
        part.get("type") == "image" for m in history for part in m["content"] if not isinstance(part, str)
    )
    conversations = []
    for text, rows in zip(instructions, codes):
        if not isinstance(text, str):
            raise TypeError(f"Expected an instruction as a string, got {type(text).__name__}.")
        if len(rows) < num_earlier:
            raise ValueError(f"Expected an image for each of the {num_earlier} slots of `history`, got {len(rows)}.")
        slots = [{"type": "image"}] * (len(rows) - num_earlier)
        conversations.append([*history, {"role": "user", "content": [{"type": "text", "text": text}, *slots]}])
    inputs = processor.encode_prompts(conversations, [row for rows in codes for row in rows]).to(model.device)
    length = inputs.input_ids.shape[1]
    model.check_context(length + 1)
    if (context := getattr(model.config.text_config, "max_position_embeddings", None)) is not None:
        max_new_tokens = min(max_new_tokens, context - length)
    output = model.generate(
        **inputs, generation_mode="text", streamer=streamer, max_new_tokens=max_new_tokens, **generate_kwargs
    )
    texts = processor.post_process_multimodal_output(output[:, length:], generation_mode="text")
    return [text.strip() for text in texts]


@torch.no_grad()
def _encode_images(model: LlmCxrForCausalLM, processor: LlmCxrProcessor, images) -> list[list[list[int]]]:
    """Encode images, given as for [`generate_text`], as rows of codes for each request."""
    requests = images if isinstance(images, (list, tuple)) else [images]
    requests = [each if isinstance(each, (list, tuple)) else [each] for each in requests]
    flat = [image for request in requests for image in request]
    if not flat:
        return [[] for _ in requests]
    pixel_values = processor.image_processor(flat, return_tensors="pt").pixel_values
    if len(pixel_values) != len(flat):
        raise ValueError("Expected single images, got a batch in one array: give a list of images.")
    rows = iter(model.vq_tokenizer.encode(pixel_values.to(model.vq_tokenizer.device)).tolist())
    return [[next(rows) for _ in request] for request in requests]


def _rows_of_requests(image_codes) -> list[list]:
    """Rows of codes for each request, which may have a single row of integers."""
    requests = [codes.tolist() if hasattr(codes, "tolist") else list(codes) for codes in image_codes]
    return [[codes] if codes and isinstance(codes[0], Integral) else codes for codes in requests]


def generate_image(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    text: str | Sequence[str],
    num_images: int = 1,
    instruction: str | None = None,
    *,
    output_type: str = "pil",
    **kwargs,
) -> list[PIL.Image.Image] | torch.LongTensor:
    """
    Generate chest X-rays from texts.

    Args:
        model ([`LlmCxrForCausalLM`]), processor ([`LlmCxrProcessor`]):
            Model and processor of a checkpoint.
        text (`str` or sequence of `str`):
            Reports, findings or impressions. Special tokens in them become plain text.
        num_images (`int`, *optional*, defaults to 1):
            Images per text.
        instruction (`str`, *optional*, defaults to `processor.image_instruction`):
            Instruction of the prompt.
        output_type (`str`, *optional*, defaults to `"pil"`):
            `"pil"` returns images, `"codes"` their codes.
        **kwargs:
            Arguments of [`LlmCxrForCausalLM.generate_image`]: `guidance_scale`, `temperature`, `top_k`, `top_p`,
            `do_sample`, `seed`, `streamer`.

    Returns:
        `list[PIL.Image.Image]`: `num_images` images of the first text, then of the second; each carries
        `image.info["comment"]`, which says that it is generated and for research only. Or `torch.LongTensor` of shape
        `(len(text) * num_images, num_image_tokens)`: codes in raster order, each in `[0, codebook_size)`.

    Raises:
        TypeError: a text is not a string.
        ValueError: the processor and the model do not belong together, no text is given, or an argument of
            [`LlmCxrForCausalLM.generate_image`] is wrong.
    """
    model.check_processor(processor)
    if output_type not in ("pil", "codes"):
        raise ValueError(f"`output_type` must be 'pil' or 'codes', got {output_type!r}.")
    texts = list(text) if isinstance(text, Sequence) and not isinstance(text, (str, bytes)) else [text]
    if not texts:
        raise ValueError("Expected at least one text, got none.")
    for each in texts:
        if not isinstance(each, str):
            raise TypeError(f"Expected a text, got {type(each).__name__}.")
    instruction = processor.image_instruction if instruction is None else instruction
    # The last prompt is that of an empty text, which classifier-free guidance steers away from.
    conversations = [
        [{"role": "user", "content": [{"type": "text", "text": instruction}, {"type": "text", "text": each}]}]
        for each in [*texts, ""]
    ]
    inputs = processor.encode_prompts(conversations[:-1]).to(model.device)
    negative_input_ids = processor.encode_prompts(conversations[-1:]).input_ids.to(model.device)
    output = model.generate_image(
        **inputs, num_images=num_images, **{"negative_input_ids": negative_input_ids, **kwargs}
    )
    return output.codes.cpu() if output_type == "codes" else processor.postprocess(output.pixel_values)


__all__ = [
    "ImageGrammarLogitsProcessor",
    "LlmCxrImageGenerationMixin",
    "LlmCxrImageOutput",
    "generate_image",
    "generate_text",
]
