"""
Reader of MIMIC-CXR-JPG with the reports of MIMIC-CXR (Johnson et al., doi 10.13026/jsn5-t979 and 10.13026/4jqj-jw95).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from ...reports.sections import parse_report
from ..records import SkipReport, StudyRecord, label_value
from .rows import read_rows

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
    Read MIMIC-CXR-JPG in the layout of PhysioNet.

    Args:
        jpg_dir (`str` or `os.PathLike`): MIMIC-CXR-JPG: `mimic-cxr-2.0.0-metadata.csv`, `-split.csv` and
            `-chexpert.csv`, each optionally as `.csv.gz`, and the images `files/p10/p10000032/s50414267/DICOM_ID.jpg`.
        reports_dir (`str` or `os.PathLike`): the unpacked `mimic-cxr-reports.zip` of MIMIC-CXR: the folder with
            `files/p10/p10000032/s50414267.txt`.
        skip_report ([`SkipReport`], *optional*): counts skipped images (no image file, report file, split or report
            text) and reports of studies without an image.
        images_needed (`bool`, *optional*, defaults to `True`): whether to skip images that have no file. Training from
            codes needs no files.

    Yields:
        [`StudyRecord`] of each image, in the order of the metadata. The id is the `dicom_id`, labels are those of
        CheXpert, and `study_order` is the order of the patient's studies by StudyDate and StudyTime.

    Raises:
        FileNotFoundError: a table or the folder of reports is missing.
        ValueError: a table cannot be read, or has an invalid label.
    """
    report = SkipReport() if skip_report is None else skip_report
    jpg_dir, reports_dir = Path(jpg_dir), Path(reports_dir)
    if not (reports_dir / "files").is_dir():
        raise FileNotFoundError(f"There is no folder 'files' in '{reports_dir}': expected the reports of MIMIC-CXR.")
    splits = {row["dicom_id"]: SPLITS.get(row["split"]) for row in _rows(jpg_dir, "split", {"dicom_id", "split"})}
    labels, order = _labels(jpg_dir), _study_order(jpg_dir)
    last_study, findings, impression = "", "", ""
    for row in _rows(jpg_dir, "metadata", {"dicom_id", "subject_id", "study_id", "ViewPosition"}):
        patient, study, image_id = row["subject_id"], row["study_id"], row["dicom_id"]
        folder = Path("files", f"p{patient[:2]}", f"p{patient}")
        image, report_file = jpg_dir / folder / f"s{study}" / f"{image_id}.jpg", reports_dir / folder / f"s{study}.txt"
        if not splits.get(image_id):
            report.skip(image_id, "no split")
            continue
        if images_needed and not image.is_file():
            report.skip(image_id, "no image file")
            continue
        if not report_file.is_file():
            report.skip(image_id, "no report file")
            continue
        # The images of a study follow each other.
        if study != last_study:
            findings, impression = parse_report(report_file.read_text(encoding="utf-8", errors="replace"))
            last_study = study
        if not (findings or impression):
            report.skip(image_id, "no findings and no impression")
            continue
        yield StudyRecord(
            id=image_id,
            patient=patient,
            image=str(image),
            source="mimic-cxr",
            study=study,
            split=splits[image_id],
            view="LATERAL" if row["ViewPosition"] in LATERAL_VIEWS else row["ViewPosition"],
            study_order=order[study],
            findings=findings,
            impression=impression,
            labels=labels.get(study, {}),
        )
    for path in sorted((reports_dir / "files").glob("p*/p*/s*.txt")):
        if path.stem[1:] not in order:
            report.skip(path.relative_to(reports_dir).as_posix(), "a report without an image")


def _study_order(jpg_dir: Path) -> dict[str, int]:
    """Return the number of each study among those of its patient, from 1."""
    times: dict[str, dict[str, tuple[int, float, int]]] = {}
    for row in _rows(jpg_dir, "metadata", {"subject_id", "study_id", "StudyDate", "StudyTime"}):
        # The time 82544.5 is 08:25:44.5.
        time = (int(row["StudyDate"]), float(row["StudyTime"] or 0), int(row["study_id"]))
        studies = times.setdefault(row["subject_id"], {})
        studies[row["study_id"]] = min(time, studies.get(row["study_id"], time))
    return {
        study: number
        for studies in times.values()
        for number, study in enumerate(sorted(studies, key=studies.get), start=1)
    }


def _labels(jpg_dir: Path) -> dict[str, dict[str, int]]:
    """Return the labels of each study."""
    return {
        row["study_id"]: {
            name: label_value(value) for name, value in row.items() if value and name not in ("subject_id", "study_id")
        }
        for row in _rows(jpg_dir, "chexpert", {"subject_id", "study_id"})
    }


def _rows(jpg_dir: Path, name: str, columns: Collection[str]) -> Iterator[dict[str, str]]:
    paths = sorted(jpg_dir.glob(f"mimic-cxr-*-{name}.csv")) + sorted(jpg_dir.glob(f"mimic-cxr-*-{name}.csv.gz"))
    if not paths:
        raise FileNotFoundError(f"There is no 'mimic-cxr-2.0.0-{name}.csv' or '.csv.gz' in '{jpg_dir}'.")
    return read_rows(paths[0], columns)
