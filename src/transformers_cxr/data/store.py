"""Records in Parquet files: writing, reading, selection, and splits by patient."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import atomic_write
from .readers.image_folder import IMAGE_SUFFIXES, read_image_folder
from .readers.rows import open_parquet
from .records import SkipReport, StudyRecord, check_patients

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_ROW_GROUP_SIZE = 1024
_LABELS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.int8())]))
_TYPES = {"labels": _LABELS, "study_order": pa.int32(), "codes": pa.list_(pa.uint16())}
_SCHEMA = pa.schema([(item.name, _TYPES.get(item.name, pa.string())) for item in dataclasses.fields(StudyRecord)])
# Key of the metadata of a Parquet file that holds the fingerprint of the tokenizer of its codes.
_TOKENIZER_KEY = b"transformers_cxr_tokenizer"


def write_records(
    records: Iterable[StudyRecord],
    path: str | os.PathLike,
    codes: datasets.Dataset | None = None,
    skip_report: SkipReport | None = None,
) -> SkipReport:
    """
    Write records to a Parquet file, optionally with the codes of their images. Only ids and patients are kept in
    memory.

    Args:
        records (iterable of [`StudyRecord`]): the records of one or more readers.
        path (`str` or `os.PathLike`): Parquet file to write, with a column for each field. It appears when it is
            complete.
        codes ([`datasets.Dataset`], *optional*): columns `id` and `codes`, as [`load_codes`] and [`load_records`]
            return them. A record gets the codes of its id, or else of the only image whose path ends with its id;
            suffixes are ignored. Without this, records keep the codes that they have.
        skip_report ([`SkipReport`], *optional*): the skip report of the reader, to which skipped records are added.

    Returns:
        [`SkipReport`]: records are skipped if their image has no codes, or if their id, with the same source and
        question, was written before.

    Raises:
        FileExistsError: `path` exists.
        ValueError: a patient is in two splits, or no record is left to write.
    """
    report = SkipReport() if skip_report is None else skip_report
    schema, row_of = _SCHEMA, None
    if codes is not None:
        schema, row_of = _SCHEMA.with_metadata({_TOKENIZER_KEY: codes.info.description}), _row_finder(codes["id"])
    seen = set()

    def usable() -> Iterator[StudyRecord]:
        for record in records:
            key = (record.source, record.id, record.question)
            code_row = None if row_of is None else row_of(record.id)
            if key in seen:
                report.skip(record.id, "the id comes twice")
            elif codes is not None and code_row is None:
                report.skip(record.id, "no codes")
            else:
                yield record if codes is None else dataclasses.replace(record, codes=codes[code_row]["codes"])
            seen.add(key)

    rows = (record.to_row() for record in check_patients(usable()))
    with atomic_write(path, overwrite=False) as partial:
        with pq.ParquetWriter(partial, schema) as writer:
            while group := list(islice(rows, _ROW_GROUP_SIZE)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                report.num_written += len(group)
        if not report.num_written:
            message = f"Expected at least one record to write to '{path}', got none.\n{report}"
            if skip_report is None:
                message += (
                    "\nTo see what the reader skipped, pass one `SkipReport` to the reader and to `write_records`."
                )
            without = [name for name, reason in report.skipped if reason == "no codes"]
            if without and len(codes):
                message += (
                    f"\nRecords have ids such as '{without[0]}', and codes such as '{codes['id'][0]}': encode the "
                    "folder that the ids of the records begin in."
                )
            raise ValueError(message)
    return report


def _row_finder(ids: Iterable[str]) -> Callable[[str], int | None]:
    """Return a function that finds the row of an id, or of the only id whose path ends with it."""
    rows = {name: row for row, name in enumerate(ids)}

    @cache
    def rows_by_end(length: int) -> dict[tuple[str, ...], int | None]:
        ends = {}
        for name, row in rows.items():
            end = _parts(name)[-length:]
            ends[end] = row if end not in ends else None
        return ends

    def row_of(name: str) -> int | None:
        parts = _parts(name)
        return rows[name] if name in rows else rows_by_end(len(parts)).get(parts)

    return row_of


def _parts(name: str) -> tuple[str, ...]:
    stem, suffix = os.path.splitext(name)
    return tuple((stem if suffix.lower() in IMAGE_SUFFIXES else name).split("/"))


def load_records(path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> datasets.Dataset:
    """
    Open records as rows; [`StudyRecord.from_row`] returns the record of a row.

    Args:
        path (`str` or `os.PathLike`): Parquet file of [`write_records`] or a folder of such files, whose rows are
            memory-mapped, or a folder of images as [`read_image_folder`] reads it. Other Parquet files work too.
        cache_dir (`str` or `os.PathLike`, *optional*): folder of the memory-mapped copy, by default the cache of
            `datasets`.
    """
    from datasets import Dataset

    if _is_image_folder(path):
        return Dataset(pa.Table.from_pylist([record.to_row() for record in read_image_folder(path)], schema=_SCHEMA))
    files = _parquet_files(path)
    fingerprints = {(open_parquet(file).schema_arrow.metadata or {}).get(_TOKENIZER_KEY, b"") for file in files}
    dataset = Dataset.from_parquet([str(file) for file in files], cache_dir=cache_dir and str(cache_dir))
    # As `load_codes` does, so that `check_tokenizer` finds it.
    dataset.info.description = b" and ".join(sorted(fingerprints - {b""})).decode()
    return dataset


def open_records(path: str | os.PathLike, split: str | None = None) -> list[StudyRecord]:
    """
    Read all records of a dataset into memory, without their codes: to write them again, give [`write_records`] the
    codes of [`load_records`].

    Args:
        path (`str` or `os.PathLike`): Parquet file of [`write_records`] or a folder of such files, or a folder of
            images as [`read_image_folder`] reads it.
        split (`str`, *optional*): split to keep, all by default. A folder without a `metadata.csv` has no splits.

    Raises:
        ValueError: a patient is in two splits, or no record is of the split.
    """
    if _is_image_folder(path):
        return list(read_image_folder(path, split))
    if os.path.exists(path) and not is_records(path):
        raise ValueError(f"Expected a Parquet file of `write_records` or a folder of images, got '{path}'.")
    columns = [name for name in _SCHEMA.names if name != "codes"]
    batches = (batch for file in _parquet_files(path) for batch in open_parquet(file).iter_batches(columns=columns))
    records, known = [], set()
    for record in check_patients(StudyRecord.from_row(row) for batch in batches for row in batch.to_pylist()):
        known.add(record.split)
        if split in (None, record.split):
            records.append(record)
    if not records:
        raise ValueError(
            f"Expected at least one record of split '{split}' in '{path}', got none; it has {sorted(known)}."
        )
    return records


def is_records(path: str | os.PathLike) -> bool:
    """Return whether a path is a Parquet file of [`write_records`], or a folder of such files."""
    try:
        columns = open_parquet(_parquet_files(path)[0]).schema_arrow.names
    except (FileNotFoundError, IndexError, ValueError):
        return False
    return set(_SCHEMA.names) <= set(columns) and not _is_image_folder(path)


def _is_image_folder(path: str | os.PathLike) -> bool:
    path = Path(path)
    return path.is_dir() and ((path / "metadata.csv").is_file() or not any(path.glob("*.parquet")))


def _parquet_files(path: str | os.PathLike) -> list[Path]:
    return sorted(Path(path).glob("*.parquet")) if os.path.isdir(path) else [Path(path)]


def iterate(rows: datasets.Dataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield some columns of all rows. They are read in batches, which is many times as fast as reading single rows."""
    for batch in rows.select_columns(list(columns)).iter(batch_size=1000):
        for values in zip(*batch.values()):
            yield dict(zip(batch, values))


def check_sections(sections: str) -> None:
    """Raise a `ValueError` unless these are the sections of a report to use."""
    if sections not in ("findings+impression", "impression"):
        raise ValueError(f"Expected the sections 'findings+impression' or 'impression', got '{sections}'.")


def select_records(
    rows: datasets.Dataset,
    splits: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    first_study: bool = False,
    sections: str | None = None,
) -> datasets.Dataset:
    """
    Select rows by their columns, and log how many rows each condition removes. The sets of LLM-CXR (arXiv 2305.11490,
    section 4) are

    - stage 1: `splits=["train"]`,
    - stage 2: `splits=["train"], views=["AP", "PA"], first_study=True, sections="impression"`,
    - evaluation: `splits=["validation", "test"], views=["AP", "PA"]`.

    Args:
        rows ([`datasets.Dataset`]): rows of [`load_records`].
        splits (`Sequence[str]`, *optional*): splits to keep, all by default.
        views (`Sequence[str]`, *optional*): view positions to keep, all by default.
        first_study (`bool`, *optional*, defaults to `False`): whether to keep only the first study of each patient.
        sections (`str`, *optional*): "impression" keeps reports with an impression, and rows without a report, whose
            report is derived from labels.

    Raises:
        ValueError: `sections` is unknown, or no row is left. The error says how many rows each condition removed.
    """
    if sections is not None:
        check_sections(sections)
    conditions = {
        "split": lambda row: splits is None or row["split"] in splits,
        "view": lambda row: views is None or row["view"] in views,
        "study_order": lambda row: not first_study or row["study_order"] == 1,
        "impression": lambda row: sections != "impression" or row["impression"] or not row["findings"],
    }
    removed, kept = Counter(), []
    for index, row in enumerate(iterate(rows, [*conditions, "findings"])):
        failed = next((column for column, holds in conditions.items() if not holds(row)), None)
        if failed is None:
            kept.append(index)
        else:
            removed[failed] += 1
    if not kept:
        known = {column: set(rows[column]) for column in removed if column != "impression"}
        raise ValueError(
            f"No row of {len(rows)} is left; removed by condition: {dict(removed)}. The rows have {known}."
            + (" `assign_split` gives records a split." if "" in known.get("split", ()) else "")
        )
    if removed:
        logger.warning(f"{len(kept)} rows of {len(rows)} are left; removed by condition: {dict(removed)}.")
    return rows.select(kept)


def assign_split(
    records: Iterable[StudyRecord], validation: float = 0.1, test: float = 0.2, seed: int = 0
) -> Iterator[StudyRecord]:
    """
    Assign a split to records that have none. It depends only on the seed, the patient and the dataset.

    Args:
        records (iterable of [`StudyRecord`]): the records.
        validation (`float`, *optional*, defaults to `0.1`): expected share of the patients in "validation".
        test (`float`, *optional*, defaults to `0.2`): expected share of the patients in "test"; others are in "train".
        seed (`int`, *optional*, defaults to `0`): seed of the split.
    """
    if min(validation, test) < 0 or validation + test > 1:
        raise ValueError(
            f"Expected shares in [0, 1] with a sum of at most 1, got {validation} (validation) and {test} (test)."
        )
    for record in records:
        if not record.split:
            digest = hashlib.sha256(f"{seed}-{record.source}-{record.patient}".encode()).digest()
            place = int.from_bytes(digest[:8]) / 2**64
            split = "test" if place < test else "validation" if place < test + validation else "train"
            record = dataclasses.replace(record, split=split)
        yield record
