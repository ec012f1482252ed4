"""
Reader of Open-i, the chest X-rays of Indiana University (Demner-Fushman et al., JAMIA 2016, doi 10.1093/jamia/ocv080).
"""

from __future__ import annotations

import os
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from ...reports.sections import parse_report
from ..records import SkipReport, StudyRecord
from .mimic_cxr import LATERAL_VIEWS
from .rows import read_rows

# Indexed findings of Open-i, with the names of CheXpert.
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
    Read Open-i. It has no splits (see [`assign_split`]) and does not name patients: each report counts as one.

    Args:
        reports (`str` or `os.PathLike`): `NLMCXR_reports.tgz`, or a folder with its XML files at any depth.
        images_dir (`str` or `os.PathLike`, *optional*): folder of `NLMCXR_png.tgz`, with files such as
            `CXR1_1_IM-0001-3001.png`. Without it the paths of images are their names, which is enough to train from
            codes.
        views (`str` or `os.PathLike`, *optional*): CSV file, optionally `.csv.gz`, with the columns `imageid` and
            `View Position` of the DICOM headers. The XML files do not say which image is frontal.
        skip_report ([`SkipReport`], *optional*): counts skipped images (no image file, no report text), reports
            without an image, and files of another kind.

    Yields:
        [`StudyRecord`] of each image. Labels are the indexed findings (the tag `major`) and present; others are
        unknown.
    """
    report = SkipReport() if skip_report is None else skip_report
    view_of_image = {} if views is None else _read_views(views)
    name = None
    for name, content in _xml_files(Path(reports)):
        try:
            root = ET.fromstring(content)
        except ET.ParseError:
            root = ET.Element("broken")
        if root.find("uId") is None:
            report.skip(name, "not an XML report of Open-i")
            continue
        study = root.find("uId").get("id")
        images = [item.get("id") for item in root.iter("parentImage")]
        if not images:
            report.skip(study, "a report without an image")
        texts = [f"{item.get('Label')}: {item.text or ''}" for item in root.iter("AbstractText")]
        findings, impression = parse_report("\n\n".join(texts))
        terms = [(item.text or "").split("/")[0].strip().lower() for item in root.iter("major")]
        labels = {_LABEL_OF_TERM[term]: 1 for term in terms if term in _LABEL_OF_TERM}
        for image_id in images:
            image = Path(images_dir or "", f"{image_id}.png")
            if not (findings or impression):
                report.skip(image_id, "no findings and no impression")
            elif images_dir is not None and not image.is_file():
                report.skip(image_id, "no image file")
            else:
                yield StudyRecord(
                    id=image_id,
                    patient=study,
                    image=str(image),
                    source="openi",
                    study=study,
                    view=view_of_image.get(image_id, ""),
                    study_order=1,
                    findings=findings,
                    impression=impression,
                    labels=labels,
                )
    if name is None:
        raise FileNotFoundError(f"No XML file in '{reports}': expected `NLMCXR_reports.tgz` or its folder.")


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


def _read_views(path: str | os.PathLike) -> dict[str, str]:
    return {
        row["imageid"]: "LATERAL" if row["View Position"].endswith(LATERAL_VIEWS) else row["View Position"]
        for row in read_rows(path, {"imageid", "View Position"})
    }
