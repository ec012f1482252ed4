"""The command `encode`: a dataset of images to Parquet shards of codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data.readers.image_folder import READ_ERRORS
from . import options
from .errors import cli_errors
from .models import find_device, load_vq_tokenizer

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

    from ..data.image_source import ImageSource
    from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer


def encode(
    dataset: Annotated[
        str, typer.Argument(help="A folder or file of images, or a dataset on the Hub.", metavar="DATASET")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write to, or to go on with.", file_okay=False)],
    split: Annotated[str | None, typer.Option(help="Split of the dataset.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images, where it cannot be told.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of their ids, where it cannot be told.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images a shard.")] = 4096,
    batch_size: options.BatchSize = 32,
    model: options.Model = None,
    device: options.Device = None,
):
    """
    Tokenize a dataset: Parquet shards of codes, with the ids and the metadata of the images.

    DATASET is a folder of images or DICOM files, with or without a metadata.csv; a Parquet or WebDataset file, or a folder
    of these; or what `datasets.load_dataset` takes. The same command again goes on after an interruption. Images that cannot
    be read are listed in skipped.jsonl. `transformers_cxr.data.codes.load_codes` reads the result.

    ```
    transformers-cxr encode scans/ --output codes
    transformers-cxr encode user/dataset --split train --output codes
    accelerate launch -m transformers_cxr.cli.main \\
        encode scans/ --output codes
    ```
    """
    with cli_errors(), ExitStack() as stack:
        from accelerate import PartialState

        from ..data.codes import finish_encoding
        from ..data.image_source import open_source

        state = PartialState(cpu=device == "cpu")
        source = open_source(dataset, split, image_column, id_column)
        # Accelerate gives each of several processes its own device.
        own_device = state.device if state.num_processes > 1 else find_device(device)
        encoder = Encoder(source, *load_vq_tokenizer(model, own_device), output, shard_size, batch_size)
        finished = _begin(state, encoder, stack)
        num_shards = encoder.encode(finished, state.process_index, state.num_processes)
        state.wait_for_everyone()
        num_skipped = 0
        if state.is_main_process:
            num_images, num_skipped = finish_encoding(output, num_shards)
            typer.echo(f"{num_images} images in {num_shards} shards written to {output}, {num_skipped} left out.")
        state.destroy_process_group()
    if num_skipped:
        typer.echo(f"What was left out is listed in {output / 'skipped.jsonl'}.", err=True)
        raise typer.Exit(1)


def _begin(state: PartialState, encoder: Encoder, stack: ExitStack) -> set[int]:
    """The shards that are finished. The main process alone looks, and holds the lock until `stack` is closed."""
    from accelerate.utils import broadcast_object_list

    from ..data.codes import begin_encoding
    from ..files import lock

    answer: set[int] | Exception | None = None
    if state.is_main_process:
        try:
            encoder.output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(encoder.output))
            answer = begin_encoding(encoder.output, encoder.settings)
        # The other processes wait for the answer.
        except (ValueError, OSError) as error:
            answer = error
    (answer,) = broadcast_object_list([answer])
    if isinstance(answer, Exception):
        raise answer if state.is_main_process else typer.Exit(1)
    return answer


@dataclass
class ReadRow:
    """
    A row of a dataset.

    row_id (`str`): its id.
    metadata (`dict`): what is kept of it.
    pixel_values (`torch.FloatTensor` of shape `(1, channels, height, width)`, *optional*): its image in [-1, 1].
    reason (`str`): why there is none.
    """

    row_id: str
    metadata: dict
    pixel_values: torch.FloatTensor | None = None
    reason: str = ""


class Encoder:
    """
    Writes the shards of a dataset.

    Args:
        source ([`ImageSource`]):
            The dataset.
        vq_tokenizer ([`CXRVQTokenizer`]), image_processor ([`LlmCxrImageProcessor`]):
            What encodes it.
        output (`Path`):
            Folder of the shards.
        shard_size, batch_size (`int`):
            Rows of a shard, and images that are encoded at a time.
    """

    def __init__(
        self,
        source: ImageSource,
        vq_tokenizer: CXRVQTokenizer,
        image_processor: LlmCxrImageProcessor,
        output: Path,
        shard_size: int,
        batch_size: int,
    ):
        from ..data.codes import codes_schema, tokenizer_fingerprint

        self.source = source
        self.vq_tokenizer = vq_tokenizer
        self.image_processor = image_processor
        self.output = output
        self.shard_size = shard_size
        self.batch_size = batch_size
        self.schema = codes_schema(vq_tokenizer, source.metadata)
        self.settings = {
            **source.settings,
            "tokenizer": tokenizer_fingerprint(vq_tokenizer),
            "image_processor": json.loads(image_processor.to_json_string()),
            "shard_size": shard_size,
        }

    def encode(self, finished: set[int], process_index: int, num_processes: int) -> int:
        """
        Writes the shards of one of several processes, every `num_processes`-th of those that are not finished.

        Returns:
            `int`: the number of shards of the whole dataset.

        Raises:
            ValueError: the dataset is empty or damaged.
            OSError: a shard cannot be written.
        """
        import torch
        from tqdm import tqdm

        from ..data.codes import shard_path

        first = next(shard for shard in count() if shard not in finished)
        start = first * self.shard_size
        turns = count()
        num_shards = first
        bar = tqdm(
            total=self._num_rows(finished, process_index, num_processes),
            unit="image",
            desc=f"Process {process_index + 1} of {num_processes}" if num_processes > 1 else "Encoding",
            disable=None if process_index == 0 else True,
        )
        with bar, ThreadPoolExecutor(torch.get_num_threads()) as pool:
            rows = enumerate(self.source.rows(start), start)
            for shard, numbered_rows in groupby(rows, key=lambda numbered: numbered[0] // self.shard_size):
                num_shards = shard + 1
                if shard not in finished and next(turns) % num_processes == process_index:
                    self._encode_shard(shard_path(self.output, shard), numbered_rows, pool, bar)
        if not num_shards:
            raise ValueError(f"The dataset '{self.source.settings['dataset']}' is empty.")
        return num_shards

    def _num_rows(self, finished: set[int], process_index: int, num_processes: int) -> int | None:
        """How many rows a process encodes, where it is known."""
        if self.source.total is None:
            return None
        starts = range(0, self.source.total, self.shard_size)
        own = [start for start in starts if start // self.shard_size not in finished][process_index::num_processes]
        return sum(min(self.shard_size, self.source.total - start) for start in own)

    def _encode_shard(self, path: Path, rows: Iterator[tuple[int, dict]], pool: ThreadPoolExecutor, bar) -> None:
        import numpy as np
        import torch

        from ..data.codes import write_shard

        metadata, codes, skipped = [], [np.empty((0, self.vq_tokenizer.config.num_image_tokens), np.uint16)], []
        for batch in self._read_batches(rows, pool):
            for row in batch:
                if row.pixel_values is None:
                    skipped.append({"id": row.row_id, "reason": row.reason})
                    bar.write(f"Not read: {row.row_id}: {row.reason}", file=sys.stderr)
                else:
                    metadata.append(row.metadata)
            pixel_values = [row.pixel_values for row in batch if row.pixel_values is not None]
            if pixel_values:
                with torch.no_grad():
                    encoded = self.vq_tokenizer.encode(torch.cat(pixel_values).to(self.vq_tokenizer.device))
                codes.append(encoded.cpu().numpy().astype(np.uint16))
            bar.update(len(batch))
        write_shard(path, self.schema, metadata, np.concatenate(codes), skipped)

    def _read_batches(self, rows: Iterator[tuple[int, dict]], pool: ThreadPoolExecutor) -> Iterator[list[ReadRow]]:
        """Batches, of which the next one is being read while one is encoded."""
        reading = None
        while batch := list(islice(rows, self.batch_size)):
            reading, before = pool.map(self._read, batch), reading
            if before is not None:
                yield list(before)
        if reading is not None:
            yield list(reading)

    def _read(self, numbered_row: tuple[int, dict]) -> ReadRow:
        number, row = numbered_row
        row_id = self.source.id_of(row, number)
        metadata = {"id": row_id} | {name: row[name] for name in self.source.metadata.names}
        try:
            image = self.source.image_of(row)
            return ReadRow(row_id, metadata, self.image_processor(image, return_tensors="pt").pixel_values)
        except READ_ERRORS as error:
            return ReadRow(row_id, metadata, reason=str(error))
