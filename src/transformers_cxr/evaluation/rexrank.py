"""The files of ReXrank (https://rexrank.ai), a leaderboard of report generation for chest X-rays."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..files import atomic_write
from ..reports.sections import parse_report
from .examples import Example


def read_rexrank_studies(path: str | Path, image_root: str | Path) -> tuple[dict[str, dict], list[Example]]:
    """
    Read a test set of ReXrank.

    Args:
        path (`str` or `Path`):
            JSON of `{study id: {"key_image_path": str, "image_path": [str, ...], "context": str, ...}}`. The model
            reads the key image, which is frontal.
        image_root (`str` or `Path`):
            Folder of the image paths.

    Returns:
        `tuple[dict[str, dict], list[Example]]`: the content of the file, and one example per study.

    Raises:
        FileNotFoundError: the file or an image is missing.
        ValueError: the file is not a dictionary of studies, or a study has no image.
    """
    try:
        studies = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not a JSON file: {error}") from error
    if not isinstance(studies, dict) or not studies or not all(isinstance(s, dict) for s in studies.values()):
        raise ValueError(f"Expected a dictionary of studies by id in '{path}'.")
    examples = []
    for study_id, study in studies.items():
        name = study.get("key_image_path") or next(iter(study.get("image_path") or []), None)
        if not name:
            raise ValueError(f"Study '{study_id}' of '{path}' has neither `key_image_path` nor `image_path`.")
        # Paths of some test sets begin with a slash.
        image_path = Path(image_root) / name.lstrip("/")
        if not image_path.is_file():
            raise FileNotFoundError(f"There is no image '{image_path}' (study '{study_id}' of '{path}').")
        examples.append(Example(study_id, study_id, "", image_path, ""))
    return studies, examples


def rexrank_report(text: str) -> str:
    """Return a generated report on one line with the headings of ReXrank: "Findings: ... Impression: ..."."""
    sections = parse_report(text)._asdict()
    return " ".join(f"{heading.capitalize()}: {content}" for heading, content in sections.items() if content)


def write_rexrank_predictions(studies: dict[str, dict], reports: dict[str, str], path: str | os.PathLike) -> None:
    """
    Write a submission: the studies of [`read_rexrank_studies`], each with its generated report as `model_prediction`.

    Raises:
        FileExistsError: `path` exists.
    """
    predictions = {id_: {**study, "model_prediction": rexrank_report(reports[id_])} for id_, study in studies.items()}
    with atomic_write(path, overwrite=False) as partial:
        partial.write_text(json.dumps(predictions, ensure_ascii=False, indent=4) + "\n", encoding="utf-8")
