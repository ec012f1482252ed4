"""
The code store: images as the codes of an image tokenizer, in Parquet shards.

    FOLDER/codes-00000.parquet, codes-00001.parquet, ...   `id`, `codes` and the metadata of the images
    FOLDER/encoding.json                                   settings of the encoding
    FOLDER/summary.json                                    numbers of shards and images, once all are encoded
    FOLDER/skipped.jsonl                                   `{"id", "reason"}` of each image that could not be read

Shard `i` holds the rows `[i * shard_size, (i + 1) * shard_size)` of the dataset without those that could not be read, whoever
writes it and whenever. A shard is whole or not there.
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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..files import atomic_write, check_same_settings

if TYPE_CHECKING:
    from datasets import Dataset

    from ..llm_cxr.modeling_cxr_vq_tokenizer import CXRVQTokenizer

ENCODING = "encoding.json"
SUMMARY = "summary.json"
SKIPPED = "skipped.jsonl"
# Under which the metadata of a Parquet file hold what `codes_schema` and `write_shard` say of the shard.
_METADATA_KEY = b"transformers_cxr"
# What decides which codes an image has; with another decoder they stay the same.
_ENCODER_WEIGHTS = ("vq_model.encoder.", "vq_model.quant_conv.", "vq_model.quantize.")


def tokenizer_fingerprint(vq_tokenizer: CXRVQTokenizer) -> str:
    """
    SHA-256 of all weights of a tokenizer that its codes depend on (encoder and codebook, not the decoder), as 64 hexadecimal
    digits. Two tokenizers of the same fingerprint give the same codes.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(vq_tokenizer.state_dict().items()):
        if name.startswith(_ENCODER_WEIGHTS):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def codes_schema(vq_tokenizer: CXRVQTokenizer, metadata: pa.Schema) -> pa.Schema:
    """
    The schema of a shard: `id` (string), `codes` (list of `num_image_tokens` uint16) and the columns of `metadata`.

    Raises:
        ValueError: the metadata have a column `id` or `codes`, or the codebook is too large for uint16.
    """
    config = vq_tokenizer.config
    if taken := {"id", "codes"} & set(metadata.names):
        raise ValueError(
            f"The dataset has a column {sorted(taken)}, which is a name of the code store's own: rename it."
        )
    if config.codebook_size > 2**16:
        raise ValueError(f"A codebook of {config.codebook_size} codes is too large: a code is stored in 16 bits.")
    description = {
        "tokenizer": tokenizer_fingerprint(vq_tokenizer),
        "codebook_size": config.codebook_size,
        "num_image_tokens": config.num_image_tokens,
    }
    fields = [pa.field("id", pa.string()), pa.field("codes", pa.list_(pa.uint16(), config.num_image_tokens))]
    return pa.schema([*fields, *metadata], {_METADATA_KEY: json.dumps(description)})


def shard_path(folder: str | os.PathLike, shard: int) -> Path:
    """The file of a shard."""
    return Path(folder) / f"codes-{shard:05d}.parquet"


def finished_shards(folder: str | os.PathLike) -> set[int]:
    """The numbers of the shards that are there."""
    return {int(path.stem.removeprefix("codes-")) for path in Path(folder).glob("codes-*.parquet")}


def write_shard(
    path: str | os.PathLike,
    schema: pa.Schema,
    rows: Sequence[dict],
    codes: np.ndarray,
    skipped: Sequence[dict[str, str]],
) -> None:
    """
    Writes a shard, durably and in one step.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        schema (`pa.Schema`):
            Of [`codes_schema`].
        rows (sequence of `dict`):
            For each image its `id` and its metadata.
        codes (`np.ndarray` of dtype `uint16` and shape `(len(rows), num_image_tokens)`):
            Codes in raster order.
        skipped (sequence of `dict`):
            `id` and `reason` of each image of these rows of the dataset that could not be read.

    Raises:
        OSError: the file cannot be written.
    """
    description = json.loads(schema.metadata[_METADATA_KEY]) | {"skipped": list(skipped)}
    columns = [
        pa.FixedSizeListArray.from_arrays(codes.reshape(-1), schema.field("codes").type.list_size)
        if field.name == "codes"
        else pa.array([row[field.name] for row in rows], field.type)
        for field in schema
    ]
    table = pa.table(columns, schema=schema.with_metadata({_METADATA_KEY: json.dumps(description)}))
    with atomic_write(path) as partial:
        pq.write_table(table, partial)


def begin_encoding(folder: str | os.PathLike, settings: dict) -> set[int]:
    """
    Begins a code store in a new or empty folder, or resumes one.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.
        settings (`dict`):
            All that the content of the shards depends on.

    Returns:
        `set[int]`: the shards that are finished.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: it holds codes that were made with other settings.
    """
    folder = Path(folder)
    path = folder / ENCODING
    if not path.is_file():
        # What a process that was killed at its first step leaves behind is not a user's file.
        if others := [entry.name for entry in folder.iterdir() if not entry.name.startswith(".incomplete-")]:
            raise FileExistsError(
                f"'{folder}' holds '{sorted(others)[0]}' and no codes. Choose a new or an empty folder for the output."
            )
    check_same_settings(path, settings)
    return finished_shards(folder)


def finish_encoding(folder: str | os.PathLike, num_shards: int) -> tuple[int, int]:
    """
    Writes `skipped.jsonl` and marks the store as complete.

    Returns:
        `tuple[int, int]`: the number of images in it, and of those that were skipped.

    Raises:
        ValueError: a shard is missing.
    """
    folder = Path(folder)
    if missing := set(range(num_shards)) - finished_shards(folder):
        raise ValueError(f"'{shard_path(folder, min(missing))}' is missing. Run the same command again.")
    num_images, skipped = 0, []
    for shard in range(num_shards):
        file = pq.read_metadata(shard_path(folder, shard))
        num_images += file.num_rows
        skipped += json.loads(file.metadata[_METADATA_KEY])["skipped"]
    with atomic_write(folder / SKIPPED) as partial:
        partial.write_text(
            "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in skipped), encoding="utf-8"
        )
    counts = {"num_shards": num_shards, "num_images": num_images, "num_skipped": len(skipped)}
    with atomic_write(folder / SUMMARY) as partial:
        partial.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return num_images, len(skipped)


def load_codes(folder: str | os.PathLike, vq_tokenizer: CXRVQTokenizer | None = None) -> Dataset:
    """
    Reads a code store into memory (512 bytes an image of 256 codes, and its metadata).

    Args:
        folder (`str` or `os.PathLike`):
            A folder that `transformers-cxr encode` wrote.
        vq_tokenizer ([`CXRVQTokenizer`], *optional*):
            The tokenizer that the codes are for; another decoder does not matter.

    Returns:
        `datasets.Dataset`: `id` (`str`), `codes` (`num_image_tokens` codes in raster order, each in `[0, codebook_size)`) and
        the metadata columns, in the order of the dataset that was encoded.

    Raises:
        FileNotFoundError: there is no code store, or one of its shards is missing.
        ValueError: the store is not complete, it is of another tokenizer, or a shard holds codes that do not exist or another
            number of codes than an image has.
    """
    from datasets import Dataset, DatasetInfo

    folder = Path(folder)
    if not (folder / ENCODING).is_file():
        raise FileNotFoundError(
            f"No `{ENCODING}` in '{folder}': expected a folder that `transformers-cxr encode` wrote."
        )
    if not (folder / SUMMARY).is_file():
        raise ValueError(f"The codes in '{folder}' are not complete. Run the same `transformers-cxr encode` again.")
    settings = json.loads((folder / ENCODING).read_text(encoding="utf-8"))
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    fingerprint = settings["tokenizer"] if vq_tokenizer is None else tokenizer_fingerprint(vq_tokenizer)
    tables = []
    for shard in range(summary["num_shards"]):
        path = shard_path(folder, shard)
        if not path.is_file():
            raise FileNotFoundError(
                f"'{path}' is missing. Remove '{folder / ENCODING}' and all shards, and encode anew."
            )
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            # Before pyarrow 26 also where an image has none.
            raise ValueError(f"The codes in '{path}' cannot be read, or an image has no codes: {error}") from error
        _check_shard(path, table, fingerprint)
        tables.append(table.replace_schema_metadata())
    # `write_records` notes beside the codes which tokenizer they are of.
    return Dataset(pa.concat_tables(tables), info=DatasetInfo(description=fingerprint))


def _check_shard(path: Path, table: pa.Table, fingerprint: str) -> None:
    description = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    if description.get("tokenizer") != fingerprint:
        raise ValueError(
            f"The codes in '{path}' are of another image tokenizer (fingerprint {description.get('tokenizer')}, expected "
            f"{fingerprint}). Encode the images with the tokenizer that they are for."
        )
    number, size = description["num_image_tokens"], description["codebook_size"]
    if table.schema.field("codes").type != pa.list_(pa.uint16(), number):
        raise ValueError(
            f"Expected {number} codes of 16 bits an image in '{path}', got {table.schema.field('codes').type}."
        )
    if table["codes"].null_count:
        raise ValueError(f"An image in '{path}' has no codes.")
    values = pc.list_flatten(table["codes"])
    if len(values) and (largest := pc.max(values).as_py()) >= size:
        raise ValueError(f"Code {largest} in '{path}' is outside the codebook: codes are in [0, {size}).")


__all__ = [
    "begin_encoding",
    "codes_schema",
    "finish_encoding",
    "finished_shards",
    "load_codes",
    "shard_path",
    "tokenizer_fingerprint",
    "write_shard",
]
