"""Generation with LLM-CXR: `generate` for token ids, `generate_text` and `generate_image` for requests of users."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    Cache,
    CompileConfig,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    StaticCache,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging, torch_compilable_check

from .image_grammar_llm_cxr import ImageGrammarLogitsProcessor

if TYPE_CHECKING:
    from .processing_llm_cxr import LlmCxrProcessor

logger = logging.get_logger(__name__)


class LlmCxrGenerationMixin(GenerationMixin):
    """Generation of text and of images, for [`LlmCxrForCausalLM`]."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        generation_mode: str | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        logits_processor: LogitsProcessorList | None = None,
        **kwargs,
    ):
        """
        Generate text, images, or both, after prompts that may have images. Every image of the output is whole.

        Args:
            inputs or input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Prompts, padded on the left.
            pixel_values (`torch.FloatTensor` of shape `(num_images, channels, image_size, image_size)`, *optional*):
                Images of the prompts, in the order of their placeholders.
            generation_mode (`str`, *optional*):
                `None` generates interleaved text and images, and `"text"` text alone: both run
                `GenerationMixin.generate` with [`ImageGrammarLogitsProcessor`]. `"image"` generates one image by
                [`~LlmCxrForCausalLM.generate_image`].
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                Embeddings of the prompts, in place of ids; for text.
            **kwargs:
                Arguments of `GenerationMixin.generate`, or of [`~LlmCxrForCausalLM.generate_image`].

        Returns:
            The output of `GenerationMixin.generate`, whose ids hold the codes of the prompt's images. Or
            `torch.LongTensor` of shape `(batch_size * num_return_sequences, new_sequence_length)`: prompt,
            begin-of-image token, codes and end-of-image token.

        Raises:
            ValueError: `generation_mode` is unknown, placeholders and images do not match, `"image"` has no
                `input_ids`, or a prompt leaves no room in the context.
        """
        if generation_mode not in (None, "text", "image"):
            raise ValueError(f"`generation_mode` must be None, 'text' or 'image', got {generation_mode!r}.")
        input_ids = kwargs.pop("input_ids", inputs)
        if pixel_values is not None:
            input_ids, inputs_embeds, *_ = self.replace_image_placeholders(pixel_values, input_ids, inputs_embeds)
        else:
            self._check_no_placeholders(input_ids)
        if generation_mode == "image":
            if input_ids is None:
                raise ValueError("`generation_mode='image'` needs `input_ids`, the prompts as token ids.")
            return self._generate_image_ids(input_ids, **kwargs)
        if input_ids is not None:
            self.check_context(input_ids.shape[1] + 1)
        if inputs_embeds is not None:
            kwargs["inputs_embeds"] = inputs_embeds
        grammar = ImageGrammarLogitsProcessor(self.config, allow_images=generation_mode is None)
        return super().generate(
            input_ids, logits_processor=LogitsProcessorList([grammar, *(logits_processor or [])]), **kwargs
        )

    def _get_logits_processor(self, generation_config: GenerationConfig, *args, logits_processor=None, **kwargs):
        # Here Transformers has computed `max_length` from all arguments that limit it.
        for processor in logits_processor:
            # A draft model shares the grammar of the model that it drafts for.
            if isinstance(processor, ImageGrammarLogitsProcessor) and not generation_config.is_assistant:
                processor.max_length = generation_config.max_length
        return super()._get_logits_processor(generation_config, *args, logits_processor=logits_processor, **kwargs)

    def _generate_image_ids(
        self,
        input_ids: torch.LongTensor,
        num_return_sequences: int = 1,
        generation_config: GenerationConfig | None = None,
        max_new_tokens: int | None = None,
        pad_token_id: int | None = None,
        **kwargs,
    ) -> torch.LongTensor:
        """Generate prompts with one image each. Arguments of `generate` that are for text have no effect."""
        codes = self.generate_image(input_ids, num_images=num_return_sequences, **kwargs)
        prompts, _ = _left_pad(self._image_prompts(input_ids, None), self.device)
        image_tokens = F.pad(codes + self.config.image_token_offset, (0, 1), value=self.config.eoi_token_id)
        return torch.cat([prompts.repeat_interleave(num_return_sequences, dim=0), image_tokens], dim=1)

    @property
    def image_generation(self) -> dict[str, float]:
        """Settings of `generation_config.image_generation`, the defaults of [`~LlmCxrForCausalLM.generate_image`]."""
        return getattr(self.generation_config, "image_generation", {})

    def _check_no_placeholders(self, input_ids: torch.LongTensor | None) -> None:
        if input_ids is not None:
            torch_compilable_check(
                (input_ids != self.config.image_token_id).all(),
                f"`input_ids` holds image placeholders (id {self.config.image_token_id}), but `pixel_values` is "
                "missing.",
            )

    @property
    def context_length(self) -> int | None:
        """Number of positions of the backbone, or `None` if there is no limit."""
        return getattr(self.config.text_config, "max_position_embeddings", None)

    def check_context(self, length: int) -> None:
        """Raise a `ValueError` if the backbone has fewer than `length` positions."""
        if self.context_length is not None and length > self.context_length:
            raise ValueError(
                f"The prompt and the output need at least {length} tokens, but the model has a context of "
                f"{self.context_length}. Shorten the text or give fewer images."
            )

    @torch.no_grad()
    def generate_image(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        num_images: int = 1,
        guidance_scale: float | None = None,
        negative_input_ids: torch.LongTensor | None = None,
        do_sample: bool = True,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | Sequence[int] | None = None,
        streamer: BaseStreamer | None = None,
        callback_on_step_end: Callable[[LlmCxrGenerationMixin, int, dict], object] | None = None,
        compile_config: CompileConfig | None = None,
    ) -> torch.LongTensor:
        """
        Generate the codes of images. Each prompt is prefilled once for all its images, each step computes the logits
        of codes only, and classifier-free guidance (arXiv 2207.12598) runs in the same batch.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Prompts, padded on the left. The begin-of-image token is added to prompts that do not end with it.
            attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for tokens, 0 for padding; no padding by default.
            num_images (`int`, *optional*, defaults to 1):
                Images per prompt.
            guidance_scale (`float`, *optional*):
                Weight of the prompt against `negative_input_ids`; 1 is no guidance. The default is that of
                `generation_config.image_generation`, or 1 if it has none or there is no negative prompt.
            negative_input_ids (`torch.LongTensor` of shape `(1, negative_length)`, *optional*):
                Prompt to guide away from; required for a `guidance_scale` above 1.
            do_sample (`bool`, *optional*, defaults to `True`):
                Sample codes; `False` takes the most likely one.
            temperature, top_k, top_p:
                As in `GenerationMixin.generate`. The defaults are those of `generation_config.image_generation`, or
                else the whole distribution.
            seed (`int` or sequence of `int`, *optional*):
                One seed for each of the `batch_size * num_images` images, or a single one from which image `i` gets
                `seed + i`. An image depends on its seed and prompt, not on its batch, except for rounding: in a batch
                of another size it can change a sampled code now and then.
            streamer (`BaseStreamer`, *optional*):
                Receives the codes of each step, a `torch.LongTensor` of shape `(batch_size * num_images,)` on the CPU,
                and then `end()`. An error that it raises ends the generation.
            callback_on_step_end (`Callable`, *optional*):
                Called after each code as `callback_on_step_end(model, step, callback_kwargs)`, as in diffusers but
                without a timestep. `callback_kwargs["codes"]` holds the codes so far, a `torch.LongTensor` of shape
                `(batch_size * num_images, step + 1)` on the device of the model. Its result is ignored.
            compile_config (`CompileConfig`, *optional*):
                Compile the step of a code by `torch.compile` with these settings, over a static cache. The first call
                takes up to a minute longer; later calls with as many images, also for prompts of another length, reuse
                the compiled step. The codes are the same except for rounding. By default nothing is compiled.

        Returns:
            `torch.LongTensor` of shape `(batch_size * num_images, num_image_tokens)`: codes in raster order, each in
            `[0, codebook_size)`. Image `i` belongs to prompt `i // num_images`.

        Raises:
            ValueError: An argument is out of its range, guidance has no negative prompt, a prompt holds placeholders,
                or it leaves no room for an image in the context.
        """
        if not isinstance(num_images, Integral) or num_images < 1:
            raise ValueError(f"`num_images` must be a whole number of at least 1, got {num_images}.")
        defaults = self.image_generation
        if guidance_scale is None:
            guidance_scale = defaults.get("guidance_scale", 1.0) if negative_input_ids is not None else 1.0
        temperature = defaults.get("temperature", 1.0) if temperature is None else temperature
        top_k = defaults.get("top_k") if top_k is None else top_k
        top_p = defaults.get("top_p") if top_p is None else top_p
        if not 1 <= guidance_scale < math.inf:
            raise ValueError(f"`guidance_scale` must be at least 1 (1 is no guidance), got {guidance_scale}.")
        if guidance_scale > 1 and negative_input_ids is None:
            raise ValueError(
                f"`guidance_scale={guidance_scale}` needs `negative_input_ids`, the prompt to guide away from; "
                "`transformers_cxr.generate_image` makes one."
            )
        batch_size, num_codes = input_ids.shape[0], self.config.vq_config.num_image_tokens
        total = batch_size * num_images
        uniforms = _uniform_numbers(seed, total, num_codes).to(self.device) if do_sample else None
        warpers = LogitsProcessorList()
        if temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(temperature))
        if top_k:
            warpers.append(TopKLogitsWarper(top_k))
        if top_p is not None and top_p != 1.0:
            warpers.append(TopPLogitsWarper(top_p))

        self._check_no_placeholders(input_ids)
        rows = self._image_prompts(input_ids, attention_mask)
        if guidance_scale > 1:
            rows += self._image_prompts(negative_input_ids, None) * batch_size
        length = max(map(len, rows))
        self.check_context(length + num_codes + 1)
        cache, cache_length, code_logits = None, length + num_codes, self._code_logits
        if compile_config is not None:
            # Rounded up, so that prompts of different lengths use the same compiled step.
            cache_length = math.ceil(cache_length / num_codes) * num_codes
            cache = StaticCache(self.config.text_config, max_cache_len=cache_length)
            # Repeating a filled static cache would lose the fixed addresses that CUDA graphs need.
            rows, num_images = [row for row in rows for _ in range(num_images)], 1
            code_logits = torch.compile(code_logits, **compile_config.to_dict())

        prompt_ids, mask = _left_pad(rows, self.device)
        logits, cache = self._code_logits(prompt_ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        if num_images > 1:
            # Caches of every kind can be reordered, those of linear attention too.
            cache.reorder_cache(torch.arange(len(mask), device=self.device).repeat_interleave(num_images))
            logits = logits.repeat_interleave(num_images, dim=0)
            mask = mask.repeat_interleave(num_images, dim=0)
        positions = mask.sum(-1, keepdim=True)
        mask = F.pad(mask, (0, cache_length - length), value=1)
        codes = torch.empty((total, num_codes), dtype=torch.long, device=self.device)
        for step in logging.tqdm(range(num_codes), desc="Generating", unit="code", disable=None):
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
            if callback_on_step_end is not None:
                callback_on_step_end(self, step, {"codes": codes[:, : step + 1]})
            if step + 1 < num_codes:
                next_ids = (next_codes + self.config.image_token_offset).repeat(len(mask) // total)
                step_mask = mask[:, : length + step + 1] if compile_config is None else mask
                logits, cache = code_logits(next_ids[:, None], step_mask, positions + step, cache)
        if streamer is not None:
            streamer.end()
        return codes

    def _image_prompts(
        self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor | None
    ) -> list[torch.LongTensor]:
        """Return the prompts without padding, each with the begin-of-image token at its end."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        boi = torch.tensor([self.config.boi_token_id], device=input_ids.device)
        rows = [ids[kept.bool()] for ids, kept in zip(input_ids, attention_mask)]
        return [row if len(row) and row[-1] == boi else torch.cat([row, boi]) for row in rows]

    def _code_logits(self, input_ids, attention_mask, position_ids, cache) -> tuple[torch.FloatTensor, Cache]:
        """Return the logits of all codes at the last position, in fp32, and the cache."""
        output = self.get_decoder()(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        hidden_states, head = output.last_hidden_state[:, -1], self.lm_head
        start = self.config.image_token_offset
        codes = slice(start, start + self.config.vq_config.codebook_size)
        if type(head) is nn.Linear and not head.weight.is_meta:
            bias = None if head.bias is None else head.bias[codes]
            logits = F.linear(hidden_states.to(head.weight.device), head.weight[codes], bias)
        else:
            # An offloaded, quantized or adapted head has no rows to select.
            logits = head(hidden_states)[:, codes]
        return logits.float().to(input_ids.device), output.past_key_values


def is_sequence(inputs) -> bool:
    """Return whether these are several inputs, such as a list or a column of a dataset."""
    return isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes))


def question_about(text: str, num_images: int = 1) -> dict:
    """Return a message with a question or an instruction, and the X-rays that it is about."""
    return {"role": "user", "content": [{"type": "text", "text": text}, *[{"type": "image"}] * num_images]}


def image_request(text: str, instruction: str) -> dict:
    """Return the message of a user who asks for the image of a text."""
    return {"role": "user", "content": [{"type": "text", "text": part} for part in (instruction, text)]}


def image_seeds(seed: int | Sequence[int] | None, num_images: int) -> Sequence[int] | None:
    """Return a seed for each image: `seed + i` for image `i`, or the seeds as given."""
    seed = seed.tolist() if hasattr(seed, "tolist") else seed
    if isinstance(seed, (int, Integral)):
        return [int(seed) + i for i in range(num_images)]
    if seed is not None and len(seed) != num_images:
        raise ValueError(f"Expected one seed for each of the {num_images} images, got {len(seed)}.")
    return seed


def _uniform_numbers(seed: int | Sequence[int] | None, num_images: int, num_codes: int) -> torch.DoubleTensor:
    """Return uniform random numbers for each image and code. Those of an image depend on its seed only."""
    seeds = image_seeds(seed, num_images)
    if seeds is None:
        return torch.rand(num_images, num_codes, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(int(each)) for each in seeds]
    return torch.stack([torch.rand(num_codes, generator=g, dtype=torch.float64) for g in generators])


def _left_pad(rows: Sequence[torch.LongTensor], device: torch.device) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Return rows of ids as `input_ids`, padded on the left with id 0, and their `attention_mask`."""
    length = max(len(row) for row in rows)
    input_ids = torch.stack([F.pad(row.to(device), (length - len(row), 0)) for row in rows])
    attention_mask = torch.stack([torch.arange(length, device=device) >= length - len(row) for row in rows]).long()
    return input_ids, attention_mask


def generate_text(
    model: LlmCxrGenerationMixin,
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
            One image of any kind that [`LlmCxrImageProcessor`] takes, or a list with an entry for each request: an
            image or a list of images.
        instruction (`str` or sequence of `str`, *optional*, defaults to `processor.report_instruction`):
            Instruction or question, one for all requests or one for each. Special tokens in it become plain text.
        image_codes (integers of shape `(num_requests, num_image_tokens)`, *optional*):
            Codes instead of `images`; or a list with the rows of codes of each request.
        history (sequence of `dict`, *optional*):
            Earlier messages of a single request, in chat format, with `{"type": "image"}` for each image, also for
            generated ones. They take the first images of the request; the others belong to the new message.
        streamer (`BaseStreamer`, *optional*):
            As in `generate`.
        max_new_tokens (`int`, *optional*, defaults to 256):
            Maximum number of new tokens; reduced to those that fit into the context.
        **generate_kwargs:
            Other arguments of `generate`, such as `do_sample` and `num_return_sequences`.

    Returns:
        `list[str]`: a text for each request, or `num_return_sequences` texts for the first request, then for the
        second.

    Raises:
        TypeError: An instruction is not a string.
        ValueError: The processor and the model do not belong together, the numbers of images, instructions and image
            slots do not match, or a prompt leaves no room in the context.
    """
    model.check_processor(processor)
    if images is not None and image_codes is not None:
        raise ValueError("Give `images` or `image_codes`, not both.")
    instruction = processor.report_instruction if instruction is None else instruction
    if image_codes is not None:
        requests = [[codes] if len(codes) and np.ndim(codes[0]) == 0 else list(codes) for codes in image_codes]
    elif isinstance(images, (list, tuple)):
        requests = [list(each) if isinstance(each, (list, tuple)) else [each] for each in images]
    else:
        num_requests = len(instruction) if is_sequence(instruction) else 1
        requests = [[] if images is None else [images]] * num_requests
    instructions = list(instruction) if is_sequence(instruction) else [instruction] * len(requests)
    if not requests:
        raise ValueError("Expected at least one request, got none.")
    if len(instructions) != len(requests):
        raise ValueError(
            f"Expected one instruction for each request, got {len(instructions)} for {len(requests)} images."
        )
    if history is not None and len(requests) != 1:
        raise ValueError(f"Expected a single request with `history`, got {len(requests)}.")

    history = list(history or [])
    num_earlier = sum(
        part.get("type") == "image" for m in history for part in m["content"] if not isinstance(part, str)
    )
    conversations = []
    for text, given in zip(instructions, requests):
        if not isinstance(text, str):
            raise TypeError(f"Expected an instruction as a string, got {type(text).__name__}.")
        if len(given) < num_earlier:
            raise ValueError(f"Expected an image for each of the {num_earlier} slots of `history`, got {len(given)}.")
        conversations.append([*history, question_about(text, len(given) - num_earlier)])
    if image_codes is None:
        inputs = processor.encode_prompts(conversations, images=requests)
    else:
        inputs = processor.encode_prompts(conversations, image_codes=[row for rows in requests for row in rows])
    length = inputs.input_ids.shape[1]
    model.check_context(length + 1)
    if model.context_length is not None:
        max_new_tokens = min(max_new_tokens, model.context_length - length)
    output = model.generate(
        **inputs.to(model.device),
        generation_mode="text",
        streamer=streamer,
        max_new_tokens=max_new_tokens,
        **generate_kwargs,
    )
    texts = processor.post_process_multimodal_output(output[:, length:], generation_mode="text")
    return [text.strip() for text in texts]


@torch.no_grad()
def generate_image(
    model: LlmCxrGenerationMixin,
    processor: LlmCxrProcessor,
    text: str | Sequence[str],
    num_images: int = 1,
    instruction: str | None = None,
    *,
    output_type: str = "pil",
    **kwargs,
) -> list[PIL.Image.Image] | torch.LongTensor:
    """
    Generate chest X-rays from texts. A warning names the words in them that `generation_config.weak_image_words` of
    the checkpoint lists: those that it draws badly.

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
            `do_sample`, `seed`, `streamer`, `callback_on_step_end`, `compile_config`.

    Returns:
        `list[PIL.Image.Image]`: `num_images` images of the first text, then of the second; each carries
        `image.info["comment"]`, which says that it is generated and for research only. Or `torch.LongTensor` of shape
        `(len(text) * num_images, num_image_tokens)`: codes in raster order, each in `[0, codebook_size)`.

    Raises:
        TypeError: A text is not a string.
        ValueError: The processor and the model do not belong together, no text is given, or an argument of
            [`LlmCxrForCausalLM.generate_image`] is wrong.
    """
    model.check_processor(processor)
    if output_type not in ("pil", "codes"):
        raise ValueError(f"`output_type` must be 'pil' or 'codes', got {output_type!r}.")
    texts = list(text) if is_sequence(text) else [text]
    if not texts:
        raise ValueError("Expected at least one text, got none.")
    for each in texts:
        if not isinstance(each, str):
            raise TypeError(f"Expected a text, got {type(each).__name__}.")
    for word in getattr(model.generation_config, "weak_image_words", ()):
        if re.search(rf"\b{word}\b", " ".join(map(str, texts)), re.IGNORECASE):
            logger.warning_once(f"This checkpoint makes poor X-rays of texts with '{word}': it has seen too few.")
    instruction = processor.image_instruction if instruction is None else instruction
    # The last prompt is that of an empty text, which classifier-free guidance steers away from.
    conversations = [[image_request(each, instruction)] for each in [*texts, ""]]
    inputs = processor.encode_prompts(conversations[:-1]).to(model.device)
    negative_input_ids = processor.encode_prompts(conversations[-1:]).input_ids.to(model.device)
    codes = model.generate_image(
        **inputs, num_images=num_images, **{"negative_input_ids": negative_input_ids, **kwargs}
    )
    return codes.cpu() if output_type == "codes" else processor.postprocess(model.vq_tokenizer.decode(codes))


__all__ = ["LlmCxrGenerationMixin", "generate_image", "generate_text"]
