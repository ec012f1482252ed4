"""Training images of the VQ-GAN."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler
from transformers.utils import logging

from ...data.image_source import ImageSource, is_streamed, open_source, read_image
from ...data.readers.image_folder import READ_ERRORS
from ...data.records import images_of
from ...data.store import open_records
from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor

logger = logging.get_logger(__name__)


class ImageDataset(Dataset):
    """
    Images from files. A file that cannot be read is replaced by the next one that can, and the example names it.

    Args:
        paths (`Sequence[str | Path]`): the image files.
        image_processor ([`LlmCxrImageProcessor`]): processor of the images.
    """

    def __init__(self, paths: Sequence[str | Path], image_processor: LlmCxrImageProcessor):
        self.paths = paths
        self.image_processor = image_processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        """
        Return `pixel_values` (`torch.FloatTensor` of shape `(channels, height, width)` in [-1, 1]) and `unreadable`,
        the names of replaced files with the reason.

        Raises:
            IndexError: there are fewer files.
            ValueError: no file can be read.
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
        raise ValueError(f"None of the {len(self)} image files can be read. The first error is {unreadable[0]}")


@dataclass(eq=False)
class ImageStream(IterableDataset):
    """
    Images from an endless stream, shuffled in a buffer; the order depends on the seed alone. Examples are those of
    [`ImageDataset`].

    A `DataLoader` may have at most one worker, because `datasets` would split the stream between several.

    Args:
        source ([`ImageSource`]): the stream.
        image_processor ([`LlmCxrImageProcessor`]): processor of the images.
        batch_size (`int`): images per batch of a process.
        start (`int`, *optional*, defaults to 0): batches of each process to skip.
        process_index, num_processes (`int`, *optional*, default to 0 and 1): each process takes every
            `num_processes`-th batch.
        seed (`int`, *optional*, defaults to 0): seed of the order.
        buffer_size (`int`, *optional*, defaults to 256): encoded images in the shuffle buffer.
    """

    source: ImageSource
    image_processor: LlmCxrImageProcessor
    batch_size: int
    start: int = 0
    process_index: int = 0
    num_processes: int = 1
    seed: int = 0
    buffer_size: int = 256

    def __iter__(self) -> Iterator[dict]:
        """
        Raises:
            ValueError: the stream has no readable image, or is damaged.
        """
        num_waiting, unreadable, last_read_epoch = 0, [], -1
        for position, (epoch, name, image) in enumerate(self._rows()):
            if epoch > last_read_epoch + 1:
                raise ValueError(f"None of the images of the stream can be read. The last error is {unreadable[-1]}")
            batch, process = divmod(position // self.batch_size, self.num_processes)
            is_wanted = process == self.process_index and batch >= self.start
            if not is_wanted and not num_waiting:
                last_read_epoch = epoch
                continue
            num_waiting += is_wanted
            try:
                pixel_values = self.image_processor(read_image(image), return_tensors="pt").pixel_values[0]
            except READ_ERRORS as error:
                # Pillow names images in memory by their address, which changes in every epoch.
                unreadable.append(f"{name}: {re.sub(' at 0x[0-9a-f]+', '', str(error))}")
                continue
            last_read_epoch = epoch
            for _ in range(num_waiting):
                yield {"pixel_values": pixel_values, "unreadable": unreadable}
                unreadable = []
            num_waiting = 0

    def _rows(self) -> Iterator[tuple[int, str, bytes | Path | str | None]]:
        """Yield epochs, ids and images, shuffled."""
        for epoch in count():
            rng, buffer = random.Random(f"{self.seed}, {epoch}"), []
            for name, image, _ in self.source.rows(0):
                buffer.append((epoch, name, image))
                if len(buffer) > self.buffer_size:
                    yield buffer.pop(rng.randrange(len(buffer)))
            rng.shuffle(buffer)
            yield from buffer
            if not buffer:
                raise ValueError("Expected at least one image in the stream, got none.")


def load_training_images(
    data: str | Path,
    image_processor: LlmCxrImageProcessor,
    batch_size: int,
    num_batches: int,
    start: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    source_weights: Mapping[str, float] | None = None,
    num_workers: int = 0,
    seed: int = 0,
) -> tuple[DataLoader, torch.FloatTensor]:
    """
    Open the training images of the VQ-GAN.

    Args:
        data (`str` or `Path`):
            Records or a folder of images, as [`open_records`] opens them (the train split), or a Parquet or WebDataset
            file of images or a folder of such files, which are streamed.
        image_processor ([`LlmCxrImageProcessor`]): processor of the images.
        batch_size (`int`): images per batch of a process.
        num_batches (`int`): batches of each process in the whole run.
        start (`int`, *optional*, defaults to 0): batches of each process to skip, because a run is resumed.
        process_index, num_processes (`int`, *optional*, default to 0 and 1): this process and the number of processes.
        source_weights (`Mapping[str, float]`, *optional*): sampling weights of datasets, by default 1.0.
        num_workers (`int`, *optional*, defaults to 0): processes that read images, at most one for a stream.
        seed (`int`, *optional*, defaults to 0): seed of the order.

    Returns:
        `tuple[DataLoader, torch.FloatTensor]`: loader of batches with `pixel_values` and `unreadable`, and up to eight
        images to follow training with, `(num_images, channels, height, width)`.

    Raises:
        FileNotFoundError: there is no such file or folder, or it has no image.
        ValueError: there are `source_weights` for a stream.
    """
    if is_streamed(data):
        if source_weights:
            raise ValueError(
                "`source_weights` needs records or a folder of images, which has no `metadata.jsonl`: a stream has no "
                "sources."
            )
        source = open_source(str(data), "train")
        stream = ImageStream(source, image_processor, batch_size, start, process_index, num_processes, seed)
        shown = [example["pixel_values"] for example in islice(ImageStream(source, image_processor, 1, seed=seed), 8)]
        loader = DataLoader(stream, batch_size, collate_fn=collate_images, num_workers=min(num_workers, 1))
        return loader, torch.stack(shown)
    # Several questions may be about one image.
    records = images_of(open_records(data, "train"))
    if unknown := set(source_weights or {}) - (known := {record.source for record in records}):
        logger.warning(f"`source_weights` names {sorted(unknown)}, and the images are of {sorted(known)}.")
    dataset = ImageDataset([record.image for record in records], image_processor)
    weights = [(source_weights or {}).get(record.source, 1.0) for record in records]
    num_images = num_batches * batch_size * num_processes
    sampler = WeightedRandomSampler(weights, num_images, generator=torch.Generator().manual_seed(seed))
    order = torch.tensor(list(sampler)).view(-1, num_processes, batch_size)[start:, process_index].flatten().tolist()
    shown = [dataset[i]["pixel_values"] for i in range(0, len(dataset), -(-len(dataset) // 8))]
    loader = DataLoader(dataset, batch_size, sampler=order, collate_fn=collate_images, num_workers=num_workers)
    return loader, torch.stack(shown)


def collate_images(examples: list[dict]) -> dict:
    """Return `pixel_values` of shape `(batch_size, channels, height, width)`, and `unreadable` of all examples."""
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "unreadable": [message for example in examples for message in example["unreadable"]],
    }
