"""Reader of questions and answers about X-rays."""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..records import SkipReport, StudyRecord
from .rows import cell_text, image_path, read_rows, split_name

# Names of the image column in VQA-RAD, SLAKE and others.
_IMAGE_COLUMNS = ("image", "image_name", "img_name", "file_name", "image_path")
# Names of the study column in `examples/make_vqa.py` and MIMIC-CXR.
_STUDY_COLUMNS = ("study", "study_id")
# Names of the column with the type of the question in VQA-RAD and SLAKE.
_TYPE_COLUMNS = ("question_type", "content_type")


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
    Read questions with their answers.

    Args:
        path (`str` or `os.PathLike`): a file as [`read_rows`] reads it. A row has `question` and `answer`, or a list
            of such objects as `questions`, and an image (`image`, `image_name`, `img_name`, `file_name` or
            `image_path`: VQA-RAD, SLAKE) or a study (`study` or `study_id`: `examples/make_vqa.py`), optionally with
            its `source`. An image is a path, or an image of `datasets` with a path. The type of a question is in
            `question_type` (VQA-RAD) or `content_type` (SLAKE), if known.
        images_dir (`str` or `os.PathLike`, *optional*): folder that paths of images are relative to, by default the
            folder of the file.
        records (iterable of [`StudyRecord`], *optional*): records of the studies. A question about a study is asked
            about each of its images.
        where (`Mapping`, *optional*): values that rows must have, such as `{"modality": "X-Ray", "location": ["Lung",
            "Chest"], "q_lang": "en"}` for SLAKE, or `{"image_organ": "CHEST"}` for VQA-RAD.
        source (`str`, *optional*): name of the dataset of questions about images, by default the folder of the file.
        split (`str`, *optional*): split of questions about images if no column `split` has it.
        skip_report ([`SkipReport`], *optional*): counts skipped rows: left out by `where`, without a question or an
            answer, without an image or a study, with a missing image file, or with a study that is not among the
            records or, without `source`, in two datasets of them.
        images_needed (`bool`, *optional*, defaults to `True`): whether to skip images that have no file. Training from
            codes needs no files.

    Yields:
        [`StudyRecord`] of each question. For a question about an image, the path of the image in the file is id, study
        and patient, because these datasets name no patients and split by image.

    Raises:
        ValueError: a row has no column for an image or a study, a list of images, or no column that `where` needs.
    """
    report = SkipReport() if skip_report is None else skip_report
    path = Path(path)
    wanted = {key: [value] if isinstance(value, str) else value for key, value in (where or {}).items()}
    images_dir = path.parent if images_dir is None else Path(images_dir)
    records_of_study = defaultdict(list)
    for record in records:
        records_of_study[record.study].append(record)
    for number, row in enumerate(read_rows(path, wanted), start=1):
        name = f"{path.name}:{number}"
        if any(cell_text(row[key]) not in values for key, values in wanted.items()):
            report.skip(name, "left out by `where`")
            continue
        if not row.keys() & {*_STUDY_COLUMNS, *_IMAGE_COLUMNS}:
            raise ValueError(
                f"Row {number} of '{path}' names neither an image {_IMAGE_COLUMNS} nor a study {_STUDY_COLUMNS}; it "
                f"has {sorted(row)}."
            )
        study = next((cell_text(row[key]) for key in _STUDY_COLUMNS if key in row), "")
        image_cell = next((row[key] for key in _IMAGE_COLUMNS if key in row), None)
        image = "" if study else image_path(image_cell, f"Row {number} of '{path}'")
        if study:
            about = [record for record in records_of_study[study] if row.get("source") in (None, "", record.source)]
            if len({record.source for record in about}) != 1:
                report.skip(name, "a study of two sources" if about else "no record of the study")
                continue
        elif not image:
            report.skip(name, "no image and no study")
            continue
        elif images_needed and not (images_dir / image).is_file():
            report.skip(name, "no image file")
            continue
        else:
            about = [
                StudyRecord(
                    id=image,
                    patient=image,
                    image=str(images_dir / image),
                    source=source or path.absolute().parent.name,
                    study=image,
                    split=split_name(cell_text(row.get("split")) or split),
                )
            ]
        # In a Parquet file all rows have the column.
        for pair in [row] if row.get("questions") is None else row["questions"]:
            question, answer = (cell_text(pair.get(key)) for key in ("question", "answer"))
            kind = next((cell_text(pair[key]) for key in _TYPE_COLUMNS if key in pair), "")
            if question and answer:
                for record in about:
                    yield dataclasses.replace(record, question=question, answer=answer, question_type=kind)
            else:
                report.skip(name, "no question or no answer")
