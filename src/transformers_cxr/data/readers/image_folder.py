"""Reading a Hugging Face `imagefolder` with a `metadata.csv`, or any folder of images."""

from __future__ import annotations

import csv
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...files import open_text

CHESTXRAY14_LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia", "Infiltration",
    "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
# The labels that a dataset gives for every image that it labels: one that is missing there is absent. Elsewhere it is unknown.
LABELS_OF_SOURCE = {"nih64": CHESTXRAY14_LABELS, "kermany": ("Pneumonia",)}
# Sexes and age groups as tables write them, in lower case, and as records do.
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"} | dict.fromkeys(("", "o", "other", "u", "unknown"), "")
AGE_GROUPS = {"child": "child", "adult": "adult"} | dict.fromkeys(("", "unknown"), "")
# Labels of which more is known than their name, likewise.
_LABELS = {
    label.lower(): label
    for label in ("No Finding", "Pneumonia", "Bacterial Pneumonia", "Viral Pneumonia", "Support Devices")
} | dict.fromkeys(("normal", "no findings"), "No Finding")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm")
# What the readers of images raise on a broken file depends on the format.
READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, struct.error, zlib.error)


@dataclass(frozen=True)
class Study:
    """
    One X-ray with what its dataset says of it.

    image_path (`Path`): the image file.
    image_id (`str`): its name in the dataset.
    split (`str`): "train" or "validation"; patients are never in both.
    source (`str`): the dataset that the image comes from.
    patient_id (`str`): pseudonymous patient.
    view (`str`): "AP", "PA" or another view position, "" where it is not known.
    age_group (`str`): "child", "adult" or "" where it is not known.
    sex (`str`): "M", "F" or "" where it is not known.
    findings (`tuple[str, ...]`): finding labels; "No Finding" is normal, `()` is not labelled.
    etiology (`str`): "bacterial", "viral" or "".
    absent (`tuple[str, ...]`): findings that are known to be absent.
    """

    image_path: Path
    image_id: str
    split: str
    source: str
    patient_id: str
    view: str
    age_group: str
    sex: str
    findings: tuple[str, ...]
    etiology: str
    absent: tuple[str, ...] = ()


def read_image_folder(data_dir: str | Path, split: str) -> list[Study]:
    """
    Reads the studies of one split, in the order of `metadata.csv`.

    Args:
        data_dir (`str` or `Path`):
            Folder with `metadata.csv` (columns `file_name`, `split`, `source`, `patient_id`, `view`, `age_group`, `sex`,
            `finding_labels` separated by `|`, `etiology`) beside the images.
        split (`str`):
            "train" or "validation".

    Raises:
        FileNotFoundError: the folder has no `metadata.csv`.
        ValueError: it cannot be read, a column is missing, a sex or an age group has another name, a patient is in two splits,
            or the split is empty.
    """
    path = Path(data_dir) / "metadata.csv"
    if not path.is_file():
        raise FileNotFoundError(f"No metadata.csv in '{data_dir}': expected an imagefolder with one row an image.")
    with open_text(path) as file:
        rows = list(csv.DictReader(file))
    required = {
        "file_name", "split", "source", "patient_id", "view", "age_group", "sex", "finding_labels", "etiology"
    }  # fmt: skip
    missing = required - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"'{path}' lacks the columns {sorted(missing)}.")
    split_of_patient: dict[tuple[str, str], str] = {}
    for number, row in enumerate(rows, start=1):
        for column, values in (("sex", SEXES), ("age_group", AGE_GROUPS)):
            if row[column].lower() not in values:
                raise ValueError(
                    f"Row {number} of '{path}' has the {column} '{row[column]}'; expected one of {list(values)}."
                )
        if split_of_patient.setdefault((row["source"], row["patient_id"]), row["split"]) != row["split"]:
            raise ValueError(f"Patient '{row['patient_id']}' of '{row['source']}' in '{path}' is in two splits.")
    studies = [
        Study(
            image_path=path.parent / row["file_name"],
            image_id=row["file_name"],
            split=row["split"],
            source=row["source"],
            patient_id=row["patient_id"],
            view=row["view"],
            age_group=AGE_GROUPS[row["age_group"].lower()],
            sex=SEXES[row["sex"].lower()],
            findings=(findings := tuple(map(label_name, filter(None, row["finding_labels"].split("|"))))),
            etiology=row["etiology"],
            absent=_absent(row["source"], findings),
        )
        for row in rows
        if row["split"] == split
    ]
    if not studies:
        raise ValueError(f"'{path}' has no image of split '{split}'.")
    return studies


def _absent(source: str, findings: tuple[str, ...]) -> tuple[str, ...]:
    if not findings:
        return ()
    return tuple(label for label in LABELS_OF_SOURCE.get(source, ()) if label not in findings)


def label_name(text: str) -> str:
    """The name of a label as records have it: "No Finding" for "normal" and "no_finding"; one that is not known stays."""
    text = text.strip()
    return _LABELS.get(text.lower().replace("_", " "), text)


def list_images(data_dir: str | Path, split: str) -> tuple[list[Path], list[str]]:
    """
    Lists the image files of a folder, which needs no metadata: X-rays, slices of CT or MRI, or any other images.

    Args:
        data_dir (`str` or `Path`):
            A folder as [`read_image_folder`] reads it, or one without `metadata.csv`, all of whose PNG, JPEG, BMP, TIFF,
            WebP and DICOM files, at any depth, are taken in the order of their names. DICOM files are known by their content.
        split (`str`):
            The split of the metadata; without metadata every image is in it.

    Returns:
        `tuple[list[Path], list[str]]`: the files, and the source of each: that of the metadata, or else the name of the
        folder in `data_dir` that it is in, "" for files directly in `data_dir`.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: the metadata are not as [`read_image_folder`] expects them.
    """
    data_dir = Path(data_dir)
    if (data_dir / "metadata.csv").is_file():
        studies = read_image_folder(data_dir, split)
        return [study.image_path for study in studies], [study.source for study in studies]
    if not data_dir.is_dir():
        raise FileNotFoundError(f"There is no folder '{data_dir}'.")
    paths = list(walk_images(data_dir))
    if not paths:
        raise FileNotFoundError(f"No image in '{data_dir}': expected files {', '.join(IMAGE_SUFFIXES)} at any depth.")
    folders = [path.relative_to(data_dir).parts[:-1] for path in paths]
    return paths, [folder[0] if folder else "" for folder in folders]


def walk_images(folder: Path) -> Iterator[Path]:
    """
    The images of a folder at any depth, in the order of their names: files with a suffix of an image or of DICOM, and files
    of any other name that hold DICOM.

    Raises:
        OSError: a folder or a file cannot be read.
    """
    # It imports numpy, which a command's help must not wait for.
    from ...llm_cxr.dicom_llm_cxr import is_dicom

    # `rglob` and `os.walk` pass over a folder that they cannot read.
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if entry.is_dir():
            yield from walk_images(path)
        # A DICOMDIR is the table of contents of a DICOM folder (PS3.10, section 8.6).
        elif path.suffix.lower() in IMAGE_SUFFIXES or (path.name.upper() != "DICOMDIR" and is_dicom(path)):
            yield path
