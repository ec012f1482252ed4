"""Encoding of the images of a dataset as Parquet shards of codes."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from ..files import locked_output
from ..llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer
from .codes import begin_encoding, codes_schema, finish_encoding, shard_path, tokenizer_fingerprint, write_shard
from .image_source import ImageSource, read_image
from .readers.image_folder import READ_ERRORS


def encode_images(
    source: ImageSource,
    vq_tokenizer: CXRVQTokenizer,
    image_processor: LlmCxrImageProcessor,
    folder: str | os.PathLike,
    shard_size: int = 4096,
    batch_size: int = 32,
) -> tuple[int, int, int]:
    """
    Encode the images of a dataset into a folder that [`load_codes`] reads, or resume that. Under `accelerate launch`
    all processes share the shards. Unreadable images are named on the standard error output, and left out.

    Args:
        source ([`ImageSource`]): the images.
        vq_tokenizer ([`CXRVQTokenizer`]), image_processor ([`LlmCxrImageProcessor`]): the image tokenizer, and the
            image processor of its model.
        folder (`str` or `os.PathLike`): the folder to write.
        shard_size (`int`, *optional*, defaults to 4096), batch_size (`int`, *optional*, defaults to 32): images of a
            file and of a batch.

    Returns:
        `tuple[int, int, int]`: the numbers of encoded images, files and skipped images.

    Raises:
        ValueError: the folder holds other files, or codes that were made with other settings; or there is no image.
        BlockingIOError: another run is writing to the folder.
    """
    folder, state = Path(folder), PartialState()
    schema = codes_schema(vq_tokenizer, source.metadata)
    settings = {
        **source.settings,
        "tokenizer": tokenizer_fingerprint(vq_tokenizer),
        "image_processor": json.loads(image_processor.to_json_string()),
        "shard_size": shard_size,
    }
    with locked_output(folder):
        finished = begin_encoding(folder, settings) if state.is_main_process else None
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
                write_shard(shard_path(folder, shard), schema, *content)
        if not num_shards:
            raise ValueError("The dataset is empty.")
        state.wait_for_everyone()
        numbers = finish_encoding(folder, num_shards) if state.is_main_process else None
        ((num_images, num_skipped),) = broadcast_object_list([numbers])
    return num_images, num_shards, num_skipped


def _read(image_processor: LlmCxrImageProcessor, row: tuple[int, tuple[str, Any, dict]]) -> tuple[dict, Any]:
    """Return the id and metadata of a numbered row, and its pixels or the error of reading them."""
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
