"""Reading MIMIC-CXR-JPG and the reports of MIMIC-CXR (Johnson et al., doi 10.13026/jsn5-t979 and 10.13026/4jqj-jw95)."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from ...files import open_text
from ...reports.sections import ReportSections, parse_report
from ..records import SkipReport, StudyRecord, label_value

SPLITS = {"train": "train", "validate": "validation", "test": "test"}
# Left and right lateral, as DICOM names them.
LATERAL_VIEWS = ("LL", "RL", "LATERAL")


def read_mimic_cxr(
    jpg_dir: str | os.PathLike,
    reports_dir: str | os.PathLike,
    skip_report: SkipReport | None = None,
    images_needed: bool = True,
) -> Iterator[StudyRecord]:
    """
    Reads MIMIC-CXR-JPG in the layout that PhysioNet publishes it in.

    The selections of the paper follow from the fields of the records (see `select_records`): the order of a patient's studies
    is that of StudyDate and StudyTime in the metadata, over all of its studies.

    Args:
        jpg_dir (`str` or `os.PathLike`):
            MIMIC-CXR-JPG: `mimic-cxr-2.0.0-metadata.csv`, `-split.csv` and `-chexpert.csv` (each also as `.csv.gz`) and the
            images `files/p10/p10000032/s50414267/DICOM_ID.jpg`.
        reports_dir (`str` or `os.PathLike`):
            MIMIC-CXR's report tree (`mimic-cxr-reports.zip`, unpacked), `files/p10/p10000032/s50414267.txt`; the folder that
            contains `files`.
        skip_report ([`SkipReport`], *optional*):
            Counts what is skipped: images whose file, report, split or report text is missing, ids that come again, and
            reports of studies that have no image.
        images_needed (`bool`, *optional*, defaults to `True`):
            Skip images that have no file. Without this, codes suffice for training.

    Yields:
        [`StudyRecord`] for each image, in the order of the metadata. The id is the `dicom_id`; "validate" is "validation", the
        view positions LL and RL are "LATERAL"; labels are those of CheXpert.

    Raises:
        FileNotFoundError: a CSV file or the report tree is missing.
        ValueError: a CSV file cannot be read, lacks a column, or has a row that is cut short, or whose date, time or label is
            none.
    """
    report = SkipReport() if skip_report is None else skip_report
    jpg_dir, reports_dir = Path(jpg_dir), Path(reports_dir)
    if not (reports_dir / "files").is_dir():
        raise FileNotFoundError(f"There is no folder 'files' in '{reports_dir}': expected MIMIC-CXR's report tree.")
    splits = {
        row["dicom_id"]: row["split"]
        for row in _rows(_table(jpg_dir, "split"), {"dicom_id", "study_id", "subject_id", "split"})
    }
    labels = _labels(jpg_dir)
    order = _study_order(jpg_dir)

    texts: dict[str, ReportSections | str] = {}
    seen = set()
    for row in _metadata(jpg_dir):
        patient, study, image_id = row["subject_id"], row["study_id"], row["dicom_id"]
        if image_id in seen:
            report.skip(image_id, "the id comes twice")
            continue
        seen.add(image_id)
        folder = Path("files", f"p{patient[:2]}", f"p{patient}")
        image = jpg_dir / folder / f"s{study}" / f"{image_id}.jpg"
        if study not in texts:
            # Images of a study follow each other, so that one text at a time is enough.
            texts = {study: _read_report(reports_dir / folder / f"s{study}.txt")}
        sections = texts[study]
        if SPLITS.get(splits.get(image_id)) is None:
            report.skip(image_id, "no split")
        elif images_needed and not image.is_file():
            report.skip(image_id, "no image file")
        elif isinstance(sections, str):
            report.skip(image_id, sections)
        else:
            report.used += 1
            yield StudyRecord(
                id=image_id,
                patient=patient,
                study=study,
                image=str(image),
                view="LATERAL" if row["ViewPosition"] in LATERAL_VIEWS else row["ViewPosition"],
                findings=sections.findings,
                impression=sections.impression,
                labels=labels.get(study, {}),
                split=SPLITS[splits[image_id]],
                source="mimic-cxr",
                study_order=order[study],
            )
    for path in sorted((reports_dir / "files").glob("p*/p*/s*.txt")):
        if path.stem[1:] not in order:
            report.skip(path.relative_to(reports_dir).as_posix(), "a report without an image")


def _metadata(jpg_dir: Path) -> Iterator[dict[str, str]]:
    columns = {"dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"}
    return _rows(_table(jpg_dir, "metadata"), columns)


def _study_order(jpg_dir: Path) -> dict[str, int]:
    """Of each study its place among those of its patient, 1 is the first."""
    taken: dict[str, dict[str, tuple[int, float, int]]] = {}
    for number, row in enumerate(_metadata(jpg_dir), start=1):
        try:
            # The time 82544.5 is 08:25:44.5.
            when = (int(row["StudyDate"]), float(row["StudyTime"] or 0), int(row["study_id"]))
        except ValueError as error:
            raise ValueError(
                f"Row {number} of '{_table(jpg_dir, 'metadata')}' has a StudyDate, StudyTime or study_id that is no number: "
                f"{error}."
            ) from error
        studies = taken.setdefault(row["subject_id"], {})
        studies[row["study_id"]] = min(when, studies.get(row["study_id"], when))
    return {
        study: place
        for studies in taken.values()
        for place, study in enumerate(sorted(studies, key=studies.get), start=1)
    }


def _labels(jpg_dir: Path) -> dict[str, dict[str, int]]:
    """The labels of each study."""
    labels = {}
    path = _table(jpg_dir, "chexpert")
    for number, row in enumerate(_rows(path, {"subject_id", "study_id"}), start=1):
        known = {name: value for name, value in row.items() if value and name not in ("subject_id", "study_id")}
        try:
            labels[row["study_id"]] = {name: label_value(value) for name, value in known.items()}
        except ValueError as error:
            raise ValueError(f"Row {number} of '{path}' has a label other than 1, 0 and -1: {error}") from error
    return labels


def _read_report(path: Path) -> ReportSections | str:
    """The sections of a report, or why there are none."""
    try:
        sections = parse_report(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "no report file"
    except UnicodeDecodeError:
        return "the report is not UTF-8 text"
    return sections if sections.findings or sections.impression else "no findings and no impression"


def _table(jpg_dir: Path, name: str) -> Path:
    paths = sorted(jpg_dir.glob(f"mimic-cxr-*-{name}.csv")) + sorted(jpg_dir.glob(f"mimic-cxr-*-{name}.csv.gz"))
    if not paths:
        raise FileNotFoundError(f"There is no 'mimic-cxr-2.0.0-{name}.csv' or '.csv.gz' in '{jpg_dir}'.")
    return paths[0]


def _rows(path: Path, columns: set[str]) -> Iterator[dict[str, str]]:
    with open_text(path) as file:
        reader = csv.DictReader(file)
        if missing := columns - set(reader.fieldnames or ()):
            raise ValueError(f"'{path}' lacks the columns {sorted(missing)}.")
        for number, row in enumerate(reader, start=1):
            if None in row.values():
                raise ValueError(f"Row {number} of '{path}' has fewer cells than columns. Is the file cut short?")
            yield row


__all__ = ["read_mimic_cxr"]
