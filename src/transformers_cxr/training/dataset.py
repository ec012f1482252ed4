"""Instruction-tuning conversations as token ids and labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from jinja2 import TemplateError
from torch.utils.data import Dataset
from transformers.utils import logging

from ..data.mixture import TASKS
from ..data.readers.image_folder import READ_ERRORS
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor
from .augmentation import augment

logger = logging.get_logger(__name__)


class InstructionDataset(Dataset):
    """
    Conversations as token ids and labels. An index always returns the same example.

    Args:
        conversations (`Sequence[dict]`):
            A list, a `datasets.Dataset` or any other map-style dataset of conversations with the keys `messages`
            (Transformers' chat format), `task` (one of `TASKS`), and `image_codes` (integers of shape `(num_images,
            num_image_tokens)`) or `images` (paths or PIL images), one for each `{"type": "image"}` in order.
        processor ([`LlmCxrProcessor`]):
            Processor of the model. Its chat template marks the responses, the only tokens with labels.
        max_length (`int`, *optional*):
            Maximum number of tokens of a conversation.
        skip_too_long (`bool`, *optional*, defaults to `False`):
            Replace longer conversations by the next one that fits, with a warning, instead of raising an error.
        augment (`bool`, *optional*, defaults to `False`):
            Augment the images of every other conversation that reads them, see `training/augmentation.py`. Images of
            responses stay as they are.
        label_prompt_images (`bool`, *optional*, defaults to `False`):
            Give the codes of images in prompts labels, too.

    Raises:
        ValueError: there is no conversation.
    """

    def __init__(
        self,
        conversations: Sequence[dict],
        processor: LlmCxrProcessor,
        max_length: int | None = None,
        skip_too_long: bool = False,
        augment: bool = False,
        label_prompt_images: bool = False,
    ):
        if not len(conversations):
            raise ValueError("Expected at least one conversation, got none.")
        # Rows as lists, whatever their format (`set_format`).
        is_table = isinstance(conversations, datasets.Dataset)
        self.conversations = conversations.with_format(None) if is_table else conversations
        self.processor = processor
        self.max_length = max_length
        self.skip_too_long = skip_too_long
        self.augment = augment
        self.label_prompt_images = label_prompt_images

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> dict:
        """
        Return the example of [`encode_conversation`] with `skipped` (`int`): 1 if it replaces a conversation that is
        too long, else 0.

        Raises:
            IndexError: there are fewer conversations.
            ValueError: the conversation is invalid or too long.
        """
        if index >= len(self):
            raise IndexError(f"Conversation {index} of {len(self)}.")
        for offset in range(len(self)):
            position = (index + offset) % len(self)
            conversation = self.conversations[position]
            name = f"Conversation {position}" + (f" (id {conversation['id']!r})" if "id" in conversation else "")
            try:
                example = encode_conversation(self.processor, conversation, self.label_prompt_images)
                if self.augment and example["task"] != TASKS.index("image"):
                    example = _augmented(example, conversation, index)
            except (*READ_ERRORS, TemplateError) as error:
                raise ValueError(f"{name}: {error}") from error
            length = len(example["input_ids"])
            if self.max_length is None or length <= self.max_length:
                return {**example, "skipped": int(offset > 0)}
            message = f"{name} has {length} tokens, more than the maximum of {self.max_length}."
            if not self.skip_too_long:
                raise ValueError(f"{message} Shorten it, or skip conversations that are too long (`skip_too_long`).")
            if not offset:
                logger.warning(f"{message} It is skipped.")
        raise ValueError(f"None of the {len(self)} conversations fits into {self.max_length} tokens.")

    def drop_too_long(self) -> InstructionDataset:
        """Return a dataset of the conversations that fit, for an evaluation in which each one counts once."""
        kept = [self.conversations[i] for i in range(len(self)) if not self[i]["skipped"]]
        return InstructionDataset(kept, self.processor, self.max_length, self.skip_too_long)


def encode_conversation(processor: LlmCxrProcessor, conversation: dict, label_prompt_images: bool = False) -> dict:
    """
    Encode a conversation as a training example.

    Args:
        processor ([`LlmCxrProcessor`]):
            Processor of the model.
        conversation (`dict`):
            A conversation as in [`InstructionDataset`].
        label_prompt_images (`bool`, *optional*, defaults to `False`):
            Give the codes of images in prompts labels, too.

    Returns:
        `dict` of `input_ids` and `labels` (`torch.LongTensor` of shape `(sequence_length,)`; labels are -100 outside
        of responses), `task` (`int`, index into `TASKS`) and, for `images`, `pixel_values`.

    Raises:
        ValueError: the task is unknown, the messages have no response or another format, the images do not match their
            slots, or a code is outside of the codebook.
        OSError: an image cannot be read.
        TemplateError: the chat template rejects the messages.
    """
    task = conversation.get("task")
    if task not in TASKS:
        raise ValueError(f"Expected a task from {', '.join(TASKS)}, got {task!r}.")
    messages, processor_kwargs = check_messages(conversation.get("messages"), "messages"), {}
    for name in ("image_codes", "images"):
        # Rows of one table have every column; those that a conversation lacks are None.
        if not isinstance(conversation.get(name), (list, tuple, np.ndarray, type(None))):
            raise ValueError(f"Expected `{name}` as a list, got {conversation[name]!r:.200}.")
    if conversation.get("image_codes"):
        processor_kwargs["image_codes"] = conversation["image_codes"]
    elif images := conversation.get("images"):
        messages = copy.deepcopy(messages)
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        slots = [part for part in parts if part["type"] == "image"]
        if len(slots) != len(images):
            raise ValueError(f"Expected an image for each of the {len(slots)} image slots, got {len(images)}.")
        for slot, image in zip(slots, images):
            slot["image"] = image
    encoded = processor.apply_chat_template(
        [messages],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        processor_kwargs=processor_kwargs,
    )
    input_ids = torch.tensor(encoded["input_ids"][0])
    is_response = torch.tensor(encoded["assistant_masks"][0]).bool()
    if not is_response.any():
        raise ValueError("Expected a response of the assistant, which the loss is computed on, got none.")
    has_label = is_response
    if label_prompt_images:
        codes = input_ids - processor.image_token_offset
        has_label = is_response | (codes >= 0) & (codes < processor.codebook_size)
        has_label |= input_ids == processor.image_token_id
    example = {
        "input_ids": input_ids,
        "labels": input_ids.masked_fill(~has_label, -100),
        "task": TASKS.index(task),
    }
    if "pixel_values" in encoded:
        example["pixel_values"] = torch.tensor(np.stack(encoded["pixel_values"]))
    return example


def _augmented(example: dict, conversation: dict, index: int) -> dict:
    """Return an example with augmented images if `index` is odd."""
    if conversation.get("image_codes"):
        raise ValueError("Codes cannot be augmented. Give `images`, or do not set `augment`.")
    if "pixel_values" not in example or index % 2 == 0:
        return example
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(index)
        return {**example, "pixel_values": augment(example["pixel_values"])}


def check_messages(messages: Any, name: str) -> list[dict]:
    """Return messages of a conversation, or raise a `ValueError` with their name if they have another format."""
    if not messages or not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"Expected `{name}` as a list of `role` and `content`, got {messages!r:.200}.")
    for number, message in enumerate(messages, start=1):
        if not isinstance(role := message.get("role"), str):
            raise ValueError(f"Expected the `role` of message {number} as a string, got {role!r:.200}.")
        if not _is_content(content := message.get("content")):
            raise ValueError(
                f"Expected the `content` of message {number} as a string or a list of {{'type': 'text', 'text': ...}} "
                f"and {{'type': 'image'}}, got {content!r:.200}."
            )
    return messages


def _is_content(content: Any) -> bool:
    if not isinstance(content, list):
        return isinstance(content, str)
    parts = (part if isinstance(part, dict) else {} for part in content)
    return all(
        part.get("type") == "image" or (part.get("type") == "text" and isinstance(part.get("text"), str))
        for part in parts
    )
