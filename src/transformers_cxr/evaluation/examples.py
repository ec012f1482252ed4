"""What a model is evaluated on: examples with their references, from an imagefolder or from a file of references."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from ..data.conversations import label_report, question_answers
from ..data.records import StudyRecord
from ..reports.sections import compose_report


@dataclass(frozen=True)
class Example:
    """
    One thing that a model is asked, with what it should give.

    id (`str`): unique in its task.
    patient (`str`): pseudonymous patient; intervals are over patients.
    source (`str`): the dataset or the site that it comes from.
    image_path (`Path`): the X-ray, which is read (reports, answers) or is the reference (drawing).
    prompt (`str`): the instruction or the question; for drawing the report that is drawn.
    reference (`str`): the reference report or answer; "" for drawing.
    kind (`str`): type of the question; for drawing the findings, separated by `|`; "" where there is no such thing.
    """

    id: str
    patient: str
    source: str
    image_path: Path
    prompt: str
    reference: str = ""
    kind: str = ""


def label_derived_reports(studies: Iterable[StudyRecord], instruction: str, seed: int = 0) -> list[Example]:
    """Reports to be written, with label-derived reports as references; a study without finding labels has none."""
    return [
        Example(
            s.id, s.patient, s.source, Path(s.image), instruction, label_report(s, _rng(seed, "report", s))
        )
        for s in studies
        if s.present_labels
    ]


def label_derived_questions(studies: Iterable[StudyRecord], seed: int = 0) -> list[Example]:
    """All questions that the labels of the studies can answer; they depend on the seed and the study alone."""
    return [
        Example(f"{s.id}#{number}", s.patient, s.source, Path(s.image), question, answer, kind)
        for s in studies
        for number, (kind, question, answer) in enumerate(question_answers(s, _rng(seed, "vqa", s)))
    ]


def label_derived_drawings(studies: Iterable[StudyRecord], seed: int = 0) -> list[Example]:
    """X-rays to be drawn from label-derived reports; a study without finding labels has none."""
    return [
        Example(s.id, s.patient, s.source, Path(s.image), label_report(s, rng), kind="|".join(s.present_labels))
        for s, rng in ((s, _rng(seed, "image", s)) for s in studies)
        if s.present_labels
    ]


def read_reports(path: str | Path, instruction: str) -> list[Example]:
    """
    Reads reference reports.

    Args:
        path (`str` or `Path`):
            JSON (a list of records) or Parquet with the columns `id`, `patient`, `image` (absolute, or relative to the
            file), `findings`, `impression` (one of the two may be empty) and, if wanted, `source`.
        instruction (`str`):
            The prompt of each.

    Returns:
        `list[Example]`: the reference is "FINDINGS: ...\\nIMPRESSION: ...", of the sections that there are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, an id is there twice, a record has neither section, or there is no record.
    """
    examples = []
    for record in _read_records(path, ("id", "patient", "image", "findings", "impression")):
        report = compose_report(record["findings"] or "", record["impression"] or "")
        if not report:
            raise ValueError(f"Record '{record['id']}' of '{path}' has neither findings nor an impression.")
        examples.append(_example(path, record, prompt=instruction, reference=report))
    return checked(examples, str(path))


def read_questions(path: str | Path) -> list[Example]:
    """
    Reads questions with reference answers.

    Args:
        path (`str` or `Path`):
            JSON (a list of records) or Parquet with the columns `id`, `patient`, `image` (absolute, or relative to the
            file), `question`, `answer` and, if wanted, `type` and `source`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, an id is there twice, or there is no record.
    """
    columns = ("id", "patient", "image", "question", "answer")
    examples = [
        _example(path, record, prompt=record["question"], reference=record["answer"], kind=record.get("type") or "")
        for record in _read_records(path, columns)
    ]
    return checked(examples, str(path))


def read_texts(path: str | Path) -> list[Example]:
    """
    Reads texts whose perplexity is measured, each as `prompt` and a patient of its own.

    Args:
        path (`str` or `Path`):
            Text file; empty lines separate the texts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    texts = [text.strip() for text in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")) if text.strip()]
    return checked([Example(str(i), str(i), "", path, text) for i, text in enumerate(texts)], str(path))


def images_of(studies: Iterable[StudyRecord]) -> list[Example]:
    """X-rays to be encoded."""
    return [Example(s.id, s.patient, s.source, Path(s.image), "") for s in studies]


def drawings_of(reports: Iterable[Example]) -> list[Example]:
    """X-rays to be drawn from reference reports, with the X-rays of these reports as references."""
    return [Example(e.id, e.patient, e.source, e.image_path, e.reference) for e in reports]


def sample(examples: Sequence[Example], size: int | None, seed: int = 0) -> list[Example]:
    """
    The first `size` examples (all by default) of an order that depends on the seed alone, so that a smaller sample is part
    of a larger one.
    """
    shuffled = random.Random(seed).sample(list(examples), len(examples))
    return shuffled[:size]


def checked(examples: list[Example], what: str) -> list[Example]:
    """
    The examples, if there are any and their ids are unique.

    Raises:
        ValueError: there is no example in `what`, or an id is there twice.
    """
    if not examples:
        raise ValueError(f"There is no example in {what}.")
    twice = [id_ for id_, count in Counter(example.id for example in examples).items() if count > 1]
    if twice:
        raise ValueError(f"Ids must be unique: {len(twice)} in {what} are there more than once, such as '{twice[0]}'.")
    return examples


def _rng(seed: int, task: str, study: StudyRecord) -> random.Random:
    return random.Random(f"{seed}-{task}-{study.id}")


def read_json(path: str | Path):
    """
    What a JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is no JSON file: {error}") from error


def _read_records(path: str | Path, columns: Sequence[str]) -> list[dict]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    if path.suffix == ".parquet":
        records = pyarrow.parquet.read_table(path).to_pylist()
    elif path.suffix == ".json":
        records = read_json(path)
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise ValueError(f"Expected a list of records in '{path}'.")
    else:
        raise ValueError(f"References are read from .json or .parquet, got '{path}'.")
    for number, record in enumerate(records, start=1):
        if missing := [column for column in columns if column not in record]:
            raise ValueError(f"Record {number} of '{path}' lacks {missing}; expected {list(columns)}.")
    return records


def _example(path: str | Path, record: dict, **fields) -> Example:
    return Example(
        id=str(record["id"]),
        patient=str(record["patient"]),
        source=record.get("source") or "",
        image_path=Path(path).parent / record["image"],
        **fields,
    )
