"""Data and model of preference and reward tuning with the trainers of TRL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import datasets
import torch

from ..checkpoints import find_checkpoint
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor
from .dataset import check_messages
from .lora import lora_config

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass
class PolicyArguments:
    """Arguments of [`load_policy`]."""

    model: str = field(metadata={"help": "LLM-CXR checkpoint to start from, and the reference model"})
    dtype: str = field(default="float32", metadata={"help": "dtype of the loaded weights, such as bfloat16"})
    attn_implementation: str = field(default="sdpa", metadata={"help": "attention, such as flash_attention_2"})
    lora: dict = field(default_factory=dict, metadata={"help": "fields of peft.LoraConfig; default: no LoRA"})


def load_policy(args: PolicyArguments) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor, LoraConfig | None]:
    """
    Return the model to tune, its processor, which encodes images and decodes codes, and the `peft_config` of the
    trainer. Embeddings and head are not adapted: they know the codes already.
    """
    options = {"dtype": args.dtype, "attn_implementation": args.attn_implementation}
    path, _ = find_checkpoint(args.model)
    model = LlmCxrForCausalLM.from_pretrained(path, **options)
    processor = LlmCxrProcessor.from_pretrained(path)
    processor.vq_tokenizer = model.vq_tokenizer
    return model, processor, lora_config(**args.lora) if args.lora else None


def write_images_as_text(
    processor: LlmCxrProcessor, messages: Sequence[dict], image_codes: Sequence[Sequence[int]]
) -> list[dict]:
    """
    Write the images of messages as text, the tokens of their codes. The ids stay the same.

    TRL computes its losses from token ids alone, packs only texts, and takes no images in completions; so written,
    images are text to it.

    Args:
        processor ([`LlmCxrProcessor`]): processor of the model.
        messages (`Sequence[dict]`): messages in Transformers' format, with `{"type": "image"}` slots.
        image_codes (integers of shape `(num_images, num_image_tokens)`): codes of the images, one row for each slot in
            order.

    Raises:
        ValueError: the numbers of images and slots do not match, or codes are not those of a whole image.
    """
    slots, texts = _num_slots(messages), processor.codes_to_text(image_codes)
    if slots != len(texts):
        raise ValueError(f"Expected an image for each of the {slots} image slots, got {len(texts)}.")
    following, written = iter(texts), []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        written_parts = [
            {"type": "text", "text": next(following) if part["type"] == "image" else part["text"]} for part in parts
        ]
        if message["role"] == "user":
            # The chat template takes the first text for the instruction.
            first = next((i for i, part in enumerate(parts) if part["type"] == "text"), None)
            instruction = {"type": "text", "text": ""} if first is None else written_parts.pop(first)
            written_parts.insert(0, instruction)
        written.append({"role": message["role"], "content": written_parts})
    return written


def preference_dataset(rows: Iterable[dict], processor: LlmCxrProcessor) -> datasets.Dataset:
    """
    Return preference pairs for the trainers of TRL (`DPOTrainer` and others).

    Args:
        rows (iterable of `dict`): pairs with `prompt`, `chosen` and `rejected` (each a list of messages), and
            `image_codes` (integers of shape `(num_images, num_image_tokens)`) or `images` (paths or PIL images) for
            the `{"type": "image"}` slots of the three in this order. `images` are for prompts only.
        processor ([`LlmCxrProcessor`]): processor of the model; with its `vq_tokenizer` for `images`.

    Returns:
        `datasets.Dataset` with the columns `prompt`, `chosen` and `rejected`, whose images are text (see
        [`write_images_as_text`]).

    Raises:
        ValueError: there is no pair, or a pair is invalid: the two completions are equal, one holds an image without
            codes, or it has another format. The error names the pair.
    """

    def pair(row: dict) -> dict:
        messages = {name: check_messages(row.get(name), name) for name in ("prompt", "chosen", "rejected")}
        counts = {name: _num_slots(value) for name, value in messages.items()}
        codes, written = _codes_of(row, processor, counts["chosen"] + counts["rejected"]), {}
        if len(codes) != sum(counts.values()):
            raise ValueError(f"Expected an image for each of the {sum(counts.values())} slots, got {len(codes)}.")
        for name, value in messages.items():
            written[name] = write_images_as_text(processor, value, codes[: counts[name]])
            codes = codes[counts[name] :]
        if written["chosen"] == written["rejected"]:
            raise ValueError("`chosen` equals `rejected`, so the pair has no preference.")
        return written

    return _dataset(rows, pair, "Pair")


def prompt_dataset(rows: Iterable[dict], processor: LlmCxrProcessor) -> datasets.Dataset:
    """
    Return prompts for the trainers of TRL that generate completions (`GRPOTrainer` and others).

    Args:
        rows (iterable of `dict`): conversations as in [`InstructionDataset`] (`task` is not needed) whose last message
            is the reference. Their `labels`, a `dict` as in [`StudyRecord`], are kept.
        processor ([`LlmCxrProcessor`]): processor of the model; with its `vq_tokenizer` for `images`.

    Returns:
        `datasets.Dataset` with the columns `prompt` (messages whose images are text), `reference` (`str`: the text of
        the last message) and `labels`, the columns of the rewards in `training/rewards.py`.

    Raises:
        ValueError: there is no conversation, or one is invalid. The error names it.
    """

    def prompt(row: dict) -> dict:
        messages = check_messages(row.get("messages"), "messages")
        if messages[-1]["role"] != "assistant":
            raise ValueError(f"Expected a last message of the assistant, got one of '{messages[-1]['role']}'.")
        slots = _num_slots(messages[:-1])
        # An image of the reference is not trained on.
        key = "image_codes" if row.get("image_codes") else "images"
        images = {key: list(row.get(key) or [])[:slots]}
        content = messages[-1]["content"]
        parts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content]
        return {
            "prompt": write_images_as_text(processor, messages[:-1], _codes_of(images, processor)),
            "reference": "".join(parts),
            "labels": [{"name": name, "value": value} for name, value in (row.get("labels") or {}).items()],
        }

    return _dataset(rows, prompt, "Conversation")


def check_lengths(dataset: datasets.Dataset, processor: LlmCxrProcessor, max_length: int) -> None:
    """Raise a `ValueError` for a pair of more than `max_length` tokens. TRL would cut it, and images with it."""
    for number, pair in enumerate(dataset):
        for name in ("chosen", "rejected"):
            encoded = processor.apply_chat_template([pair["prompt"] + pair[name]], tokenize=True, return_dict=True)
            if (length := len(encoded["input_ids"][0])) > max_length:
                raise ValueError(
                    f"Pair {number}: the prompt and `{name}` have {length} tokens, more than the maximum of "
                    f"{max_length}. Shorten them, or set `--max_length`."
                )


def _dataset(rows: Iterable[dict], convert, kind: str) -> datasets.Dataset:
    converted = []
    for number, row in enumerate(rows):
        try:
            converted.append(convert(row))
        except (ValueError, OSError) as error:
            name = f"{kind} {number}" + (f" (id {row['id']!r})" if "id" in row else "")
            raise ValueError(f"{name}: {error}") from error
    if not converted:
        raise ValueError(f"Expected at least one {kind.lower()}, got none.")
    return datasets.Dataset.from_list(converted)


def _num_slots(messages: Sequence[dict]) -> int:
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return sum(part["type"] == "image" for content in contents for part in content)


def _codes_of(row: dict[str, Any], processor: LlmCxrProcessor, num_completion_images: int = 0) -> list[list[int]]:
    if row.get("image_codes"):
        return list(row["image_codes"])
    if not (images := row.get("images")):
        return []
    if num_completion_images:
        raise ValueError(
            "a completion holds an image that is given as pixels (`images`). TRL computes its loss from its own "
            "labels, in which pixels are placeholders: give the codes of all images (`image_codes`, from "
            "`transformers-cxr encode`)."
        )
    if processor.vq_tokenizer is None:
        raise ValueError("Set `processor.vq_tokenizer = model.vq_tokenizer` to encode `images`.")
    pixel_values = processor.image_processor(list(images), return_tensors="pt").pixel_values
    with torch.no_grad():
        return processor.vq_tokenizer.encode(pixel_values.to(processor.vq_tokenizer.device)).tolist()
