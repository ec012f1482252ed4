"""
Conversations about records, the training examples of instruction tuning.

A conversation is a `dict` of

- "messages": in the format of Transformers' chat templates, with `{"type": "image"}` slots,
- "images" (paths) or "image_codes" (VQ codes), one entry for each slot in order,
- "task": "report", "image", "vqa" or "text",
- "id": id of the record.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..reports.sections import compose_report, parse_report
from . import wording
from .records import StudyRecord

_DEVICES = "Support Devices"
_IMAGE = {"type": "image"}


def report_conversation(
    record: StudyRecord,
    rng: random.Random,
    sections: str = "findings+impression",
    num_questions: int = 0,
    unanswerable_ratio: float = 0.0,
) -> dict:
    """
    Return a conversation in which the assistant reports on an X-ray.

    Args:
        record ([`StudyRecord`]): the X-ray. If it has no report, one is derived from its labels.
        rng (`random.Random`): chooses the instruction, and the wording of a label-derived report.
        sections (`str`, *optional*, defaults to `"findings+impression"`): "findings+impression" for the sections that
            the report has, or "impression" for that alone.
        num_questions (`int`, *optional*, defaults to `0`): number of questions, answered by the labels, in further
            turns about the same image. The turns are shuffled.
        unanswerable_ratio (`float`, *optional*, defaults to `0.0`): share of the conversations with one more turn: a
            question that the labels do not answer, and a sentence that says so.
    """
    turns = [(rng.choice(wording.REPORT_INSTRUCTIONS), compose_report(*_sections_of(record, rng, sections)))]
    if num_questions:
        turns += [(question, answer) for _, question, answer in question_answers(record, rng)[:num_questions]]
    if rng.random() < unanswerable_ratio:
        turns.append((_unanswerable_question(record, rng), wording.UNANSWERABLE))
    rng.shuffle(turns)
    return {"messages": turns_to_messages(turns), "task": "report", **_image_of(record)}


def image_conversation(
    record: StudyRecord,
    rng: random.Random,
    sections: str = "findings+impression",
    empty_prompt_ratio: float = 0.0,
) -> dict:
    """
    Return a conversation in which the assistant generates the X-ray of a report. The prompt is the report with its
    headings, or the bare impression: always if `sections` is "impression", else half of the time.

    Args:
        record ([`StudyRecord`]): the X-ray. If it has no report, one is derived from its labels.
        rng (`random.Random`): chooses the instruction, the form of the prompt, and the wording of a label-derived
            report.
        sections (`str`, *optional*, defaults to `"findings+impression"`): as of [`report_conversation`].
        empty_prompt_ratio (`float`, *optional*, defaults to `0.0`): share of the conversations without a report, for
            classifier-free guidance (arXiv 2207.12598).
    """
    instruction = rng.choice(wording.IMAGE_INSTRUCTIONS)
    findings, impression = _sections_of(record, rng, sections)
    is_bare = impression and (sections == "impression" or rng.random() < 0.5)
    text = impression if is_bare else compose_report(findings, impression)
    if rng.random() < empty_prompt_ratio:
        text = ""
    messages = [_message("user", instruction, text), _message("assistant", _IMAGE)]
    return {"messages": messages, "task": "image", **_image_of(record)}


def vqa_conversation(record: StudyRecord, rng: random.Random, num_questions: int = 1) -> dict:
    """
    Return a conversation of questions about an X-ray and their answers.

    Args:
        record ([`StudyRecord`]): has a question, or labels that answer one, see [`question_answers`].
        rng (`random.Random`): chooses questions that the labels answer.
        num_questions (`int`, *optional*, defaults to `1`): largest number of questions that the labels answer.
    """
    turns = [(record.question, record.answer)]
    if not record.question:
        turns = [(question, answer) for _, question, answer in question_answers(record, rng)[:num_questions]]
    return {"messages": turns_to_messages(turns), "task": "vqa", **_image_of(record)}


def text_conversation(row: dict, rng: random.Random | None = None) -> dict:
    """Return the conversation without images of a row of [`read_texts`]; `rng` is not used."""
    return {"messages": row["messages"], "task": "text", "id": row["id"], "image_codes": []}


def label_report(record: StudyRecord, rng: random.Random) -> str:
    """
    Return a report derived from the labels, the view, the sex and the age group of a record. It says nothing else
    about the image.

    Args:
        record ([`StudyRecord`]): the X-ray.
        rng (`random.Random`): chooses the wording.

    Returns:
        `str`: "FINDINGS: ...\\nIMPRESSION: ...", in ASCII. It affirms pneumonia only if the record is labeled so.
        Without present findings, and without "No Finding", it names the absent findings, if any.
    """
    person = wording.PERSONS[record.age_group, record.sex]
    view = "lateral" if record.view == "LATERAL" else record.view
    sentences = wording.VIEW_SENTENCES if view else wording.NO_VIEW_SENTENCES
    view_sentence = _capitalized(rng.choice(sentences).format(person=person, view=view))
    if positive := _positive_findings(record):
        finding = rng.choice(wording.POSITIVE_FINDINGS).format(findings=_findings_phrase(record, positive, rng))
        impression = rng.choice(wording.POSITIVE_IMPRESSIONS).format(findings=_findings_phrase(record, positive, rng))
    elif record.is_normal:
        finding = rng.choice(wording.NORMAL_FINDINGS)
        impression = rng.choice(wording.NORMAL_IMPRESSIONS)
    elif absent := _joined([_label_phrase(label) for label in record.absent_labels], "or"):
        finding = rng.choice(wording.ABSENT_FINDINGS).format(findings=absent)
        impression = rng.choice(wording.ABSENT_IMPRESSIONS).format(findings=absent)
    else:
        finding = ""
        impressions = wording.PLAIN_IMPRESSIONS if view else wording.PLAIN_IMPRESSIONS_NO_VIEW
        impression = rng.choice(impressions).format(person=person, view=view)
    if _DEVICES in record.present_labels:
        finding += " Support devices are in place."
    return compose_report(f"{view_sentence} {finding}".strip(), _capitalized(impression))


def question_answers(record: StudyRecord, rng: random.Random) -> list[tuple[str, str, str]]:
    """
    Return the questions that the labels, the view, the sex and the age group of a record answer.

    Args:
        record ([`StudyRecord`]): the X-ray.
        rng (`random.Random`): chooses wording, polarity and order.

    Returns:
        `list[tuple[str, str, str]]`: (question type, question, answer) in random order. The types are

        - "finding": whether there is pneumonia or whether the X-ray is normal, at even odds if both are known, so that
          "Yes." and "No." are balanced for normal and for pneumonia,
        - "etiology": bacterial or viral,
        - "view", "age_group" and "sex",
        - "label": one absent and one present label, if more than one label is known.
    """
    present, absent = record.present_labels, record.absent_labels
    triples = []
    if record.view:
        # The first question names AP and PA.
        questions = wording.VIEW_QUESTIONS if record.view in ("AP", "PA") else wording.VIEW_QUESTIONS[1:]
        triples.append(("view", rng.choice(questions), "Lateral." if record.view == "LATERAL" else f"{record.view}."))
    if record.age_group:
        answer = {"child": "A child.", "adult": "An adult."}[record.age_group]
        triples.append(("age_group", rng.choice(wording.AGE_GROUP_QUESTIONS), answer))
    if record.sex:
        triples.append(("sex", rng.choice(wording.SEX_QUESTIONS), {"M": "Male.", "F": "Female."}[record.sex]))
    positive = _positive_findings(record)
    choices = []
    if "Pneumonia" in (*present, *absent) or record.is_normal:
        choices.append((wording.PNEUMONIA_QUESTIONS, "Pneumonia" in present))
    if positive or record.is_normal:
        choices.append((wording.NORMAL_QUESTIONS, record.is_normal))
    if choices:
        questions, answer = rng.choice(choices)
        triples.append(("finding", rng.choice(questions), _yes_or_no(answer)))
    if record.etiology:
        answer = f"{record.etiology.capitalize()} pneumonia."
        triples.append(("etiology", rng.choice(wording.ETIOLOGY_QUESTIONS), answer))
    positive += [_DEVICES] * (_DEVICES in present)
    if len(positive) + len(absent) > 1:
        for labels, answer in ((absent, False), (positive, True)):
            if labels:
                triples.append(("label", _label_question(rng.choice(labels), rng), _yes_or_no(answer)))
    rng.shuffle(triples)
    return triples


def turns_to_messages(turns: Sequence[tuple[str, str]]) -> list[dict]:
    """Return turns of user and assistant as messages, with one image in the first message."""
    messages = []
    for user, assistant in turns:
        images = () if messages else (_IMAGE,)
        messages += [_message("user", user, *images), _message("assistant", assistant)]
    return messages


def _message(role: str, *content: str | dict) -> dict:
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return {"role": role, "content": parts}


def _sections_of(record: StudyRecord, rng: random.Random, sections: str) -> tuple[str, str]:
    findings, impression = record.findings, record.impression
    if not findings and not impression:
        findings, impression = parse_report(label_report(record, rng))
    return "" if sections == "impression" else findings, impression


def _image_of(record: StudyRecord) -> dict:
    if len(record.codes):
        return {"id": record.id, "image_codes": [record.codes]}
    return {"id": record.id, "images": [record.image]}


def _positive_findings(record: StudyRecord) -> list[str]:
    return [label for label in record.present_labels if label not in ("No Finding", _DEVICES)]


def _label_phrase(label: str) -> str:
    return wording.LABEL_NAMES.get(label, label.replace("_", " ").lower())


def _label_question(label: str, rng: random.Random) -> str:
    # "Is there" needs a singular.
    questions = wording.LABEL_QUESTIONS[1:] if label == _DEVICES else wording.LABEL_QUESTIONS
    return rng.choice(questions).format(label=_label_phrase(label))


def _unanswerable_question(record: StudyRecord, rng: random.Random) -> str:
    known = {_label_phrase(label) for label in (*record.labels, *record.present_labels)}
    label = rng.choice([label for label in wording.LABEL_NAMES if _label_phrase(label) not in known])
    sex = () if record.sex else (rng.choice(wording.SEX_QUESTIONS),)
    return rng.choice((_label_question(label, rng), rng.choice(wording.UNANSWERABLE_QUESTIONS), *sex))


def _findings_phrase(record: StudyRecord, findings: list[str], rng: random.Random) -> str:
    names = [_label_phrase(label) for label in findings]
    if etiology := record.etiology:
        pneumonia = rng.choice((f"{etiology} pneumonia", f"pneumonia of {etiology} cause"))
        names[findings.index("Pneumonia")] = pneumonia
    return _joined(names, "and")


def _joined(names: list[str], conjunction: str) -> str:
    return f" {conjunction} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _yes_or_no(answer: bool) -> str:
    return "Yes." if answer else "No."
