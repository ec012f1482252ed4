"""The command `encode`: a dataset of images to Parquet shards of codes."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import count, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoints import load_vq_tokenizer
from . import options

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer


def encode(
    dataset: Annotated[
        str, typer.Argument(help="A folder or file of images, or the name of a dataset on the Hub.", metavar="DATASET")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write to or to resume.", file_okay=False)],
    split: Annotated[str | None, typer.Option(help="Split to encode, such as train. Default: all.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images. Default: the only one.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids of the images.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per Parquet file.")] = 4096,
    batch_size: options.BatchSize = 32,
    model: options.Model = None,
    device: options.Device = None,
):
    """
    Encode the images of a dataset as codes, and write Parquet files of ids, codes and metadata.

    DATASET is a folder of images or DICOM files, with or without a metadata.csv; a Parquet or WebDataset file, or a
    folder of these; or the name of a dataset on the Hub. The same command again resumes. Unreadable images are listed
    in skipped.jsonl. `transformers_cxr.data.load_codes` reads the result.

    ```
    transformers-cxr encode scans/ --output codes
    transformers-cxr encode user/dataset --split train --output codes
    accelerate launch -m transformers_cxr.cli.main \\
        encode scans/ --output codes
    ```
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list
    from tqdm import tqdm

    from ..data import codes
    from ..data.image_source import open_source
    from ..files import lock

    state = PartialState(cpu=device == "cpu")
    source = open_source(dataset, split, image_column, id_column)
    # Accelerate gives each of several processes its own device.
    vq_tokenizer, image_processor = load_vq_tokenizer(model, state.device if state.num_processes > 1 else device)
    schema = codes.codes_schema(vq_tokenizer, source.metadata)
    settings = {
        **source.settings,
        "tokenizer": codes.tokenizer_fingerprint(vq_tokenizer),
        "image_processor": json.loads(image_processor.to_json_string()),
        "shard_size": shard_size,
    }
    num_skipped = 0
    output.mkdir(parents=True, exist_ok=True)
    with lock(output) if state.is_main_process else nullcontext():
        finished = codes.begin_encoding(output, settings) if state.is_main_process else None
        (finished,) = broadcast_object_list([finished])
        num_shards = next(shard for shard in count() if shard not in finished)
        start, unfinished = num_shards * shard_size, count()
        total = None if source.total is None else max(0, source.total - start)
        with (
            tqdm(total=total, unit="image", disable=None if state.is_main_process else True) as progress,
            ThreadPoolExecutor(torch.get_num_threads()) as pool,
        ):
            rows = enumerate(source.rows(start), start)
            for shard, shard_rows in groupby(rows, key=lambda row: row[0] // shard_size):
                num_shards = shard + 1
                if shard in finished or next(unfinished) % state.num_processes != state.process_index:
                    progress.update(sum(1 for _ in shard_rows))
                    continue
                results = _read_ahead(pool, partial(_read, image_processor), shard_rows, batch_size)
                content = _encode(vq_tokenizer, results, batch_size, progress)
                codes.write_shard(codes.shard_path(output, shard), schema, *content)
        if not num_shards:
            raise ValueError(f"The dataset '{dataset}' is empty.")
        state.wait_for_everyone()
        if state.is_main_process:
            num_images, num_skipped = codes.finish_encoding(output, num_shards)
            typer.echo(f"{num_images} images in {num_shards} shards written to {output}, {num_skipped} skipped.")
        state.destroy_process_group()
    if num_skipped:
        typer.echo(f"Skipped images are listed in {output / 'skipped.jsonl'}.", err=True)
        raise typer.Exit(1)


def _read(image_processor: LlmCxrImageProcessor, row: tuple[int, tuple[str, Any, dict]]) -> tuple[dict, Any]:
    """Return the id and metadata of a numbered row, and its pixels or the error of reading them."""
    from ..data.image_source import read_image
    from ..data.readers.image_folder import READ_ERRORS

    _, (image_id, image, metadata) = row
    try:
        return {"id": image_id, **metadata}, image_processor(read_image(image), return_tensors="pt").pixel_values
    except READ_ERRORS as error:
        return {"id": image_id, **metadata}, error


def _read_ahead(pool: Executor, read: Callable, rows: Iterator, num_ahead: int) -> Iterator:
    """Yield the results of `read` in order, which the threads of a pool compute `num_ahead` rows ahead."""
    futures = deque(pool.submit(read, row) for row in islice(rows, num_ahead))
    while futures:
        yield futures.popleft().result()
        futures.extend(pool.submit(read, row) for row in islice(rows, 1))


def _encode(vq_tokenizer: CXRVQTokenizer, results: Iterator, batch_size: int, progress: tqdm):
    """Return the metadata, the codes and the unreadable images of a shard, for [`write_shard`]."""
    import numpy as np
    import torch

    metadata, skipped = [], []
    codes = [np.empty((0, vq_tokenizer.config.num_image_tokens), np.uint16)]
    while batch := list(islice(results, batch_size)):
        pixel_values = []
        for row, result in batch:
            if isinstance(result, Exception):
                skipped.append({"id": row["id"], "reason": str(result)})
                progress.write(f"Not read: {row['id']}: {result}", file=sys.stderr)
            else:
                metadata.append(row)
                pixel_values.append(result)
        if pixel_values:
            with torch.no_grad():
                encoded = vq_tokenizer.encode(torch.cat(pixel_values).to(vq_tokenizer.device))
            codes.append(encoded.cpu().numpy().astype(np.uint16))
        progress.update(len(batch))
    return metadata, np.concatenate(codes), skipped
