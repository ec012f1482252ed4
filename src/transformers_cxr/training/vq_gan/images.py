"""Images of a folder, or of a stream, as training examples of the VQ-GAN."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import torch
from torch.utils.data import Dataset, IterableDataset

from ...data.image_source import ImageSource
from ...data.readers.image_folder import READ_ERRORS
from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor


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
            IndexError: there are fewer files.
            ValueError: none of the files can be read.
        """
        if index >= len(self):
            raise IndexError(f"Image {index} of {len(self)}.")
        unreadable = []
        for offset in range(len(self)):
            path = self.paths[(index + offset) % len(self)]
            try:
                pixel_values = self.image_processor(path, return_tensors="pt").pixel_values[0]
                return {"pixel_values": pixel_values, "unreadable": unreadable}
            except READ_ERRORS as error:
                unreadable.append(f"{path}: {error}")
        raise ValueError(f"None of the {len(self)} image files can be read; the first is {unreadable[0]}")


class ImageStream(IterableDataset):
    """
    Images from a stream, again and again, in an order that the seed fixes: each is a random one of the next `buffer_size`. In
    the place of an image that cannot be read stands the next one that can, and the example names it. Under several processes
    each takes every `num_processes`-th batch. At most one worker of a `DataLoader` may read it: the library `datasets` would
    give each of several a part of the stream.

    Examples are those of [`ImageDataset`].

    Args:
        source ([`ImageSource`]):
            The stream.
        image_processor ([`LlmCxrImageProcessor`]):
            Prepares its images.
        batch_size (`int`):
            Images of a batch of one process.
        start (`int`, *optional*, defaults to 0):
            Batches of each process that were used before.
        process_index, num_processes (`int`, *optional*, default to 0 and 1):
            This process and how many there are.
        seed (`int`, *optional*, defaults to 0):
            Of the order.
        buffer_size (`int`, *optional*, defaults to 256):
            Encoded images that are held in memory.
    """

    def __init__(
        self,
        source: ImageSource,
        image_processor: LlmCxrImageProcessor,
        batch_size: int,
        start: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        seed: int = 0,
        buffer_size: int = 256,
    ):
        self.source = source
        self.image_processor = image_processor
        self.batch_size = batch_size
        self.start = start
        self.process_index = process_index
        self.num_processes = num_processes
        self.seed = seed
        self.buffer_size = buffer_size

    def __iter__(self) -> Iterator[dict]:
        """
        Raises:
            ValueError: the stream holds no image that can be read, or is damaged.
        """
        waiting, unreadable, read_before = 0, [], -1
        for position, (epoch, name, row) in enumerate(self._rows()):
            if epoch > read_before + 1:
                raise ValueError(f"None of the images of the stream can be read; the last is {unreadable[-1]}")
            batch, process = divmod(position // self.batch_size, self.num_processes)
            wanted = process == self.process_index and batch >= self.start
            if not wanted and not waiting:
                read_before = epoch
                continue
            waiting += wanted
            try:
                pixel_values = self.image_processor(self.source.image_of(row), return_tensors="pt").pixel_values[0]
            except READ_ERRORS as error:
                # Pillow names what it reads from memory by its address, which is another one in every epoch.
                unreadable.append(f"{name}: {re.sub(' at 0x[0-9a-f]+', '', str(error))}")
                continue
            read_before = epoch
            for _ in range(waiting):
                yield {"pixel_values": pixel_values, "unreadable": unreadable}
                unreadable = []
            waiting = 0

    def _rows(self) -> Iterator[tuple[int, str, dict]]:
        """Epochs, ids and rows, shuffled."""
        for epoch in count():
            draw, buffer, number = random.Random(f"{self.seed}, {epoch}"), [], -1
            for number, row in enumerate(self.source.rows(0)):
                buffer.append((epoch, self.source.id_of(row, number), row))
                if len(buffer) > self.buffer_size:
                    yield buffer.pop(draw.randrange(len(buffer)))
            draw.shuffle(buffer)
            yield from buffer
            if number < 0:
                raise ValueError("The stream holds no image.")


def collate_images(examples: list[dict]) -> dict:
    """`pixel_values` of shape `(batch_size, channels, height, width)`, and `unreadable` of all examples."""
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "unreadable": [message for example in examples for message in example["unreadable"]],
    }
