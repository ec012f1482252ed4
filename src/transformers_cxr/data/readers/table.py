"""Reader of any CSV, JSON or Parquet file with reports or labels of X-rays, by a column map."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...reports.sections import parse_report
from ..records import SkipReport, StudyRecord, label_name, label_value
from .rows import AGE_GROUPS, SEXES, cell_text, image_path, read_rows, split_name

# A column map names fields of a record, or "report" for a whole report instead of its sections.
_FIELDS = {item.name for item in dataclasses.fields(StudyRecord)} - {"codes"} | {"report"}
# Other names of columns in a table without a column map.
_COLUMN_NAMES = {"file": "image", "file_name": "image", "patient_id": "patient", "finding_labels": "labels"}
_METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def read_table(
    path: str | os.PathLike,
    columns: Mapping[str, str] | None = None,
    label_columns: Sequence[str] = (),
    images_dir: str | os.PathLike | None = None,
    source: str = "",
    split: str = "",
    skip_report: SkipReport | None = None,
    images_needed: bool = True,
) -> Iterator[StudyRecord]:
    """
    Read a table with one row for each X-ray.

    Args:
        path (`str` or `os.PathLike`): a file as [`read_rows`] reads it, or an `imagefolder` of `datasets` with
            `metadata.csv`, `.jsonl` or `.parquet`.
        columns (`Mapping[str, str]`, *optional*): the column of each field of [`StudyRecord`], such as `{"image":
            "file_name", "patient": "patient_id", "report": "text"}`. `image` is required: a path, or an image of
            `datasets` with a path. `report` is a whole report, from which [`parse_report`] takes the sections.
            `labels` are the present labels as a list or a text with "|" between them, or an object of labels with 1, 0
            or -1. Without such columns, the id is the path of the image in the table, and study and patient are the
            id. By default, the columns are those with the name of a field, and `file` or `file_name`, `patient_id` and
            `finding_labels`; then the patient, and a report or labels are required.
        label_columns (`Sequence[str]`, *optional*): columns named after a label, with 1, 0, -1 or nothing, as in
            CheXpert.
        images_dir (`str` or `os.PathLike`, *optional*): folder that paths of images are relative to, by default the
            folder of the table.
        source (`str`, *optional*): name of the dataset if no column has it, by default the folder of the table, so
            that patients of `train.csv` and `validation.csv` are the same.
        split (`str`, *optional*): split if no column has it. "val", "valid", "validate" and "dev" are read as
            "validation", "training" as "train", and "testing" as "test".
        skip_report ([`SkipReport`], *optional*): counts skipped rows: without an image, image file, report or label,
            without the patient although there is a column for it, or with an invalid value (of a label, sex, age group
            or study order).
        images_needed (`bool`, *optional*, defaults to `True`): whether to skip images that have no file. Training from
            codes needs no files.

    Yields:
        [`StudyRecord`] of each row that is not skipped.

    Raises:
        ValueError: the column map is wrong, the table lacks a column, or a row has several images.
    """
    report = SkipReport() if skip_report is None else skip_report
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in _METADATA_FILES if (path / name).is_file()), path / _METADATA_FILES[0])
    columns = _find_columns(path) if columns is None else columns
    if unknown := set(columns) - _FIELDS:
        raise ValueError(
            f"The column map has the unknown fields {sorted(unknown)}; expected some of {sorted(_FIELDS)}."
        )
    if "image" not in columns:
        raise ValueError(f"The column map needs the field 'image', got {dict(columns)}.")
    images_dir = path.parent if images_dir is None else Path(images_dir)
    source = source or path.absolute().parent.name
    for number, row in enumerate(read_rows(path, {*columns.values(), *label_columns}), start=1):
        image = image_path(row[columns["image"]], f"Row {number} of '{path}'")
        values = defaultdict(str)
        values |= {name: cell_text(row[column]) for name, column in columns.items() if name not in ("image", "labels")}
        image_id = values["id"] or image
        where = image_id or f"row {number}"
        findings, impression = values["findings"], values["impression"]
        if values["report"]:
            sections = parse_report(values["report"])
            findings, impression = findings or sections.findings, impression or sections.impression
        try:
            labels = _parse_labels(row.get(columns.get("labels")), {name: row[name] for name in label_columns})
            sex, age_group = SEXES[values["sex"].lower()], AGE_GROUPS[values["age_group"].lower()]
            study_order = int(float(values["study_order"] or 0))
        except (KeyError, ValueError):
            report.skip(where, "an invalid label, sex, age group or study order")
            continue
        if not image:
            report.skip(where, "no image")
        elif "patient" in columns and not values["patient"]:
            report.skip(where, "no patient")
        elif images_needed and not (images_dir / image).is_file():
            report.skip(where, "no image file")
        elif values["question"] and not values["answer"]:
            report.skip(where, "no answer")
        elif not (findings or impression or labels or values["question"]):
            report.skip(where, "neither a report nor a label")
        else:
            yield StudyRecord(
                id=image_id,
                patient=values["patient"] or image_id,
                image=str(images_dir / image),
                source=values["source"] or source,
                study=values["study"] or image_id,
                split=split_name(values["split"] or split),
                view=values["view"],
                sex=sex,
                age_group=age_group,
                study_order=study_order,
                findings=findings,
                impression=impression,
                labels=labels,
                question=values["question"],
                answer=values["answer"],
                question_type=values["question_type"],
            )


def _find_columns(path: Path) -> dict[str, str]:
    """Return the column map of a table whose columns have the names of fields."""
    names = list(next(read_rows(path), ()))
    columns = {_COLUMN_NAMES.get(name.strip().lower(), name.strip().lower()): name for name in names}
    columns = {field: name for field, name in columns.items() if field in _FIELDS}
    texts = {"report", "findings", "impression", "labels"}
    missing = [column for column, field in (("file", "image"), ("patient", "patient")) if field not in columns]
    if not texts & columns.keys():
        missing.append("report` or `labels")
    if missing:
        raise ValueError(
            f"'{path}' lacks the columns `{'`, `'.join(missing)}`; it has {names}. Name its columns `file`, "
            "`patient`, and `report` or `labels`. Without the patient, X-rays of a patient could be in two splits."
        )
    return columns


def _parse_labels(cell: Any, by_column: Mapping[str, Any]) -> dict[str, int]:
    """Return the value of each label. A list, or a text with "|", names the labels that are present."""
    if not cell_text(cell):
        cell = []
    elif isinstance(cell, str):
        cell = json.loads(cell) if cell.startswith(("{", "[")) else cell.split("|")
    if isinstance(cell, list) and all(isinstance(name, str) for name in cell):
        cell = {cell_text(name): 1 for name in cell if cell_text(name)}
        # A column of 1 and 0 belongs in `label_columns`.
        if numbers := [name for name in cell if not any(map(str.isalpha, name))]:
            raise ValueError(f"Expected names of labels, got {numbers}.")
    if not isinstance(cell, dict):
        raise ValueError(f"Expected labels as a list, a text or an object, got {cell!r}.")
    values = {label_name(name): cell_text(value) for name, value in {**cell, **by_column}.items()}
    return {name: label_value(value) for name, value in values.items() if value}
