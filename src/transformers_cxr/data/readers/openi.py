"""Reading Open-i, the chest X-rays of Indiana University (Demner-Fushman et al., JAMIA 2016, doi 10.1093/jamia/ocv080)."""

from __future__ import annotations

import csv
import os
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from ...files import open_text
from ...reports.sections import parse_report
from ..records import SkipReport, StudyRecord
from .mimic_cxr import LATERAL_VIEWS

# The findings that Open-i indexes, as CheXpert names them.
_LABEL_OF_TERM = {
    "normal": "No Finding",
    "cardiomegaly": "Cardiomegaly",
    "pulmonary atelectasis": "Atelectasis",
    "pleural effusion": "Pleural Effusion",
    "pneumothorax": "Pneumothorax",
    "hydropneumothorax": "Pneumothorax",
    "pneumonia": "Pneumonia",
    "pulmonary edema": "Edema",
    "consolidation": "Consolidation",
    "opacity": "Lung Opacity",
    "fractures, bone": "Fracture",
    "nodule": "Lung Lesion",
    "mass": "Lung Lesion",
    "emphysema": "Emphysema",
    "hernia, hiatal": "Hernia",
    "infiltrate": "Infiltration",
}


def read_openi(
    reports: str | os.PathLike,
    images_dir: str | os.PathLike | None = None,
    views: str | os.PathLike | None = None,
    skip_report: SkipReport | None = None,
) -> Iterator[StudyRecord]:
    """
    Reads Open-i. It has no split of its own: give the records to `assign_split`. Nor does it name patients: each report counts
    as one.

    Args:
        reports (`str` or `os.PathLike`):
            `NLMCXR_reports.tgz`, or a folder with its XML files at any depth.
        images_dir (`str` or `os.PathLike`, *optional*):
            Folder of `NLMCXR_png.tgz`, whose files are `CXR1_1_IM-0001-3001.png`. Without it the paths of the images are their
            names, which is enough for training from codes.
        views (`str` or `os.PathLike`, *optional*):
            CSV file (or `.csv.gz`) with the columns `imageid` and `View Position`, of the images' DICOM headers; Open-i's XML
            does not say which image is the frontal one. Nothing else of the file is read.
        skip_report ([`SkipReport`], *optional*):
            Counts what is skipped: images without a file or whose report has no text, reports without an image, files that are
            no such XML, and ids that come again.

    Yields:
        [`StudyRecord`] for each image. Labels are the indexed findings (the tag `major`), present only: what is not indexed is
        not known to be absent.

    Raises:
        FileNotFoundError: there is no XML file.
        ValueError: the archive cannot be read, or the CSV file lacks a column.
    """
    report = SkipReport() if skip_report is None else skip_report
    view_of_image = {} if views is None else _read_views(Path(views))
    seen = set()
    found = False
    for name, content in _xml_files(Path(reports)):
        found = True
        try:
            root = ET.fromstring(content)
            study = root.find("uId").get("id")
        # A root without `uId` has no `get`.
        except (ET.ParseError, AttributeError):
            report.skip(name, "not an XML report of Open-i")
            continue
        images = [item.get("id") for item in root.iter("parentImage")]
        sections = parse_report(
            "\n\n".join(f"{item.get('Label')}: {item.text or ''}" for item in root.iter("AbstractText"))
        )
        labels = {}
        for item in root.iter("major"):
            if label := _LABEL_OF_TERM.get((item.text or "").split("/")[0].strip().lower()):
                labels[label] = 1
        if not images:
            report.skip(study, "a report without an image")
        for image_id in images:
            path = Path(f"{image_id}.png") if images_dir is None else Path(images_dir) / f"{image_id}.png"
            if image_id in seen:
                report.skip(image_id, "the id comes twice")
            elif not (sections.findings or sections.impression):
                report.skip(image_id, "no findings and no impression")
            elif images_dir is not None and not path.is_file():
                report.skip(image_id, "no image file")
            else:
                report.used += 1
                yield StudyRecord(
                    id=image_id,
                    patient=study,
                    study=study,
                    image=str(path),
                    view=view_of_image.get(image_id, ""),
                    findings=sections.findings,
                    impression=sections.impression,
                    labels=labels,
                    split="",
                    source="openi",
                    study_order=1,
                )
            seen.add(image_id)
    if not found:
        raise FileNotFoundError(f"'{reports}' holds no XML file: expected `NLMCXR_reports.tgz` or its folder.")


def _xml_files(reports: Path) -> Iterator[tuple[str, bytes]]:
    if reports.is_file():
        try:
            with tarfile.open(reports) as archive:
                for member in archive:
                    if member.name.endswith(".xml"):
                        yield member.name, archive.extractfile(member).read()
        except tarfile.TarError as error:
            raise ValueError(f"Cannot read '{reports}' as a tar archive: {error}.") from error
    else:
        for path in sorted(reports.rglob("*.xml")):
            yield path.relative_to(reports).as_posix(), path.read_bytes()


def _read_views(path: Path) -> dict[str, str]:
    with open_text(path) as file:
        reader = csv.DictReader(file)
        if missing := {"imageid", "View Position"} - set(reader.fieldnames or ()):
            raise ValueError(f"'{path}' lacks the columns {sorted(missing)}.")
        return {
            row["imageid"]: "LATERAL" if row["View Position"].endswith(LATERAL_VIEWS) else row["View Position"]
            for row in reader
        }


__all__ = ["read_openi"]
