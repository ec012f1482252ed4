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

from ..checkpoints import load_vq_tokenizer
from . import options

if TYPE_CHECKING:
    import torch

    from ..data.image_source import ImageSource
    from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer


def encode(
    dataset: Annotated[
        str, typer.Argument(help="A folder or file of images, or a dataset on the Hub.", metavar="DATASET")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write to or to resume.", file_okay=False)],
    split: Annotated[str | None, typer.Option(help="Split of the dataset.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images, if ambiguous.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of their ids, if ambiguous.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 4096,
    batch_size: options.BatchSize = 32,
    model: options.Model = None,
    device: options.Device = None,
):
    """
    Encode a dataset as Parquet shards of codes, with the ids and metadata of the images.

    DATASET is a folder of images or DICOM files, with or without a metadata.csv; a Parquet or WebDataset file, or a
    folder of these; or a name for `datasets.load_dataset`. The same command again resumes. Unreadable images are
    listed in skipped.jsonl. `transformers_cxr.data.codes.load_codes` reads the result.

    ```
    transformers-cxr encode scans/ --output codes
    transformers-cxr encode user/dataset --split train --output codes
    accelerate launch -m transformers_cxr.cli.main \\
        encode scans/ --output codes
    ```
    """
    with ExitStack() as stack:
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        from ..data.codes import begin_encoding, finish_encoding, tokenizer_fingerprint
        from ..data.image_source import open_source
        from ..files import lock

        state = PartialState(cpu=device == "cpu")
        source = open_source(dataset, split, image_column, id_column)
        # Accelerate gives each of several processes its own device.
        own_device = state.device if state.num_processes > 1 else device
        encoder = Encoder(source, *load_vq_tokenizer(model, own_device), output, shard_size, batch_size)
        settings = {
            **source.settings,
            "tokenizer": tokenizer_fingerprint(encoder.vq_tokenizer),
            "image_processor": json.loads(encoder.image_processor.to_json_string()),
            "shard_size": shard_size,
        }
        finished = None
        if state.is_main_process:
            output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(output))
            finished = begin_encoding(output, settings)
        (finished,) = broadcast_object_list([finished])
        num_shards = encoder.encode(finished, state.process_index, state.num_processes)
        state.wait_for_everyone()
        num_skipped = 0
        if state.is_main_process:
            num_images, num_skipped = finish_encoding(output, num_shards)
            typer.echo(f"{num_images} images in {num_shards} shards written to {output}, {num_skipped} skipped.")
        state.destroy_process_group()
    if num_skipped:
        typer.echo(f"Skipped images are listed in {output / 'skipped.jsonl'}.", err=True)
        raise typer.Exit(1)


@dataclass(frozen=True)
class Encoder:
    """
    Encoder of a dataset into shards of codes.

    Args:
        source ([`ImageSource`]): Dataset.
        vq_tokenizer ([`CXRVQTokenizer`]), image_processor ([`LlmCxrImageProcessor`]): Image tokenizer.
        output (`Path`): Folder of the shards.
        shard_size, batch_size (`int`): Rows per shard, and images per batch.
    """

    source: ImageSource
    vq_tokenizer: CXRVQTokenizer
    image_processor: LlmCxrImageProcessor
    output: Path
    shard_size: int
    batch_size: int

    def encode(self, finished: set[int], process_index: int, num_processes: int) -> int:
        """Write every `num_processes`-th unfinished shard, and return the number of shards of the whole dataset."""
        import torch
        from tqdm import tqdm

        from ..data.codes import codes_schema, shard_path

        schema = codes_schema(self.vq_tokenizer, self.source.metadata)
        shard = next(shard for shard in count() if shard not in finished)
        start, num_shards, unfinished = shard * self.shard_size, shard, count()
        total = None if self.source.total is None else max(0, self.source.total - start)
        disable = None if process_index == 0 else True
        with (
            tqdm(total=total, unit="image", disable=disable) as bar,
            ThreadPoolExecutor(torch.get_num_threads()) as pool,
        ):
            rows = enumerate(self.source.rows(start), start)
            for shard, shard_rows in groupby(rows, key=lambda row: row[0] // self.shard_size):
                num_shards = shard + 1
                if shard not in finished and next(unfinished) % num_processes == process_index:
                    self._encode_shard(shard_path(self.output, shard), schema, shard_rows, pool, bar)
                else:
                    bar.update(sum(1 for _ in shard_rows))
        if not num_shards:
            raise ValueError(f"The dataset '{self.source.settings['dataset']}' is empty.")
        return num_shards

    def _encode_shard(self, path: Path, schema, rows: Iterator[tuple[int, dict]], pool: ThreadPoolExecutor, bar):
        import numpy as np
        import torch

        from ..data.codes import write_shard

        metadata, codes, skipped = [], [np.empty((0, self.vq_tokenizer.config.num_image_tokens), np.uint16)], []
        for batch in self._read_batches(rows, pool):
            bar.update(len(batch))
            pixel_values = []
            for row, result in batch:
                if isinstance(result, Exception):
                    skipped.append({"id": row["id"], "reason": str(result)})
                    bar.write(f"Not read: {row['id']}: {result}", file=sys.stderr)
                else:
                    metadata.append(row)
                    pixel_values.append(result)
            if pixel_values:
                with torch.no_grad():
                    encoded = self.vq_tokenizer.encode(torch.cat(pixel_values).to(self.vq_tokenizer.device))
                codes.append(encoded.cpu().numpy().astype(np.uint16))
        write_shard(path, schema, metadata, np.concatenate(codes), skipped)

    def _read_batches(self, rows: Iterator[tuple[int, dict]], pool: ThreadPoolExecutor):
        """Yield batches of results of [`Encoder._read`]; the next batch is read while one is encoded."""
        reading = None
        while batch := list(islice(rows, self.batch_size)):
            reading, ready = pool.map(self._read, batch), reading
            if ready is not None:
                yield list(ready)
        if reading is not None:
            yield list(reading)

    def _read(self, numbered_row: tuple[int, dict]) -> tuple[dict, torch.FloatTensor | Exception]:
        """Return the id and metadata of a row, and its pixels or the error of reading them."""
        from ..data.readers.image_folder import READ_ERRORS

        number, row = numbered_row
        kept = {"id": self.source.id_of(row, number)} | {name: row[name] for name in self.source.metadata.names}
        try:
            return kept, self.image_processor(self.source.image_of(row), return_tensors="pt").pixel_values
        except READ_ERRORS as error:
            return kept, error
