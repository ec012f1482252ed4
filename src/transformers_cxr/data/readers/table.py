"""Reading X-rays with reports or labels from any CSV, JSON or Parquet file, or an `imagefolder`, by a column map."""

from __future__ import annotations

import ast
import csv
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...files import open_text
from ...reports.sections import parse_report
from ..records import SkipReport, StudyRecord, label_name, label_value
from .image_folder import AGE_GROUPS, SEXES

# What a map may name: the fields of a record, and a column with the whole report in place of its sections.
FIELDS = {item.name for item in dataclasses.fields(StudyRecord)} | {"report"}
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_SPLIT_NAMES = dict.fromkeys(("validate", "val", "valid", "dev"), "validation") | {
    "training": "train",
    "testing": "test",
}


def read_table(
    path: str | os.PathLike,
    columns: Mapping[str, str],
    label_columns: Sequence[str] = (),
    images_dir: str | os.PathLike | None = None,
    source: str = "",
    split: str = "",
    skip_report: SkipReport | None = None,
    images_needed: bool = True,
) -> Iterator[StudyRecord]:
    """
    Reads a table of X-rays, a row an image.

    Args:
        path (`str` or `os.PathLike`):
            A `.csv`, `.tsv`, `.jsonl`, `.json` (a list of objects) or `.parquet` file, the first two also as `.gz`; or a folder
            with `metadata.csv`, `.jsonl` or `.parquet`, as `datasets`' `imagefolder` has it.
        columns (`Mapping[str, str]`):
            The column of each field of [`StudyRecord`], for instance `{"image": "file_name", "patient": "patient_id",
            "report": "text"}`. `image` is needed: a path, or an image in the table itself as `datasets` writes it, with a path.
            `report` is a whole report, whose sections are found by `parse_report`. `labels` is a list or a text of the
            labels that are present, with "|" between them, or an object of labels with 1, 0 or -1; "normal" is "No Finding", in
            any case. Without a column, the id is the image's path as the table has it, study and patient are the id.
        label_columns (`Sequence[str]`, *optional*):
            Columns named after a label, with 1, 0, -1 or nothing, as CheXpert has them.
        images_dir (`str` or `os.PathLike`, *optional*):
            Folder that paths of images are relative to, by default that of the table.
        source (`str`, *optional*):
            Name of the dataset where no column has it, by default that of the folder of the table: `train.csv` and
            `validation.csv` in it know a patient of both.
        split (`str`, *optional*):
            Split where no column has it. "val", "valid", "validate" and "dev" are "validation", "training" is
            "train", and "testing" "test".
        skip_report ([`SkipReport`], *optional*):
            Counts what is skipped: rows without an image or whose file is missing, ids that come again, rows with neither
            report nor label, and labels, sexes and age groups of another form.
        images_needed (`bool`, *optional*, defaults to `True`):
            Skip images that have no file. Without this, codes suffice for training.

    Yields:
        [`StudyRecord`] for each row that can be used.

    Raises:
        FileNotFoundError: there is no such file, or no metadata in the folder.
        ValueError: the file is of another kind or broken, a column of the map is missing, or a row has several images.
    """
    report = SkipReport() if skip_report is None else skip_report
    path = Path(path)
    if unknown := set(columns) - FIELDS:
        raise ValueError(f"The column map has unknown fields {sorted(unknown)}; known are {sorted(FIELDS)}.")
    if "image" not in columns:
        raise ValueError(f"The column map needs the field 'image', got {dict(columns)}.")
    if path.is_dir():
        path = next((path / name for name in METADATA_FILES if (path / name).is_file()), path / METADATA_FILES[0])
    images_dir = path.parent if images_dir is None else Path(images_dir)
    source = source or folder_name(path)
    seen = set()
    for number, row in enumerate(table_rows(path), start=1):
        if missing := {*columns.values(), *label_columns} - set(row):
            raise ValueError(f"Row {number} of '{path}' lacks the columns {sorted(missing)}; it has {sorted(row)}.")
        cell = {name: row[column] for name, column in columns.items()}
        values = {name: text_of(value) for name, value in cell.items() if name not in ("labels", "image")}
        values["image"] = image_path(cell["image"], f"Row {number} of '{path}'")
        image_id = values.get("id") or values["image"]
        where = image_id or f"row {number}"
        try:
            labels = _labels(cell.get("labels"), {name: row[name] for name in label_columns})
        except ValueError:
            report.skip(where, "a label without a name, or other than 1, 0 and -1")
            continue
        try:
            # As pandas writes whole numbers where another row has none.
            study_order = int(values.get("study_order", "").removesuffix(".0") or 0)
        except ValueError:
            report.skip(where, "a study's order that is no whole number")
            continue
        findings, impression = values.get("findings", ""), values.get("impression", "")
        if text := values.get("report"):
            sections = parse_report(text)
            findings, impression = findings or sections.findings, impression or sections.impression
        image = images_dir / values["image"]
        sex, age_group = values.get("sex", "").lower(), values.get("age_group", "").lower()
        if not values["image"]:
            report.skip(where, "no image")
        elif image_id in seen:
            report.skip(where, "the id comes twice")
        elif images_needed and not image.is_file():
            report.skip(where, "no image file")
        elif not (findings or impression or labels):
            report.skip(where, "neither a report nor a label")
        elif sex not in SEXES or age_group not in AGE_GROUPS:
            report.skip(where, "a sex or an age group of another name")
        else:
            report.used += 1
            yield StudyRecord(
                id=image_id,
                patient=identifier_of(values.get("patient")) or image_id,
                study=identifier_of(values.get("study")) or image_id,
                image=str(image),
                view=values.get("view", ""),
                findings=findings,
                impression=impression,
                labels=labels,
                split=split_name(values.get("split") or split),
                source=values.get("source") or source,
                study_order=study_order,
                sex=SEXES[sex],
                age_group=AGE_GROUPS[age_group],
            )
        seen.add(image_id)


def table_rows(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """
    The rows of a CSV, TSV, JSON Lines, JSON or Parquet file, one after the other. Those of CSV and TSV are text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, or broken, or a row has more cells than columns; the error names the file
            and the row or, of JSON, the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"Expected a file {', '.join(SUFFIXES)}, got '{path}'.")
    if suffix == ".parquet":
        try:
            for batch in pq.ParquetFile(path).iter_batches(1024):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"'{path}' cannot be read as Parquet: {error}") from error
        return
    with open_text(path) as file:
        if suffix in (".csv", ".tsv"):
            delimiter = "," if suffix == ".csv" else "\t"
            for number, row in enumerate(csv.DictReader(file, delimiter=delimiter), start=1):
                if any(row.pop(None, ())):
                    raise ValueError(
                        f"Row {number} of '{path}' has more cells than the table has columns: a text that contains "
                        f"{delimiter!r} must be in quotes."
                    )
                yield row
        elif suffix == ".json":
            yield from _json(file.read(), path, "")
        else:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield from _json(f"[{line}]", path, f", line {number}")


def _json(text: str, path: Path, where: str) -> list[dict]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}'{where} is not JSON: {error.msg}.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"Expected a list of objects in '{path}'{where}, got something else.")
    return rows


def split_name(text: str) -> str:
    """The name of a split as records have it: "validation" for "VAL"; one that is not known stays, in lower case."""
    return _SPLIT_NAMES.get(text.lower(), text.lower())


def folder_name(path: str | os.PathLike) -> str:
    """The name of the folder that a file is in."""
    return os.path.basename(os.path.dirname(os.path.abspath(path)))


def text_of(value: Any) -> str:
    """A cell of a table as text, "" where it is missing."""
    text = "" if value is None else str(value).strip()
    # pandas writes what is missing so.
    return "" if text.lower() == "nan" else text


def identifier_of(cell: Any) -> str:
    """A cell that names a patient or a study, as text: pandas writes whole numbers as "1.0" where another row has none."""
    text = text_of(cell)
    number = text.removesuffix(".0")
    return number if number.isdigit() else text


def image_path(cell: Any, where: str) -> str:
    """
    The path in a cell, also that of an image which is in the table itself as `datasets` writes it; "" where there is none.

    Raises:
        ValueError: the cell is a list; `where` names it.
    """
    if isinstance(cell, list):
        raise ValueError(f"{where} has a list of images, {cell!r:.200}; expected a row for each image.")
    return text_of(cell["path"] if isinstance(cell, dict) else cell)


def _labels(found: Any, by_column: Mapping[str, Any]) -> dict[str, int]:
    """Of each label its value. What names labels without one, a list or a text with "|", names those that are present."""
    if not text_of(found):
        found = []
    elif isinstance(found, str):
        found = _parsed(found) if found.startswith(("{", "[")) else found.split("|")
    if isinstance(found, list) and all(isinstance(name, str) for name in found):
        found = {text_of(name): 1 for name in found if text_of(name)}
        # A column of 1 and 0 belongs in `label_columns`: it is its name that the label has.
        if numbers := [name for name in found if not any(map(str.isalpha, name))]:
            raise ValueError(f"Expected names of labels, got {numbers}.")
    if not isinstance(found, dict):
        raise ValueError(f"Expected labels as a list, a text or an object, got {found!r}.")
    values = {label_name(name): text_of(value) for name, value in {**found, **by_column}.items()}
    return {name: label_value(value) for name, value in values.items() if value}


def _parsed(text: str) -> Any:
    """What JSON or, as pandas writes a column of lists, Python writes so."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        try:
            return ast.literal_eval(text)
        except SyntaxError as error:
            raise ValueError(f"'{text}' is neither JSON nor Python.") from error


__all__ = ["folder_name", "identifier_of", "image_path", "read_table", "split_name", "table_rows", "text_of"]
