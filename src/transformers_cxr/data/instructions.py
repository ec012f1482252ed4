"""Label-derived reports, questions and instruction conversations, written only from the columns of a `Study`."""

from __future__ import annotations

import random

from ..reports.sections import compose_report, parse_report
from .readers.image_folder import Study

REPORT_INSTRUCTIONS = (
    "Write a radiology report for this chest X-ray.",
    "Read this X-ray and report what you find.",
    "Please give the findings and impression of this image.",
    "What does this chest X-ray show? Answer with a report.",
    "Turn this chest image into a short written report.",
    "Act as the radiologist and report on this X-ray.",
    "State the findings, then the impression, for this X-ray.",
    "I need a report of the following chest X-ray.",
    "Look at this image of a chest and report on it.",
    "Give me the report that belongs to this chest X-ray.",
)

IMAGE_INSTRUCTIONS = (
    "Draw the chest X-ray that this report describes.",
    "Make a chest X-ray that fits the following report.",
    "Please turn this report into a chest X-ray.",
    "What would the X-ray of this report look like?",
    "Show me the image that belongs to this report.",
    "I need a chest X-ray with the following findings.",
    "Read this report and draw the X-ray.",
    "Give me a chest image for this written report.",
    "Draw an X-ray of the chest from this text.",
    "Make the image that a radiologist would report like this.",
)

# The labels of ChestX-ray14 (Wang et al., CVPR 2017), whose "Effusion" is a pleural effusion, and of CheXpert and MIMIC-CXR-JPG
# (Irvin et al., AAAI 2019), as a sentence names them; any other label is named as it is written.
_LABEL_NAMES = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Effusion": "a pleural effusion",
    "Emphysema": "emphysema",
    "Fibrosis": "fibrosis",
    "Hernia": "a hernia",
    "Infiltration": "infiltration",
    "Mass": "a mass",
    "Nodule": "a nodule",
    "Pleural_Thickening": "pleural thickening",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "a pneumothorax",
    "Enlarged Cardiomediastinum": "an enlarged cardiomediastinum",
    "Fracture": "a fracture",
    "Lung Lesion": "a lung lesion",
    "Lung Opacity": "a lung opacity",
    "Pleural Effusion": "a pleural effusion",
    "Pleural Other": "a pleural abnormality",
    "Support Devices": "support devices",
}
_DEVICES = "Support Devices"

_PERSONS = {
    ("", ""): "a patient",
    ("", "M"): "a man",
    ("", "F"): "a woman",
    ("child", ""): "a child",
    ("child", "M"): "a boy",
    ("child", "F"): "a girl",
    ("adult", ""): "an adult",
    ("adult", "M"): "an adult man",
    ("adult", "F"): "an adult woman",
}

_VIEW_SENTENCES = (
    "This is a chest X-ray of {person}, {view} view.",
    "The chest of {person} is seen in {view} view.",
    "The image is the {view} chest X-ray of {person}.",
    "{view} view of the chest of {person}.",
)

_NO_VIEW_SENTENCES = (
    "This is a chest X-ray of {person}.",
    "The chest of {person} is seen.",
)

_POSITIVE_FINDINGS = (
    "The X-ray shows signs of {findings}.",
    "There are signs of {findings}.",
    "The findings are those of {findings}.",
    "What is seen fits with {findings}.",
)
_POSITIVE_IMPRESSIONS = (
    "{findings}.",
    "Findings of {findings}.",
    "The X-ray shows {findings}.",
    "Signs of {findings}.",
)

_NORMAL_FINDINGS = (
    "There is no pneumonia and no other finding.",
    "The X-ray shows no sign of pneumonia.",
    "No labelled abnormality is seen, and no pneumonia.",
    "No acute finding can be seen.",
    "The X-ray is without pneumonia or other abnormality.",
)
_NORMAL_IMPRESSIONS = (
    "Normal chest X-ray.",
    "Normal X-ray, no pneumonia.",
    "No acute finding, normal chest.",
    "No labelled abnormality.",
    "No evidence of pneumonia, normal X-ray.",
)

_ABSENT_FINDINGS = (
    "There is no sign of {findings}.",
    "The X-ray is without evidence of {findings}.",
)
_ABSENT_IMPRESSIONS = (
    "No sign of {findings}.",
    "No evidence of {findings}.",
)

_UNLABELLED_FINDINGS = (
    "No finding label is given for this X-ray.",
    "This image comes without a finding label.",
    "The findings of this X-ray are not labelled.",
)
_UNLABELLED_IMPRESSIONS = (
    "{view} view of {person}, no finding label given.",
    "Chest X-ray of {person}, {view} view, not labelled.",
)
_UNLABELLED_IMPRESSIONS_NO_VIEW = ("Chest X-ray of {person}, not labelled.",)

_PNEUMONIA_QUESTIONS = (
    "Is there pneumonia?",
    "Does this X-ray show pneumonia?",
    "Can you see signs of pneumonia?",
)
_NORMAL_QUESTIONS = (
    "Is this X-ray normal?",
    "Is this a normal chest X-ray?",
    "Would you report this chest as normal?",
)
_ETIOLOGY_QUESTIONS = (
    "Is the pneumonia bacterial or viral?",
    "What is the cause of the pneumonia?",
    "Which kind of pneumonia is it?",
)
_VIEW_QUESTIONS = (
    "Is this an AP or a PA view?",
    "Which view is this?",
    "What is the view of this X-ray?",
)
_AGE_GROUP_QUESTIONS = (
    "Is this a child or an adult?",
    "Which age group is the patient in?",
    "Is this the chest of a child or of an adult?",
)
_SEX_QUESTIONS = (
    "Is the patient male or female?",
    "What is the sex of the patient?",
    "Which sex is the patient?",
)
_LABEL_QUESTIONS = (
    "Is there {label}?",
    "Does this X-ray show {label}?",
    "Can you see {label}?",
)

def label_report(study: Study, rng: random.Random) -> str:
    """
    Writes a label-derived report: what the columns of the study say, and nothing of its pixels.

    Args:
        study (`Study`): its `age_group`, `view`, `sex`, `findings`, `absent` and `etiology` are used.
        rng (`random.Random`): chooses the wording.

    Returns:
        `str`: ASCII, "FINDINGS: ..." and "IMPRESSION: ..." on one line each. It affirms pneumonia only where the study is
        labelled so. A study that has no finding and is not labelled normal is reported by what is absent, and if that is not
        known either, as not labelled.
    """
    person = _PERSONS[study.age_group, study.sex]
    view = "lateral" if study.view == "LATERAL" else study.view
    view_sentence = rng.choice(_VIEW_SENTENCES if view else _NO_VIEW_SENTENCES).format(person=person, view=view)
    view_sentence = _capitalized(view_sentence)
    positive = _positive_findings(study)
    if positive:
        finding = rng.choice(_POSITIVE_FINDINGS).format(findings=_findings_phrase(study, positive, rng))
        impression = rng.choice(_POSITIVE_IMPRESSIONS).format(findings=_findings_phrase(study, positive, rng))
    elif _is_normal(study):
        finding = rng.choice(_NORMAL_FINDINGS)
        impression = rng.choice(_NORMAL_IMPRESSIONS)
    elif absent := _joined([_label_name(label) for label in study.absent], "or"):
        finding = rng.choice(_ABSENT_FINDINGS).format(findings=absent)
        impression = rng.choice(_ABSENT_IMPRESSIONS).format(findings=absent)
    else:
        finding = rng.choice(_UNLABELLED_FINDINGS)
        impressions = _UNLABELLED_IMPRESSIONS if view else _UNLABELLED_IMPRESSIONS_NO_VIEW
        impression = rng.choice(impressions).format(person=person, view=view)
    if _DEVICES in study.findings:
        finding += " Support devices are in place."
    return compose_report(f"{view_sentence} {finding}", _capitalized(impression))


def question_answers(study: Study, rng: random.Random) -> list[tuple[str, str, str]]:
    """
    Writes the questions that the columns of a study can answer.

    Args:
        study (`Study`): the study asked about.
        rng (`random.Random`): chooses wording, polarity and order.

    Returns:
        `list[tuple[str, str, str]]`: (question type, question, answer) in random order, with the types

        - "finding": whether there is pneumonia or whether the X-ray is normal, at even odds where both are known, so that
          "Yes." and "No." are balanced for normal and for pneumonia; none for a study without finding labels,
        - "etiology": only where the cause of the pneumonia is known,
        - "view", "age_group" and "sex": only where it is known,
        - "label": where more than one label is known, one that is absent and one that is present.
    """
    triples = []
    if study.view:
        questions = _VIEW_QUESTIONS if study.view in ("AP", "PA") else _VIEW_QUESTIONS[1:]
        triples.append(("view", rng.choice(questions), "Lateral." if study.view == "LATERAL" else f"{study.view}."))
    if study.age_group:
        answer = {"child": "A child.", "adult": "An adult."}[study.age_group]
        triples.append(("age_group", rng.choice(_AGE_GROUP_QUESTIONS), answer))
    if study.sex:
        triples.append(("sex", rng.choice(_SEX_QUESTIONS), {"M": "Male.", "F": "Female."}[study.sex]))
    present = _positive_findings(study) + [_DEVICES] * (_DEVICES in study.findings)
    choices = []
    if "Pneumonia" in (*study.findings, *study.absent) or _is_normal(study):
        choices.append((_PNEUMONIA_QUESTIONS, "Pneumonia" in study.findings))
    if _positive_findings(study) or _is_normal(study):
        choices.append((_NORMAL_QUESTIONS, _is_normal(study)))
    if choices:
        questions, answer = rng.choice(choices)
        triples.append(("finding", rng.choice(questions), _yes_or_no(answer)))
    if study.etiology:
        triples.append(("etiology", rng.choice(_ETIOLOGY_QUESTIONS), f"{study.etiology.capitalize()} pneumonia."))
    if len(present) + len(study.absent) > 1:
        for labels, answer in ((study.absent, False), (present, True)):
            if labels:
                triples.append(("label", _label_question(rng.choice(labels), rng), _yes_or_no(answer)))
    rng.shuffle(triples)
    return triples


def report_conversation(study: Study, rng: random.Random) -> dict:
    """
    Writes a conversation in which the assistant reports on an X-ray.

    Args:
        study (`Study`): the study to report on.
        rng (`random.Random`): chooses instruction and wording.

    Returns:
        `dict`: "messages" in the format of Transformers' chat templates with one `{"type": "image"}` slot, "task" (here
        "report") and "image_id".
    """
    messages = [
        message("user", text_part(rng.choice(REPORT_INSTRUCTIONS)), {"type": "image"}),
        message("assistant", text_part(label_report(study, rng))),
    ]
    return {"messages": messages, "task": "report", "image_id": study.image_id}


def image_conversation(study: Study, rng: random.Random) -> dict:
    """
    Writes a conversation in which the assistant draws the X-ray of a report: of the whole report half of the time, else
    of its impression without the heading.

    Args:
        study (`Study`): the study to draw.
        rng (`random.Random`): chooses instruction, wording and length of the report.

    Returns:
        `dict`: "messages" whose image slot is the assistant's, "task" (here "image") and "image_id".
    """
    instruction = rng.choice(IMAGE_INSTRUCTIONS)
    report = label_report(study, rng)
    if rng.random() < 0.5:
        report = parse_report(report).impression
    messages = [
        message("user", text_part(instruction), text_part(report)),
        message("assistant", {"type": "image"}),
    ]
    return {"messages": messages, "task": "image", "image_id": study.image_id}


def text_part(text: str) -> dict:
    """A text in the content of a [`message`]."""
    return {"type": "text", "text": text}


def message(role: str, *content: dict) -> dict:
    """A message of a conversation in the format of Transformers' chat templates."""
    return {"role": role, "content": list(content)}


def text_turn(user: str, assistant: str) -> list[dict]:
    """A turn of texts: what the user says, and what the assistant answers."""
    return [message("user", text_part(user)), message("assistant", text_part(assistant))]


def about_one_image(turns: list[list[dict]]) -> list[dict]:
    """The messages of turns that are about the same image, which comes at the end of the first user's message alone."""
    for user, _ in turns:
        user["content"] = [part for part in user["content"] if part["type"] != "image"]
    turns[0][0]["content"].append({"type": "image"})
    return [each for turn in turns for each in turn]


def _is_normal(study: Study) -> bool:
    return "No Finding" in study.findings


def _positive_findings(study: Study) -> list[str]:
    return [label for label in study.findings if label not in ("No Finding", _DEVICES)]


def _label_name(label: str) -> str:
    return _LABEL_NAMES.get(label, label.replace("_", " ").lower())


def _label_question(label: str, rng: random.Random) -> str:
    # "Is there" does not go with a plural.
    questions = _LABEL_QUESTIONS[1:] if label == _DEVICES else _LABEL_QUESTIONS
    return rng.choice(questions).format(label=_label_name(label))


def _findings_phrase(study: Study, findings: list[str], rng: random.Random) -> str:
    names = [_label_name(label) for label in findings]
    if study.etiology:
        pneumonia = rng.choice((f"{study.etiology} pneumonia", f"pneumonia of {study.etiology} cause"))
        names[findings.index("Pneumonia")] = pneumonia
    return _joined(names, "and")


def _joined(names: list[str], conjunction: str) -> str:
    return f" {conjunction} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _yes_or_no(answer: bool) -> str:
    return "Yes." if answer else "No."
