"""Batches of conversations, padded or packed."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from . import packed_attention  # noqa: F401  registers "packed_sdpa"


class InstructionCollator:
    """
    Collate examples into a batch with one example per row, or with all of them packed into one row.

    Packed conversations do not attend to each other: `position_ids` restart with each one, from which Transformers
    builds the attention mask. The loss equals that of the padded batch. The attentions "flash_attention_*",
    "flex_attention" and "packed_sdpa" (see [`InstructionTrainer`]) compute each conversation by itself; "sdpa" and
    "eager" need time and memory for the row squared.

    Args:
        pad_token_id (`int`):
            Id of the padding, which is on the right.
        packing (`bool`, *optional*, defaults to `False`):
            Pack the examples into one row.
        return_tasks (`bool`, *optional*, defaults to `False`):
            Also return `tasks`, `skipped` and `examples`, from which [`InstructionTrainer`] computes per-task losses.
    """

    def __init__(self, pad_token_id: int, packing: bool = False, return_tasks: bool = False):
        self.pad_token_id = pad_token_id
        self.packing = packing
        self.return_tasks = return_tasks

    def __call__(self, examples: list[dict]) -> dict[str, Any]:
        """
        Returns:
            `dict` of

            - `input_ids`, `labels` and `attention_mask`, or with packing `position_ids` (`torch.LongTensor` of shape
              `(num_rows, row_length)`),
            - with packing, `use_cache` (`False`),
            - `pixel_values` (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`) of
              examples with images,
            - with `return_tasks`, `tasks` and `skipped` (`torch.LongTensor` of shape `(num_examples,)`), and
              `examples` (`torch.LongTensor` of shape `(num_rows, row_length)`): the example of each token, -1 for
              padding.
        """
        padding = {"input_ids": self.pad_token_id, "labels": -100, "position_ids": 0, "examples": -1}
        sequences: dict[str, list[torch.Tensor]] = {name: [] for name in padding}
        for i, example in enumerate(examples):
            labels = example["labels"].clone()
            # In a row, the token before it belongs to another conversation and must not predict it.
            labels[0] = -100
            sequences["input_ids"].append(example["input_ids"])
            sequences["labels"].append(labels)
            sequences["position_ids"].append(torch.arange(len(labels)))
            sequences["examples"].append(torch.full_like(labels, i))
        batch: dict[str, Any]
        if self.packing:
            batch = {name: torch.cat(values)[None] for name, values in sequences.items()}
            # With a cache, the backbone does not separate packed conversations.
            batch["use_cache"] = False
        else:
            batch = {name: pad_sequence(values, True, padding[name]) for name, values in sequences.items()}
            batch["attention_mask"] = (batch["examples"] >= 0).long()
            del batch["position_ids"]
        pixel_values = [example["pixel_values"] for example in examples if "pixel_values" in example]
        if pixel_values:
            batch["pixel_values"] = torch.cat(pixel_values)
        if self.return_tasks:
            batch["tasks"] = torch.tensor([example["task"] for example in examples])
            batch["skipped"] = torch.tensor([example["skipped"] for example in examples])
        else:
            del batch["examples"]
        return batch
