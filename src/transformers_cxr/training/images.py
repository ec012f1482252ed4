"""Images of a folder as training examples of the VQ-GAN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor


class ImageDataset(Dataset):
    """
    Images from files. In the place of a file that cannot be read stands the next one that can, and the example names the
    file; which image stands where depends on the files alone.

    Args:
        paths (`Sequence[Path]`):
            The image files.
        image_processor ([`LlmCxrImageProcessor`]):
            Prepares them.
    """

    def __init__(self, paths: Sequence[Path], image_processor: LlmCxrImageProcessor):
        self.paths = paths
        self.image_processor = image_processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        """
        `pixel_values`, `torch.FloatTensor` of shape `(channels, height, width)` in [-1, 1], and `unreadable`, for each file
        that was passed over its name with the reason.

        Raises:
            ValueError: none of the files can be read.
        """
        unreadable = []
        for offset in range(len(self)):
            path = self.paths[(index + offset) % len(self)]
            try:
                pixel_values = self.image_processor(path, return_tensors="pt").pixel_values[0]
                return {"pixel_values": pixel_values, "unreadable": unreadable}
            # What Pillow's readers raise on a broken file depends on the format.
            except (OSError, SyntaxError, ValueError) as error:
                unreadable.append(f"{path}: {error}")
        raise ValueError(f"None of the {len(self)} image files can be read; the first is {unreadable[0]}")

    @staticmethod
    def collate(examples: list[dict]) -> dict:
        """`pixel_values` of shape `(batch_size, channels, height, width)`, and `unreadable` of all examples."""
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "unreadable": [message for example in examples for message in example["unreadable"]],
        }
