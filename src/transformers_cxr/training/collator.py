"""Batches of conversations, padded or packed."""

from __future__ import annotations

import torch

PACKINGS = ("rows", "one_row")


class InstructionCollator:
    """
    Collate examples into a batch with one example per row, or with several packed into a row.

    Packed conversations do not attend to each other: `position_ids` restart with each one, from which Transformers
    builds the attention mask (for "eager", "sdpa" and "flex_attention", and for batches of one row with
    "flash_attention_*"). The loss equals that of the padded batch.

    Args:
        pad_token_id (`int`):
            Id of the padding, which is on the right.
        packing (`str`, *optional*):
            `"rows"` packs into as few rows as possible that are not longer than the longest example, so that attention
            costs no more than without packing. `"one_row"`, for flash attention, packs everything into one row. By
            default examples are not packed.
        return_tasks (`bool`, *optional*, defaults to `False`):
            Also return `tasks`, `skipped` and `examples`, from which [`InstructionTrainer`] computes per-task losses.
    """

    def __init__(self, pad_token_id: int, packing: str | None = None, return_tasks: bool = False):
        if packing not in (None, *PACKINGS):
            raise ValueError(f"Expected a packing from {', '.join(PACKINGS)} or None, got {packing!r}.")
        self.pad_token_id = pad_token_id
        self.packing = packing
        self.return_tasks = return_tasks

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """
        Returns:
            `dict` of

            - `input_ids`, `labels` and `attention_mask`, or with packing `position_ids` (`torch.LongTensor` of shape
              `(num_rows, row_length)`),
            - `pixel_values` (`torch.FloatTensor` of shape `(num_images, in_channels, image_size, image_size)`) of
              examples with images,
            - with `return_tasks`, `tasks` and `skipped` (`torch.LongTensor` of shape `(num_examples,)`), and
              `examples` (`torch.LongTensor` of shape `(num_rows, row_length)`): the example of each token, -1 for
              padding.
        """
        rows = self._rows([len(example["input_ids"]) for example in examples])
        length = max(sum(len(examples[i]["input_ids"]) for i in row) for row in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.pad_token_id)
        labels = torch.full(shape, -100)
        # A padding token with position 0 is a conversation of its own, which no other token attends to.
        position_ids = torch.zeros(shape, dtype=torch.long)
        example_ids = torch.full(shape, -1)
        for row, members in enumerate(rows):
            start = 0
            for i in members:
                end = start + len(examples[i]["input_ids"])
                input_ids[row, start:end] = examples[i]["input_ids"]
                labels[row, start:end] = examples[i]["labels"]
                # The token before it belongs to another conversation and must not predict it.
                labels[row, start] = -100
                position_ids[row, start:end] = torch.arange(end - start)
                example_ids[row, start:end] = i
                start = end
        batch = {"input_ids": input_ids, "labels": labels}
        if self.packing is None:
            batch["attention_mask"] = (example_ids >= 0).long()
        else:
            batch["position_ids"] = position_ids
        pixel_values = [examples[i]["pixel_values"] for row in rows for i in row if "pixel_values" in examples[i]]
        if pixel_values:
            batch["pixel_values"] = torch.cat(pixel_values)
        if self.return_tasks:
            batch["examples"] = example_ids
            batch["tasks"] = torch.tensor([example["task"] for example in examples])
            batch["skipped"] = torch.tensor([example["skipped"] for example in examples])
        return batch

    def _rows(self, lengths: list[int]) -> list[list[int]]:
        """Return the examples of each row: first fit, longest first."""
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
