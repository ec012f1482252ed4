import random
from collections import Counter
from dataclasses import replace

import pytest

from transformers_cxr.data import (
    StudyRecord,
    image_conversation,
    label_report,
    question_answers,
    report_conversation,
    vqa_conversation,
)
from transformers_cxr.data.wording import IMAGE_INSTRUCTIONS, REPORT_INSTRUCTIONS, UNANSWERABLE
from transformers_cxr.reports import etiology_of_report, finding_of_report, parse_report

SEEDS = range(100)
BOTH = "FINDINGS: Clear lungs.\nIMPRESSION: Normal."
REPORT = StudyRecord(
    id="image-1", patient="p1", image="1.png", source="made", view="PA", findings="Clear lungs.", impression="Normal.",
    labels={"Edema": 0, "Fracture": 1}, codes=[1, 2, 3, 4],
)  # fmt: skip


def labeled(labels, view="AP", age_group="adult", sex=""):
    fields = {"id": "1.png", "patient": "p1", "image": "1.png", "source": "made"}
    return StudyRecord(**fields, view=view, age_group=age_group, sex=sex, labels=labels)


NORMAL_CHILD = labeled({"Pneumonia": 0, "No Finding": 1}, age_group="child")
BACTERIAL = labeled({"Pneumonia": 1, "Bacterial Pneumonia": 1, "Viral Pneumonia": 0}, age_group="child")
UNLABELED = labeled({}, view="PA", sex="F")
EFFUSION_AND_MASS = labeled({"Edema": 0, "Pneumonia": 0, "Effusion": 1, "Mass": 1}, sex="F")
EDEMA_AND_PNEUMONIA = labeled({"Mass": 0, "Edema": 1, "Pneumonia": 1}, sex="M")


def texts(conversation):
    return [part["text"] for message in conversation["messages"] for part in message["content"] if "text" in part]


def reports(record):
    return [label_report(record, random.Random(seed)) for seed in SEEDS]


def asked(record):
    return [triple for seed in SEEDS for triple in question_answers(record, random.Random(seed))]


def test_report_is_the_answer_to_an_instruction_with_an_image():
    conversation = report_conversation(REPORT, random.Random(0))
    user, assistant = conversation.pop("messages")
    assert conversation == {"task": "report", "id": "image-1", "image_codes": [[1, 2, 3, 4]]}
    assert user["content"][0]["text"] in REPORT_INSTRUCTIONS and user["content"][1:] == [{"type": "image"}]
    assert assistant == {"role": "assistant", "content": [{"type": "text", "text": BOTH}]}
    without_codes = report_conversation(replace(REPORT, codes=[]), random.Random(0))
    assert without_codes["images"] == ["1.png"] and "image_codes" not in without_codes


@pytest.mark.parametrize(
    ("fields", "sections", "report"),
    [
        ({}, "impression", "IMPRESSION: Normal."),
        ({"findings": ""}, "findings+impression", "IMPRESSION: Normal."),
        ({"impression": ""}, "findings+impression", "FINDINGS: Clear lungs."),
    ],
)
def test_report_has_the_sections_that_exist_and_are_asked_for(fields, sections, report):
    assert texts(report_conversation(replace(REPORT, **fields), random.Random(0), sections))[1] == report


def test_report_and_questions_are_turns_in_any_order_about_one_image():
    orders = set()
    for seed in range(20):
        conversation = report_conversation(REPORT, random.Random(seed), num_questions=2)
        users, assistants = conversation["messages"][::2], conversation["messages"][1::2]
        assert [sum(part["type"] == "image" for part in message["content"]) for message in users] == [1, 0, 0]
        (position,) = [i for i, m in enumerate(assistants) if "IMPRESSION" in m["content"][0]["text"]]
        orders.add(position)
    assert orders == {0, 1, 2}


def test_a_question_that_the_record_does_not_answer_gets_a_sentence_that_says_so():
    asked = set()
    conversations = [report_conversation(EFFUSION_AND_MASS, random.Random(s), unanswerable_ratio=0.5) for s in SEEDS]
    for question, answer in (texts(c)[i : i + 2] for c in conversations for i in range(0, len(texts(c)), 2)):
        if answer == UNANSWERABLE:
            asked.add(question)
    assert 30 < sum(len(c["messages"]) == 4 for c in conversations) < 70
    assert any("fracture" in question for question in asked) and "What is the treatment?" in asked
    # The record has these labels and the sex.
    assert not any(known in question for question in asked for known in ("edema", "effusion", "mass", "sex"))


def test_image_is_the_answer_to_the_report_its_bare_impression_or_an_empty_prompt():
    prompts = Counter()
    for seed in range(600):
        conversation = image_conversation(REPORT, random.Random(seed), empty_prompt_ratio=0.3)
        assert conversation["task"] == "image" and conversation["messages"][1]["content"] == [{"type": "image"}]
        instruction, prompt = texts(conversation)
        assert instruction in IMAGE_INSTRUCTIONS
        prompts[prompt] += 1 / 600
    assert prompts == pytest.approx({BOTH: 0.35, "Normal.": 0.35, "": 0.3}, abs=0.07)
    assert {texts(image_conversation(REPORT, random.Random(s), "impression"))[1] for s in SEEDS} == {"Normal."}


def test_question_is_the_instruction_and_labels_answer_where_the_record_has_none():
    conversation = vqa_conversation(replace(REPORT, question="Is there edema?", answer="No."), random.Random(0))
    user = [{"type": "text", "text": "Is there edema?"}, {"type": "image"}]
    assert conversation["task"] == "vqa" and conversation["messages"] == [
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
    ]
    found = {tuple(texts(vqa_conversation(REPORT, random.Random(seed)))) for seed in range(300)}
    assert {("Is there edema?", "No."), ("Is there a fracture?", "Yes."), ("Which view is this?", "PA.")} <= found


@pytest.mark.parametrize(
    ("record", "finding", "etiology", "person"),
    [
        (NORMAL_CHILD, "normal", None, "a child"),
        (BACTERIAL, "pneumonia", "bacterial", "a child"),
        (labeled({"Bacterial Pneumonia": 0, "Viral Pneumonia": 1}, sex="M"), "pneumonia", "viral", "an adult man"),
        (UNLABELED, None, None, "an adult woman"),
        (EFFUSION_AND_MASS, None, None, "an adult woman"),
        (EDEMA_AND_PNEUMONIA, "pneumonia", None, "an adult man"),
    ],
)
def test_label_report_is_short_and_varied_and_states_labels_view_age_group_and_sex(record, finding, etiology, person):
    assert len(set(reports(record))) > 10
    for report in reports(record):
        for text in (report, parse_report(report).impression):
            assert (finding_of_report(text), etiology_of_report(text)) == (finding, etiology), text
        findings, impression = report.split("\n")
        assert findings.startswith("FINDINGS: ") and impression.startswith("IMPRESSION: ")
        assert report.isascii() and 12 <= len(report.split()) <= 45, report
        assert f"{record.view} " in report and person in report


def test_label_report_names_present_labels_in_both_sections_and_claims_nothing_without_labels():
    for report in reports(EFFUSION_AND_MASS):
        assert all("a pleural effusion and a mass" in section for section in report.lower().split("\n"))
        assert "pneumonia" not in report
    for report in reports(UNLABELED):
        assert not any(claim in report.lower() for claim in ("label", "covid", "pneumonia", "normal", "acute"))


def test_support_devices_are_not_a_finding():
    for report in reports(labeled({"No Finding": 1, "Support Devices": 1}, view="", age_group="")):
        assert finding_of_report(report) == "normal" and "Support devices are in place." in report
    for report in reports(labeled({"Edema": 1, "Support Devices": 1}, view="LATERAL", age_group="", sex="M")):
        assert "edema" in report.lower() and "edema and" not in report and "Support devices are in place." in report
        assert "lateral" in report.lower() and "a man" in report
    questions = {question for _, question, _ in asked(labeled({"Support Devices": 1, "Edema": 0}))}
    assert "Is there support devices?" not in questions and "Can you see support devices?" in questions


def test_absent_labels_are_reported_and_uncertain_and_unknown_facts_are_not():
    absent = labeled({"Pneumothorax": 0, "Pleural Effusion": 0}, age_group="")
    for report in reports(absent):
        assert "of a pneumothorax or a pleural effusion." in report and finding_of_report(report) is None
    assert {kind for kind, _, _ in asked(absent)} == {"view", "label"}
    uncertain = labeled({"Edema": -1}, view="", age_group="")
    assert asked(uncertain) == []
    assert not any("edema" in report.lower() or "view" in report for report in reports(uncertain))


@pytest.mark.parametrize(
    ("record", "answers"),
    [
        (BACTERIAL, {"view": {"AP."}, "age_group": {"A child."}, "etiology": {"Bacterial pneumonia."}}),
        (UNLABELED, {"view": {"PA."}, "age_group": {"An adult."}, "sex": {"Female."}}),
        (labeled({"Edema": 1, "Mass": 0}, "PA", ""), {"view": {"PA."}, "label": {"Yes.", "No."}}),
        (labeled({}, view="LATERAL", age_group=""), {"view": {"Lateral."}}),
    ],
)
def test_answers_are_those_of_the_record_in_any_order(record, answers):
    given, first = {}, {question_answers(record, random.Random(seed))[0][0] for seed in SEEDS}
    for question_type, question, answer in asked(record):
        assert record.view != "LATERAL" or "AP" not in question
        given.setdefault(question_type, set()).add(answer)
    assert first == set(given)
    given.pop("finding", None)
    assert given == answers


@pytest.mark.parametrize(
    ("record", "is_pneumonia", "is_normal"),
    [(NORMAL_CHILD, "No.", "Yes."), (EFFUSION_AND_MASS, "No.", "No."), (EDEMA_AND_PNEUMONIA, "Yes.", "No.")],
)
def test_finding_questions_are_answered_for_what_they_ask_and_balanced(record, is_pneumonia, is_normal):
    pairs = [(question, answer) for question_type, question, answer in asked(record) if question_type == "finding"]
    assert {answer for question, answer in pairs if "pneumonia" in question} == {is_pneumonia}
    assert {answer for question, answer in pairs if "normal" in question} == {is_normal}
    assert len(pairs) == len(SEEDS) and 0.3 < sum("normal" in question for question, _ in pairs) / len(SEEDS) < 0.7


def test_label_questions_ask_for_one_present_and_one_absent_label():
    for seed in SEEDS:
        triples = question_answers(EFFUSION_AND_MASS, random.Random(seed))
        labels = {answer: question for question_type, question, answer in triples if question_type == "label"}
        assert set(labels) == {"Yes.", "No."}
        assert any(name in labels["Yes."] for name in ("effusion", "mass"))
        assert any(name in labels["No."] for name in ("edema", "pneumonia"))
