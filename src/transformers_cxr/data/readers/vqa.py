"""Questions and answers about X-rays: existing sets in JSON, and checks of those that a language model wrote from a report."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..records import SkipReport, StudyRecord
from .table import folder_name, identifier_of, image_path, split_name, table_rows, text_of

# How VQA-RAD, SLAKE and others name the image of a question.
IMAGE_COLUMNS = ("image", "image_name", "img_name", "file_name", "image_path")
# Names of the column of its study: that of `examples/make_vqa.py`, and that of MIMIC-CXR.
STUDY_COLUMNS = ("study", "study_id")


def read_vqa(
    path: str | os.PathLike,
    images_dir: str | os.PathLike | None = None,
    records: Iterable[StudyRecord] = (),
    where: Mapping[str, str | Sequence[str]] | None = None,
    source: str = "",
    split: str = "",
    skip_report: SkipReport | None = None,
    images_needed: bool = True,
) -> Iterator[StudyRecord]:
    """
    Reads questions with their answers.

    Args:
        path (`str` or `os.PathLike`):
            A JSON, JSON Lines, CSV or Parquet file whose rows have `question` and `answer`, or a list of such objects as
            `questions`, and an image (`image`, `image_name`, `img_name`, `file_name` or `image_path`: VQA-RAD, SLAKE) or a
            study (`study` or `study_id`: `examples/make_vqa.py`), whose dataset may be named
            by `source`. An image is a path, or is in the table itself as `datasets` writes it, with a path.
        images_dir (`str` or `os.PathLike`, *optional*):
            Folder that paths of images are relative to, by default that of the file.
        records (iterable of [`StudyRecord`], *optional*):
            Those whose studies the questions are about. A question about a study becomes one about each of its images.
        where (`Mapping`, *optional*):
            Values that rows must have, for instance `{"modality": "X-Ray", "location": ["Lung", "Chest"], "q_lang": "en"}` of
            SLAKE, or `{"image_organ": "CHEST"}` of VQA-RAD.
        source (`str`, *optional*):
            Name of the dataset of questions about images, by default that of the folder of the file.
        split (`str`, *optional*):
            Split of questions about images where no column `split` has it.
        skip_report ([`SkipReport`], *optional*):
            Counts what is skipped: rows that `where` leaves out, that have no question or no answer, or no image and no study,
            whose study is not among the records or, without a `source`, in two datasets of them, or whose image is missing.
        images_needed (`bool`, *optional*, defaults to `True`):
            Skip images that have no file. Without this, codes suffice for training.

    Yields:
        [`StudyRecord`]. That of an image has its path in the file as id, study and patient, since these sets name no
        patient: their own splits are by image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, or its rows have no column for an image or a study, a list of images, or none of the
            columns that `where` asks for.
    """
    report = SkipReport() if skip_report is None else skip_report
    path = Path(path)
    images_dir = path.parent if images_dir is None else Path(images_dir)
    of_study = defaultdict(list)
    for record in records:
        of_study[record.study].append(record)
    for number, row in enumerate(table_rows(path), start=1):
        name = f"{path.name}:{number}"
        if missing := set(where or ()) - set(row):
            raise ValueError(f"Row {number} of '{path}' lacks the columns {sorted(missing)}; it has {sorted(row)}.")
        if any(
            text_of(row[key]) not in ([wanted] if isinstance(wanted, str) else wanted)
            for key, wanted in (where or {}).items()
        ):
            report.skip(name, "left out by `where`")
            continue
        study = next((identifier_of(row[key]) for key in STUDY_COLUMNS if key in row), None)
        images = (row[key] for key in IMAGE_COLUMNS if key in row and not study)
        image = next((image_path(cell, f"Row {number} of '{path}'") for cell in images), None)
        if study is None and image is None:
            raise ValueError(
                f"Row {number} of '{path}' names neither an image {IMAGE_COLUMNS} nor a study {STUDY_COLUMNS}; it has "
                f"{sorted(row)}."
            )
        if not (study or image):
            report.skip(name, "no image and no study")
            continue
        if not study:
            if images_needed and not (images_dir / image).is_file():
                report.skip(name, "no image file")
                continue
            about = [
                StudyRecord(
                    id=image,
                    patient=image,
                    study=image,
                    image=str(images_dir / image),
                    split=split_name(text_of(row.get("split")) or split),
                    source=source or folder_name(path),
                )
            ]
        else:
            about = [record for record in of_study.get(study, ()) if row.get("source") in (None, "", record.source)]
            if len({record.source for record in about}) != 1:
                report.skip(name, "a study of two sources" if about else "no record of the study")
                continue
        # A table has the column in every row.
        for pair in [row] if row.get("questions") is None else row["questions"]:
            question, answer = (text_of(pair.get(key)) for key in ("question", "answer"))
            if not question or not answer:
                report.skip(name, "no question or no answer")
                continue
            for record in about:
                report.used += 1
                yield dataclasses.replace(record, question=question, answer=answer)


def parse_question_answers(text: str) -> list[dict[str, str]]:
    """
    Reads the questions and answers that a language model was asked for as JSON.

    Args:
        text (`str`): what it wrote: a list of `{"question": ..., "answer": ...}`, with or without other text around it.

    Returns:
        `list[dict[str, str]]` of "question" and "answer".

    Raises:
        ValueError: there is no JSON list in it, or something else is in the list.
    """
    start = text.find("[")
    if start < 0:
        raise ValueError("no JSON list")
    try:
        items, _ = json.JSONDecoder(object_pairs_hook=_object).raw_decode(text[start:])
    except json.JSONDecodeError as error:
        raise ValueError(f"no valid JSON: {error.msg}") from error
    for item in items:
        if not isinstance(item, dict) or set(item) != {"question", "answer"}:
            raise ValueError("an item is not an object of 'question' and 'answer'")
        if not all(isinstance(value, str) and value.strip() for value in item.values()):
            raise ValueError("a question or an answer is not a text")
    return [{key: value.strip() for key, value in item.items()} for item in items]


def _object(pairs: list[tuple[str, object]]) -> dict:
    # Python's reader would keep the last of several questions, with an answer that is not its own.
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key comes twice in an object")
    return dict(pairs)
