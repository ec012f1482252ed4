"""
Store of VQ codes, written by `transformers-cxr encode`.

    FOLDER/codes-00000.parquet, codes-00001.parquet, ...   `id`, `codes` and the metadata of the images
    FOLDER/encoding.json                                   settings of the encoding
    FOLDER/summary.json                                    number of shards and images, once all are encoded
    FOLDER/skipped.jsonl                                   `{"id", "reason"}` of each unreadable image

Shard `i` holds the rows `[i * shard_size, (i + 1) * shard_size)` of the dataset without unreadable images. Each shard
is written in one step, so that an interrupted encoding resumes at the first missing shard.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import atomic_write, check_same_settings, read_json
from .readers.rows import open_parquet

if TYPE_CHECKING:
    from datasets import Dataset

    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer

ENCODING = "encoding.json"
SUMMARY = "summary.json"
SKIPPED = "skipped.jsonl"
# Key of the metadata of a shard that holds its skipped images.
_SKIPPED_KEY = b"skipped"
# Codes depend on these weights, and not on the decoder.
_ENCODER_WEIGHTS = ("vq_model.encoder.", "vq_model.quant_conv.", "vq_model.quantize.")


def tokenizer_fingerprint(vq_tokenizer: CXRVQTokenizer) -> str:
    """Return the SHA-256 of the weights of an image tokenizer that its codes depend on, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vq_tokenizer.state_dict().items()):
        if name.startswith(_ENCODER_WEIGHTS):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_tokenizer(codes: Dataset, vq_tokenizer: CXRVQTokenizer) -> None:
    """
    Check that codes come from the encoder of an image tokenizer. Its decoder may differ.

    Args:
        codes (`datasets.Dataset`): codes of [`load_codes`], or records of [`load_records`].
        vq_tokenizer ([`CXRVQTokenizer`]): the tokenizer.

    Raises:
        ValueError: the codes are from another tokenizer.
    """
    known, expected = codes.info.description, tokenizer_fingerprint(vq_tokenizer)
    if known not in ("", expected):
        raise ValueError(
            f"The codes are from another image tokenizer than the model's (expected fingerprint {expected}, got "
            f"{known}). Encode the images with the model (`transformers-cxr encode --model`)."
        )


def codes_schema(vq_tokenizer: CXRVQTokenizer, metadata: pa.Schema) -> pa.Schema:
    """Return the schema of a shard: `id`, `codes` and the columns of `metadata`, which must have other names."""
    if taken := {"id", "codes"} & set(metadata.names):
        raise ValueError(f"The dataset has a column {sorted(taken)}, which the codes need: rename it.")
    codes_type = pa.list_(pa.uint16(), vq_tokenizer.config.num_image_tokens)
    return pa.schema([pa.field("id", pa.string()), pa.field("codes", codes_type), *metadata])


def shard_path(folder: str | os.PathLike, shard: int) -> Path:
    """Return the file of a shard."""
    return Path(folder) / f"codes-{shard:05d}.parquet"


def write_shard(
    path: str | os.PathLike,
    schema: pa.Schema,
    rows: Sequence[dict],
    codes: np.ndarray,
    skipped: Sequence[dict[str, str]],
) -> None:
    """
    Write a shard in one step.

    Args:
        path (`str` or `os.PathLike`): the file.
        schema (`pa.Schema`): schema of [`codes_schema`].
        rows (sequence of `dict`): `id` and metadata of each image.
        codes (`np.ndarray` of dtype `uint16` and shape `(len(rows), num_image_tokens)`): codes in raster order.
        skipped (sequence of `dict`): `id` and `reason` of each unreadable image of the shard.
    """
    columns = [
        pa.FixedSizeListArray.from_arrays(codes.reshape(-1), codes.shape[1])
        if field.name == "codes"
        else pa.array([row[field.name] for row in rows], field.type)
        for field in schema
    ]
    table = pa.table(columns, schema=schema.with_metadata({_SKIPPED_KEY: json.dumps(list(skipped))}))
    with atomic_write(path) as partial:
        pq.write_table(table, partial)


def begin_encoding(folder: str | os.PathLike, settings: dict) -> set[int]:
    """
    Start or resume an encoding, and return the numbers of the finished shards.

    Args:
        folder (`str` or `os.PathLike`): an empty folder, or that of an interrupted encoding.
        settings (`dict`): everything that the content of the shards depends on.

    Raises:
        ValueError: the folder holds other files, or codes that were made with other settings.
    """
    folder = Path(folder)
    # A process that was killed at its first step leaves an incomplete file.
    others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".incomplete-"))
    if others and not (folder / ENCODING).is_file():
        raise ValueError(
            f"'{folder}' holds '{others[0]}' and no codes. Choose a new or an empty folder for the output."
        )
    check_same_settings(folder / ENCODING, settings)
    return {int(path.stem.removeprefix("codes-")) for path in folder.glob("codes-*.parquet")}


def finish_encoding(folder: str | os.PathLike, num_shards: int) -> tuple[int, int]:
    """Mark an encoding as complete, write `skipped.jsonl`, and return the number of images and of skipped images."""
    folder = Path(folder)
    shards = [pq.read_metadata(shard_path(folder, shard)) for shard in range(num_shards)]
    num_images = sum(shard.num_rows for shard in shards)
    skipped = [entry for shard in shards for entry in json.loads(shard.metadata[_SKIPPED_KEY])]
    counts = {"num_shards": num_shards, "num_images": num_images, "num_skipped": len(skipped)}
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in skipped]
    for name, text in ((SKIPPED, "".join(lines)), (SUMMARY, json.dumps(counts, indent=2) + "\n")):
        with atomic_write(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return num_images, len(skipped)


def load_codes(folder: str | os.PathLike) -> Dataset:
    """
    Load codes into memory (512 bytes for an image of 256 codes, and its metadata).

    Args:
        folder (`str` or `os.PathLike`): a folder of `transformers-cxr encode`.

    Returns:
        `datasets.Dataset`: `id` (`str`), `codes` (`num_image_tokens` codes in raster order, each in `[0,
        codebook_size)`) and the metadata, in the order of the encoded dataset. [`check_tokenizer`] checks which
        tokenizer they are from.

    Raises:
        FileNotFoundError: there is no encoding, or a shard is missing.
        ValueError: the encoding is not complete, or a file of it is damaged.
    """
    from datasets import Dataset, DatasetInfo

    folder = Path(folder)
    if not (folder / ENCODING).is_file():
        raise FileNotFoundError(f"No `{ENCODING}` in '{folder}': expected a folder of `transformers-cxr encode`.")
    if not (folder / SUMMARY).is_file():
        raise ValueError(f"The codes in '{folder}' are not complete. Run the same `transformers-cxr encode` again.")
    num_shards = read_json(folder / SUMMARY, {"num_shards": int})["num_shards"]
    shards = [open_parquet(shard_path(folder, shard)).read() for shard in range(num_shards)]
    fingerprint = read_json(folder / ENCODING, {"tokenizer": str})["tokenizer"]
    # `write_records` stores the fingerprint of the tokenizer beside the codes.
    table = pa.concat_tables(shard.replace_schema_metadata() for shard in shards)
    return Dataset(table, info=DatasetInfo(description=fingerprint))
