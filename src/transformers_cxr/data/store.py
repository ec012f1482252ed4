"""Records in Parquet files: writing, reading, selection, and splits by patient."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import atomic_write
from .readers.image_folder import IMAGE_SUFFIXES, read_image_folder
from .records import IMAGE_TOKENS, PatientSplits, SkipReport, StudyRecord

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

SECTIONS = ("findings+impression", "impression")
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
        codes ([`datasets.Dataset`], *optional*): columns `id` and `codes`, as [`load_codes`] returns them. A record
            gets the codes of its id, or else of the only image whose path ends with its id; suffixes are ignored.
            Without this, records keep the codes that they have.
        skip_report ([`SkipReport`], *optional*): the skip report of the reader, to which skipped records are added.

    Returns:
        [`SkipReport`]: records are skipped if their image has no codes, if a text contains an image token ("<image>"),
        or if their id, with the same question, was written before.

    Raises:
        FileExistsError: `path` exists.
        ValueError: a patient is in two splits, or no record is left to write.
    """
    report = SkipReport() if skip_report is None else skip_report
    row_of = None if codes is None else _row_finder(codes["id"])
    splits, seen = PatientSplits(), set()

    def skip_reason(row: dict) -> str | None:
        if (row["id"], row["question"]) in seen:
            return "the id comes twice"
        seen.add((row["id"], row["question"]))
        splits.see(row["source"], row["patient"], row["split"])
        texts = (row[name] for name in ("findings", "impression", "question", "answer"))
        if any(token in text for text in texts for token in IMAGE_TOKENS):
            return "a text contains an image token"
        if codes is not None:
            if (code_row := row_of(row["id"])) is None:
                return "no codes"
            row["codes"] = codes[code_row]["codes"]
        return None

    def usable_rows() -> Iterator[dict]:
        for record in records:
            row = record.to_row()
            if reason := skip_reason(row):
                report.skip(record.id, reason)
            else:
                yield row

    rows = usable_rows()
    first = next(rows, None)
    if first is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.counts.items())
        message = f"Expected at least one record to write to '{path}', got none ({reasons or 'none were given'})."
        without = [name for name, reason in report.skipped if reason == "no codes"]
        if without and len(codes):
            message += (
                f" Records have ids such as '{without[0]}', and codes such as '{codes['id'][0]}': encode the folder "
                "that the ids of the records begin in."
            )
        raise ValueError(message)
    schema = _SCHEMA if codes is None else _SCHEMA.with_metadata({_TOKENIZER_KEY: codes.info.description})
    report.used = write_rows(chain([first], rows), path, schema)
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


def write_rows(rows: Iterable[dict], path: str | os.PathLike, schema: pa.Schema) -> int:
    """Write rows to a new Parquet file, which appears only when it is complete, and return their number."""
    rows, count = iter(rows), 0
    with atomic_write(path, overwrite=False) as partial:
        with pq.ParquetWriter(partial, schema) as writer:
            while group := list(islice(rows, _ROW_GROUP_SIZE)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                count += len(group)
        if not count:
            raise ValueError(f"Expected at least one row to write to '{path}', got none.")
    return count


def load_records(path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> datasets.Dataset:
    """
    Open records or texts as memory-mapped rows; [`StudyRecord.from_row`] returns the record of a row.

    Args:
        path (`str` or `os.PathLike`): Parquet file of [`write_records`] or [`write_texts`], or a folder of such files.
        cache_dir (`str` or `os.PathLike`, *optional*): folder of the memory-mapped copy, by default the cache of
            `datasets`.
    """
    from datasets import Dataset

    files = _parquet_files(path)
    for file in files:
        try:
            pq.read_metadata(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"'{file}' cannot be read as Parquet: {error}") from error
    return Dataset.from_parquet([str(file) for file in files], cache_dir=cache_dir and str(cache_dir))


def open_records(path: str | os.PathLike, split: str | None = None) -> list[StudyRecord]:
    """
    Read all records of a dataset into memory, without their codes.

    Args:
        path (`str` or `os.PathLike`): Parquet file of [`write_records`] or a folder of such files, or a folder of
            images as [`read_image_folder`] reads it.
        split (`str`, *optional*): split to keep, all by default. A folder without a `metadata.csv` has no splits.

    Raises:
        ValueError: a patient is in two splits, or no record is of the split.
    """
    if not is_records(path):
        if Path(path).is_file():
            raise ValueError(f"Expected a Parquet file of `write_records` or a folder of images, got '{path}'.")
        return list(read_image_folder(path, split))
    records, splits, known = [], PatientSplits(), set()
    for file in _parquet_files(path):
        columns = [name for name in pq.read_schema(file).names if name != "codes"]
        for batch in pq.ParquetFile(file).iter_batches(_ROW_GROUP_SIZE, columns=columns):
            for record in map(StudyRecord.from_row, batch.to_pylist()):
                splits.see(record.source, record.patient, record.split)
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
    if (Path(path) / "metadata.csv").is_file():
        return False
    try:
        names = pq.read_schema(_parquet_files(path)[0]).names
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
    return {"id", "patient", "image", "source"} <= set(names)


def _parquet_files(path: str | os.PathLike) -> list[Path]:
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"'{path}' is neither a Parquet file nor a folder of them.")
    return files


def check_tokenizer(path: str | os.PathLike, fingerprint: str) -> None:
    """
    Raise a `ValueError` if the codes of a Parquet file of [`write_records`] are from another image tokenizer.

    Args:
        path (`str` or `os.PathLike`): the file, or a folder of such files.
        fingerprint (`str`): [`tokenizer_fingerprint`] of the tokenizer.
    """
    for file in _parquet_files(path):
        known = (pq.read_schema(file).metadata or {}).get(_TOKENIZER_KEY, b"").decode()
        if known not in ("", fingerprint):
            raise ValueError(
                f"The codes in '{file}' were made by another image tokenizer than the model's (expected fingerprint "
                f"{fingerprint}, got {known}). Encode the images with the model (`transformers-cxr encode --model`)."
            )


def iterate(rows: datasets.Dataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield some columns of all rows. They are read in batches, which is many times as fast as reading single rows."""
    for batch in rows.select_columns(list(columns)).iter(batch_size=1000):
        for values in zip(*batch.values()):
            yield dict(zip(batch, values))


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
        ValueError: no row is left. The error says how many rows each condition removed.
    """
    conditions = {
        "split": lambda row: splits is None or row["split"] in splits,
        "view": lambda row: views is None or row["view"] in views,
        "first study": lambda row: not first_study or row["study_order"] == 1,
        "sections": lambda row: sections != "impression" or bool(row["impression"]) or not row["findings"],
    }
    removed, kept = Counter(), []
    for index, row in enumerate(iterate(rows, ["split", "view", "study_order", "impression", "findings"])):
        failed = next((name for name, holds in conditions.items() if not holds(row)), None)
        if failed is None:
            kept.append(index)
        else:
            removed[failed] += 1
    if not kept:
        columns = {"split": "split", "view": "view", "first study": "study_order"}
        known = {columns[name]: set(rows[columns[name]]) for name in removed if name in columns}
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


def check_patients(**splits: Iterable[StudyRecord] | datasets.Dataset) -> dict[str, int]:
    """
    Return the number of patients of each set, or raise a `ValueError` if a patient is in two of them.

    Args:
        splits (records, or rows of [`load_records`]): the sets, such as `train=train_records, test=test_records`.
    """
    from datasets import Dataset

    patients = {}
    for name, records in splits.items():
        if isinstance(records, Dataset):
            patients[name] = {(row["source"], row["patient"]) for row in iterate(records, ["source", "patient"])}
        else:
            patients[name] = {(record.source, record.patient) for record in records}
    names = list(patients)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            if shared := patients[first] & patients[second]:
                source, patient = min(shared)
                raise ValueError(
                    f"{len(shared)} patients are in both '{first}' and '{second}', such as '{patient}' of '{source}'."
                )
    return {name: len(found) for name, found in patients.items()}
