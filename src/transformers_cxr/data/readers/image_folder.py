"""Reader of a Hugging Face `imagefolder` with a `metadata.csv`, or of any folder of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..records import ETIOLOGY_LABELS, StudyRecord, check_patients, label_name
from .rows import AGE_GROUPS, SEXES, read_rows

CHESTXRAY14_LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
# Datasets that give these labels for every labeled image, so that a missing label is absent.
LABELS_OF_SOURCE = {"nih64": CHESTXRAY14_LABELS, "kermany": ("Pneumonia",)}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm")
# Image processors raise these for an image that they cannot read, `ImportError` where a decoder is missing.
READ_ERRORS = (OSError, ValueError, TypeError, ImportError)
ETIOLOGIES = ("", *ETIOLOGY_LABELS.values())
_COLUMNS = {
    "file_name", "split", "source", "patient_id", "view", "age_group", "sex", "finding_labels", "etiology"
}  # fmt: skip


def read_image_folder(data_dir: str | os.PathLike, split: str | None = None) -> Iterator[StudyRecord]:
    """
    Read a folder of images: X-rays, slices of CT or MRI, or any other images.

    Args:
        data_dir (`str` or `os.PathLike`): a folder with a `metadata.csv` (columns `file_name`, `split`, `source`,
            `patient_id`, `view`, `age_group`, `sex`, `finding_labels` separated by `|`, `etiology`). Without it, all
            images at any depth are read as [`walk_images`] finds them; their source is the subfolder of `data_dir`,
            and each is a patient.
        split (`str`, *optional*): split of the metadata to read, all by default. Without metadata all images are read,
            as images of this split.

    Yields:
        [`StudyRecord`] of each image; the id is its path in the folder.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: the metadata cannot be read, lack a column, have an unknown sex or age group, have a patient in two
            splits, or have no image of the split.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"There is no folder '{data_dir}'.")
    metadata, found, splits = data_dir / "metadata.csv", False, set()
    if metadata.is_file():
        for record in check_patients(_read_metadata(metadata)):
            splits.add(record.split)
            if split in (None, record.split):
                found = True
                yield record
        if not found:
            raise ValueError(
                f"Expected at least one image of split '{split}' in '{metadata}', got none; it has {sorted(splits)}."
            )
        return
    for path in walk_images(data_dir):
        found, name = True, path.relative_to(data_dir).as_posix()
        source = name.split("/")[0] if "/" in name else ""
        yield StudyRecord(id=name, patient=name, image=str(path), source=source, split=split or "")
    if not found:
        raise FileNotFoundError(f"No image in '{data_dir}': expected files {', '.join(IMAGE_SUFFIXES)} at any depth.")


def _read_metadata(path: Path) -> Iterator[StudyRecord]:
    for number, row in enumerate(read_rows(path, _COLUMNS), start=1):
        for column, values in (("sex", SEXES), ("age_group", AGE_GROUPS), ("etiology", ETIOLOGIES)):
            if row[column].lower() not in values:
                raise ValueError(
                    f"Row {number} of '{path}' has the {column} '{row[column]}'; expected one of {list(values)}."
                )
        yield StudyRecord(
            id=row["file_name"],
            patient=row["patient_id"],
            image=str(path.parent / row["file_name"]),
            source=row["source"],
            study=row["file_name"],
            split=row["split"],
            view=row["view"],
            sex=SEXES[row["sex"].lower()],
            age_group=AGE_GROUPS[row["age_group"].lower()],
            labels=_labels(row),
        )


def _labels(row: dict[str, str]) -> dict[str, int]:
    present = [label_name(name) for name in row["finding_labels"].split("|") if name]
    complete = LABELS_OF_SOURCE.get(row["source"], ()) if present else ()
    labels = {name: 0 for name in complete if name not in present} | dict.fromkeys(present, 1)
    if row["etiology"]:
        labels |= {name: int(cause == row["etiology"].lower()) for name, cause in ETIOLOGY_LABELS.items()}
    return labels


def walk_images(folder: Path) -> Iterator[Path]:
    """
    Yield the image files of a folder at any depth, sorted by name: files with the suffix of an image, and DICOM files,
    which are recognized by their content.

    Raises:
        OSError: a folder or a file cannot be read.
    """
    # Imported here because it imports numpy, which is slow for the help of a command.
    from ...llm_cxr.dicom_llm_cxr import is_dicom

    # `rglob` and `os.walk` silently skip a folder that they cannot read.
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if entry.is_dir():
            yield from walk_images(path)
        # A DICOMDIR is the table of contents of a DICOM folder (PS3.10, section 8.6).
        elif path.suffix.lower() in IMAGE_SUFFIXES or (path.name.upper() != "DICOMDIR" and is_dicom(path)):
            yield path
