"""Instruction conversations as training examples of the language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from jinja2 import TemplateError
from torch.utils.data import Dataset
from transformers.utils import logging

from ..data.mixture import TASKS
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor

logger = logging.get_logger(__name__)

PACKINGS = ("rows", "one_row")


class InstructionDataset(Dataset):
    """
    Conversation records as ids and labels. An index always gives the same example, whatever the process or the order.

    Args:
        conversations (`Sequence[dict]`):
            Records with the keys `messages` (Transformers' chat format), `task` (one of `TASKS`), and `image_codes`
            (`(num_images, num_image_tokens)` integers in `[0, codebook_size)`) or `images` (paths or PIL images), one for
            each `{"type": "image"}` part in their order; a list, a `datasets.Dataset` or any map-style dataset.
        processor ([`LlmCxrProcessor`]):
            Its chat template marks the responses, on which alone the loss is.
        max_length (`int`, *optional*):
            Number of tokens that a conversation may have; any by default.
        skip_too_long (`bool`, *optional*, defaults to `False`):
            Put the next conversation that fits in the place of one that is longer, and name and count it. By default it is
            an error.

    Raises:
        ValueError: there is no conversation.
    """

    def __init__(
        self,
        conversations: Sequence[dict],
        processor: LlmCxrProcessor,
        max_length: int | None = None,
        skip_too_long: bool = False,
    ):
        if not len(conversations):
            raise ValueError("Expected at least one conversation, got none.")
        # Lists, in whatever format (`set_format`) its rows are given.
        is_table = isinstance(conversations, datasets.Dataset)
        self.conversations = conversations.with_format(None) if is_table else conversations
        self.processor = processor
        self.max_length = max_length
        self.skip_too_long = skip_too_long

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> dict:
        """
        `input_ids` and `labels` (`torch.LongTensor` of shape `(sequence_length,)`; labels are -100 outside of responses),
        `task` (`int`, index into `TASKS`), `skipped` (`int`, 1 where this one stands for a conversation that is too long, else
        0) and, for records with `images`, `pixel_values`.

        Raises:
            IndexError: there are fewer conversations.
            ValueError: the record has no response or an unknown task, its images do not match its slots or are not of the
                codebook, or it is too long.
        """
        if index >= len(self):
            raise IndexError(f"Conversation {index} of {len(self)}.")
        for offset in range(len(self)):
            position = (index + offset) % len(self)
            record = self.conversations[position]
            name = f"Conversation {position}" + (f" (id {record['id']!r})" if "id" in record else "")
            try:
                example = encode_conversation(self.processor, record)
            except (ValueError, OSError, TemplateError) as error:
                raise ValueError(f"{name}: {error}") from error
            length = len(example["input_ids"])
            if self.max_length is None or length <= self.max_length:
                return {**example, "skipped": int(offset > 0)}
            if not self.skip_too_long:
                raise ValueError(
                    f"{name} has {length} tokens, and {self.max_length} are allowed. Shorten it, or skip all that are too "
                    "long (`skip_too_long`)."
                )
            if not offset:
                logger.warning(f"{name} is skipped: it has {length} tokens, and {self.max_length} are allowed.")
        raise ValueError(f"None of the {len(self)} conversations fits into {self.max_length} tokens.")

    def fitting(self) -> InstructionDataset:
        """A dataset of only the conversations that fit, for an evaluation in which each has to occur once."""
        positions = [i for i in range(len(self)) if self[i]["skipped"] == 0]
        kept = [self.conversations[i] for i in positions]
        return InstructionDataset(kept, self.processor, self.max_length, self.skip_too_long)


def encode_conversation(processor: LlmCxrProcessor, record: dict) -> dict:
    """
    A conversation record as a training example.

    Args:
        processor ([`LlmCxrProcessor`]):
            Its chat template marks the responses.
        record (`dict`):
            As in [`InstructionDataset`].

    Returns:
        `dict` of `input_ids`, `labels`, `task` and, where there are images without codes, `pixel_values`.

    Raises:
        ValueError: it has no response, an unknown task or messages of another form, or images that do not match its slots or
            are not of the codebook.
        OSError: an image cannot be read.
        TemplateError: the chat template refuses the messages.
    """
    task = record.get("task")
    if task not in TASKS:
        raise ValueError(f"the task must be one of {', '.join(TASKS)}, got {task!r}.")
    messages, options = record.get("messages"), {}
    if not messages:
        raise ValueError("it has no `messages`.")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"its `messages` must be a list of objects with `role` and `content`, got {messages!r:.200}.")
    for number, message in enumerate(messages, start=1):
        if not _is_content(content := message.get("content")):
            raise ValueError(
                f"the `content` of message {number} must be a text, or a list of {{'type': 'text', 'text': ...}} and "
                f"{{'type': 'image'}}, got {content!r:.200}."
            )
    # A table that holds records of all kinds has `None` where a record has no such column.
    if record.get("image_codes"):
        options["image_codes"] = record["image_codes"]
    elif record.get("images"):
        messages = _with_images(messages, record["images"])
    encoded = processor.apply_chat_template(
        [messages],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        processor_kwargs=options,
    )
    input_ids = torch.tensor(encoded["input_ids"][0])
    response = torch.tensor(encoded["assistant_masks"][0]).bool()
    if not response.any():
        raise ValueError("it has no response of the assistant, and the loss is on responses only.")
    example = {
        "input_ids": input_ids,
        "labels": input_ids.masked_fill(~response, -100),
        "task": TASKS.index(task),
    }
    if "pixel_values" in encoded:
        example["pixel_values"] = torch.tensor(np.stack(encoded["pixel_values"]))
    return example


def _is_content(content: Any) -> bool:
    if not isinstance(content, list):
        return isinstance(content, str)
    parts = (part if isinstance(part, dict) else {} for part in content)
    return all(
        part.get("type") == "image" or (part.get("type") == "text" and isinstance(part.get("text"), str))
        for part in parts
    )


def _with_images(messages: list[dict], images: list) -> list[dict]:
    """The messages with an image in every slot."""
    slots = sum(
        part["type"] == "image" for m in messages if not isinstance(m["content"], str) for part in m["content"]
    )
    if slots != len(images):
        raise ValueError(f"it has {slots} image slots and {len(images)} images.")
    images = iter(images)
    return [
        message
        if isinstance(message["content"], str)
        else {
            **message,
            "content": [
                {"type": "image", "image": next(images)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


class InstructionCollator:
    """
    Makes a batch of examples, one a row or several packed into one row.

    Packed conversations do not see each other: `position_ids` begin anew with each, and Transformers makes the mask of the
    attention from them (with the attention implementations "eager", "sdpa" and "flex_attention", and for batches of one
    row with "flash_attention_*"). The loss is that of the same examples one a row.

    Args:
        pad_token_id (`int`):
            Id of the padding, which is on the right.
        packing (`str`, *optional*):
            `"rows"` packs into as few rows as it can that are no longer than the longest example, so that no row costs more
            attention than without packing; `"one_row"`, for flash attention, puts all into one row. By default an example
            is a row.
        return_tasks (`bool`, *optional*, defaults to `False`):
            Also return what [`InstructionTrainer`] needs to tell the tasks apart.

    Raises:
        ValueError: another packing.
    """

    def __init__(self, pad_token_id: int, packing: str | None = None, return_tasks: bool = False):
        if packing not in (None, *PACKINGS):
            raise ValueError(f"`packing` must be one of {', '.join(PACKINGS)} or None, got {packing!r}.")
        self.pad_token_id = pad_token_id
        self.packing = packing
        self.return_tasks = return_tasks

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """
        Returns:
            `dict` of

            - `input_ids`, `labels` and, without packing, `attention_mask`, with packing, `position_ids`
              (`torch.LongTensor` of shape `(num_rows, row_length)`),
            - `pixel_values` (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`) of examples
              with images,
            - with `return_tasks`, `tasks` and `skipped` (`torch.LongTensor` of shape `(num_examples,)`), and `examples`
              (`torch.LongTensor` of shape `(num_rows, row_length)`): whose token each one is, -1 for padding.
        """
        rows = self._rows([len(example["input_ids"]) for example in examples])
        length = max(sum(len(examples[i]["input_ids"]) for i in row) for row in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.pad_token_id)
        labels = torch.full(shape, -100)
        # A padding token with position 0 is a conversation of its own, which nothing else sees.
        position_ids = torch.zeros(shape, dtype=torch.long)
        owners = torch.full(shape, -1)
        for row, members in enumerate(rows):
            start = 0
            for i in members:
                end = start + len(examples[i]["input_ids"])
                input_ids[row, start:end] = examples[i]["input_ids"]
                labels[row, start:end] = examples[i]["labels"]
                # Nothing predicts a first token: what stands before it belongs to another conversation.
                labels[row, start] = -100
                position_ids[row, start:end] = torch.arange(end - start)
                owners[row, start:end] = i
                start = end
        batch = {"input_ids": input_ids, "labels": labels}
        if self.packing is None:
            batch["attention_mask"] = (owners >= 0).long()
        else:
            batch["position_ids"] = position_ids
        pixel_values = [examples[i]["pixel_values"] for row in rows for i in row if "pixel_values" in examples[i]]
        if pixel_values:
            batch["pixel_values"] = torch.cat(pixel_values)
        if self.return_tasks:
            batch["examples"] = owners
            batch["tasks"] = torch.tensor([example["task"] for example in examples])
            batch["skipped"] = torch.tensor([example["skipped"] for example in examples])
        return batch

    def _rows(self, lengths: list[int]) -> list[list[int]]:
        """Which examples share a row: first fit, the longest first."""
        if self.packing is None:
            return [[i] for i in range(len(lengths))]
        if self.packing == "one_row":
            return [list(range(len(lengths)))]
        rows, free = [], []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            fitting = next((row for row, space in enumerate(free) if space >= lengths[i]), None)
            if fitting is None:
                rows.append([])
                free.append(max(lengths))
                fitting = len(rows) - 1
            rows[fitting].append(i)
            free[fitting] -= lengths[i]
        return rows
