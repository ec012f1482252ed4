"""Rows of CSV, TSV, JSON, JSON Lines and Parquet files, and the values of their cells."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...files import open_text

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
# Spellings of sexes, age groups and splits, in lower case.
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"} | dict.fromkeys(("", "o", "other", "u", "unknown"), "")
AGE_GROUPS = {"child": "child", "adult": "adult"} | dict.fromkeys(("", "unknown"), "")
_SPLITS = dict.fromkeys(("validate", "val", "valid", "dev"), "validation") | {"training": "train", "testing": "test"}


def read_rows(path: str | os.PathLike, columns: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of a file. All cells of CSV and TSV files are `str`.

    Args:
        path (`str` or `os.PathLike`): a `.csv`, `.tsv`, `.jsonl`, `.json` (a list of objects) or `.parquet` file; text
            files optionally as `.gz`.
        columns (collection of `str`, *optional*): columns that every row must have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind or damaged, or a row lacks a column or has more cells than columns.
    """
    path, columns = Path(path), set(columns)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"Expected a file {', '.join(SUFFIXES)}, got '{path}'.")
    if suffix == ".parquet":
        rows = (row for batch in open_parquet(path).iter_batches(1024) for row in batch.to_pylist())
    else:
        rows = _text_rows(path, suffix)
    for number, row in enumerate(rows, start=1):
        if missing := columns - row.keys():
            raise ValueError(f"Row {number} of '{path}' lacks the columns {sorted(missing)}; it has {sorted(row)}.")
        yield row


def open_parquet(path: str | os.PathLike) -> pq.ParquetFile:
    """
    Open a Parquet file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of another kind.
    """
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file '{path}'.") from error
    except pa.ArrowInvalid as error:
        raise ValueError(f"'{path}' cannot be read as Parquet: {error}") from error


def _text_rows(path: Path, suffix: str) -> Iterator[dict[str, Any]]:
    with open_text(path) as file:
        if suffix == ".json":
            yield from _parse_json(file.read(), f"'{path}'")
        elif suffix == ".jsonl":
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield from _parse_json(f"[{line}]", f"'{path}', line {number}")
        else:
            delimiter = "," if suffix == ".csv" else "\t"
            for number, row in enumerate(csv.DictReader(file, delimiter=delimiter, restval=""), start=1):
                if any(row.pop(None, ())):
                    raise ValueError(
                        f"Row {number} of '{path}' has more cells than the table has columns: a text that contains "
                        f"{delimiter!r} must be in quotes."
                    )
                yield row


def _parse_json(text: str, where: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
        if "\\ud" in text.lower():
            # Escapes of lone surrogates, which are no text.
            json.dumps(rows, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {getattr(error, 'msg', error)}.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"Expected a list of objects in {where}, got something else.")
    return rows


def cell_text(cell: Any) -> str:
    """Return a cell as text, or "" if it is missing or NaN."""
    text = "" if cell is None else str(cell).strip()
    return "" if text.lower() == "nan" else text


def image_path(cell: Any, where: str) -> str:
    """
    Return the path of an image from a cell with the path, or with an image as `datasets` stores it.

    Raises:
        ValueError: the cell is a list; `where` is the row in the error.
    """
    if isinstance(cell, list):
        raise ValueError(f"{where} has a list of images, {cell!r:.200}; expected a row for each image.")
    return cell_text(cell["path"] if isinstance(cell, dict) else cell)


def split_name(text: str) -> str:
    """
    Return the name of a split as records have it, such as "validation" for "VAL". Unknown names are in lower case.
    """
    return _SPLITS.get(text.lower(), text.lower())
