"""Conversations, the training examples of instruction tuning, written about rows of [`StudyRecord`] and [`QuestionRecord`]."""

from __future__ import annotations

import random
from pathlib import Path

from ..reports.sections import compose_report, parse_report
from .instructions import (
    IMAGE_INSTRUCTIONS,
    REPORT_INSTRUCTIONS,
    about_one_image,
    label_report,
    message,
    question_answers,
    text_part,
    text_turn,
)
from .readers.image_folder import Study
from .records import StudyRecord

# Labels that name the cause of a pneumonia.
ETIOLOGY_LABELS = {"Bacterial Pneumonia": "bacterial", "Viral Pneumonia": "viral"}
# What a label that is present says in the words of `Study`.
_FINDING_OF_LABEL = dict.fromkeys(ETIOLOGY_LABELS, "Pneumonia") | {"Normal": "No Finding"}


def report_example(row: dict, rng: random.Random, sections: str = "findings+impression") -> dict:
    """
    Writes a conversation in which the assistant reports on an X-ray.

    Args:
        row (`dict`):
            A row of [`StudyRecord`]. A report is derived from its labels where it has none.
        rng (`random.Random`):
            Chooses the instruction, and the wording of a label-derived report.
        sections (`str`, *optional*, defaults to `"findings+impression"`):
            "findings+impression": those of the two that the report has; "impression": that alone.

    Returns:
        `dict` of "messages" in the format of Transformers' chat templates, "task", "id", and "image_codes" (codes of each
        image) where the row has codes, else "images" (paths).
    """
    messages = [
        message("user", text_part(rng.choice(REPORT_INSTRUCTIONS)), {"type": "image"}),
        message("assistant", text_part(report_text(row, rng, sections))),
    ]
    return {"messages": messages, "task": "report", **_image_of(row)}


def image_example(
    row: dict, rng: random.Random, sections: str = "findings+impression", empty_prompt_ratio: float = 0.0
) -> dict:
    """
    Writes a conversation in which the assistant draws the X-ray of a report: of the report with its headings, or, half of the
    time if there are findings beside it and always if `sections` is "impression", of the bare impression.

    Args:
        row (`dict`):
            A row of [`StudyRecord`]. A report is derived from its labels where it has none.
        rng (`random.Random`):
            Chooses the instruction, the length, and the wording of a label-derived report.
        sections (`str`, *optional*, defaults to `"findings+impression"`):
            As of [`report_example`].
        empty_prompt_ratio (`float`, *optional*, defaults to `0.0`):
            Share of the conversations without the report, for classifier-free guidance.

    Returns:
        `dict`: as of [`report_example`].
    """
    instruction = rng.choice(IMAGE_INSTRUCTIONS)
    text = report_text(row, rng, sections)
    impression = parse_report(text).impression
    if impression and (sections == "impression" or rng.random() < 0.5):
        text = impression
    if rng.random() < empty_prompt_ratio:
        text = ""
    messages = [message("user", text_part(instruction), text_part(text)), message("assistant", {"type": "image"})]
    return {"messages": messages, "task": "image", **_image_of(row)}


def vqa_example(row: dict, rng: random.Random) -> dict:
    """
    Writes a conversation of the question of a [`QuestionRecord`] row, which is the instruction, and its answer.

    Returns:
        `dict`: as of [`report_example`].
    """
    return _question_conversation(row, row["question"], row["answer"])


def label_vqa_example(row: dict, rng: random.Random) -> dict:
    """
    Writes a conversation of one question that the labels of a [`StudyRecord`] row answer.

    Args:
        row (`dict`): one that [`has_label_questions`].
        rng (`random.Random`): chooses the question and its wording.

    Returns:
        `dict`: as of [`report_example`].
    """
    _, question, answer = question_answers(labelled_study(row), rng)[0]
    return _question_conversation(row, question, answer)


def text_example(row: dict, rng: random.Random) -> dict:
    """Gives the `messages` of a row as a conversation without an image; `dict` as of [`report_example`]."""
    return {"messages": row["messages"], "task": "text", "id": row["id"], "image_codes": []}


def report_text(row: dict, rng: random.Random, sections: str = "findings+impression") -> str:
    """
    The report of a row, "FINDINGS: ..." and "IMPRESSION: ..." on one line each, of those that it has and that `sections` asks
    for. A row without a report gets one derived from its labels.
    """
    findings, impression = row["findings"], row["impression"]
    if not findings and not impression:
        report = parse_report(label_report(labelled_study(row), rng))
        findings, impression = report.findings, report.impression
    return compose_report("" if sections == "impression" else findings, impression)


def has_label_questions(row: dict) -> bool:
    """Whether the columns of a row answer a question."""
    return bool(question_answers(labelled_study(row), random.Random(0)))


def labelled_study(row: dict) -> Study:
    """
    What the labels of a row say, uncertain ones left out. A cause of pneumonia implies pneumonia; "Normal" is "No Finding", and
    that one of these is absent says nothing.
    """
    present = [label["name"] for label in row["labels"] if label["value"] == 1]
    absent = [label["name"] for label in row["labels"] if label["value"] == 0]
    causes = [ETIOLOGY_LABELS[name] for name in present if name in ETIOLOGY_LABELS]
    findings = tuple(dict.fromkeys(_FINDING_OF_LABEL.get(name, name) for name in present))
    return Study(
        image_path=Path(row["image"]),
        image_id=row["id"],
        split=row["split"],
        source=row["source"],
        patient_id=row["patient"],
        view=row["view"],
        age_group=row["age_group"],
        sex=row["sex"],
        findings=findings,
        etiology=causes[0] if len(causes) == 1 else "",
        absent=tuple(name for name in absent if name not in {*findings, *_FINDING_OF_LABEL, "No Finding"}),
    )


def label_record(study: Study) -> StudyRecord:
    """
    A study of a label-only dataset as a record without a report; conversations about it derive one from its labels, with
    another wording each time.
    """
    labels = dict.fromkeys(study.absent, 0) | dict.fromkeys(study.findings, 1)
    if study.etiology:
        labels |= {name: int(cause == study.etiology) for name, cause in ETIOLOGY_LABELS.items()}
    return StudyRecord(
        id=study.image_id,
        patient=study.patient_id,
        study=study.image_id,
        image=str(study.image_path),
        view=study.view,
        findings="",
        impression="",
        labels=labels,
        split=study.split,
        source=study.source,
        sex=study.sex,
        age_group=study.age_group,
    )


def _question_conversation(row: dict, question: str, answer: str) -> dict:
    return {"messages": about_one_image([text_turn(question, answer)]), "task": "vqa", **_image_of(row)}


def _image_of(row: dict) -> dict:
    # Of several files only some may have codes.
    if row.get("codes"):
        return {"id": row["id"], "image_codes": [row["codes"]]}
    return {"id": row["id"], "images": [row["image"]]}
