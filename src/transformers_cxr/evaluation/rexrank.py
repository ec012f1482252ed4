"""The files of ReXrank (https://rexrank.ai), a leaderboard of chest X-ray report generation."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..files import atomic_write
from ..llm_cxr.processing_llm_cxr import REPORT_INSTRUCTION
from ..reports.sections import parse_report
from .examples import Example, read_json


def read_rexrank_studies(path: str | Path, image_root: str | Path) -> tuple[dict[str, dict], list[Example]]:
    """
    Reads the studies that ReXrank asks reports of.

    Args:
        path (`str` or `Path`):
            JSON of `{study id: {"key_image_path": str, "image_path": [str, ...], "context": str, ...}}`; the model sees the
            key image, which is the frontal one.
        image_root (`str` or `Path`):
            Folder that the image paths are in.

    Returns:
        `tuple[dict[str, dict], list[Example]]`: the studies as they are in the file, and one example a study.

    Raises:
        FileNotFoundError: the file or an image is not there.
        ValueError: the file is no dictionary of studies, has none, or a study has no image.
    """
    studies = read_json(path)
    if not isinstance(studies, dict) or not studies or not all(isinstance(s, dict) for s in studies.values()):
        raise ValueError(f"Expected a dictionary of studies by their id in '{path}'.")
    examples = []
    for study_id, study in studies.items():
        name = study.get("key_image_path") or next(iter(study.get("image_path") or []), None)
        if not name:
            raise ValueError(f"Study '{study_id}' of '{path}' has neither `key_image_path` nor `image_path`.")
        # Some of the files begin their paths with a slash.
        image_path = Path(image_root) / name.lstrip("/")
        if not image_path.is_file():
            raise FileNotFoundError(f"There is no image '{image_path}' (study '{study_id}' of '{path}').")
        examples.append(Example(study_id, study_id, "", image_path, REPORT_INSTRUCTION))
    return studies, examples


def rexrank_report(text: str) -> str:
    """Return a generated report on one line with ReXrank's headings: "Findings: ... Impression: ..."."""
    sections = parse_report(text)._asdict()
    return " ".join(f"{heading.capitalize()}: {content}" for heading, content in sections.items() if content)


def write_rexrank_predictions(studies: dict[str, dict], reports: dict[str, str], path: str | os.PathLike) -> None:
    """
    Writes a submission: the studies as they came, each with `model_prediction`.

    Args:
        studies (`dict[str, dict]`):
            What [`read_rexrank_studies`] gave.
        reports (`dict[str, str]`):
            The generated report of each study.
        path (`str` or `os.PathLike`):
            JSON file, which must not exist.

    Raises:
        FileExistsError: `path` exists.
        ValueError: the studies and the reports do not have the same ids.
    """
    if studies.keys() != reports.keys():
        raise ValueError(
            f"Expected a report for each of the {len(studies)} studies and no other: {len(studies.keys() - reports.keys())} "
            f"lack one, {len(reports.keys() - studies.keys())} are of no study."
        )
    predictions = {
        study_id: {**study, "model_prediction": rexrank_report(reports[study_id])}
        for study_id, study in studies.items()
    }
    with atomic_write(path, overwrite=False) as partial:
        partial.write_text(json.dumps(predictions, ensure_ascii=False, indent=4) + "\n", encoding="utf-8")
