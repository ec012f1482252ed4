import random
from collections import Counter

import pytest

from transformers_cxr.data import (
    StudyRecord,
    image_conversation,
    label_report,
    question_answers,
    report_conversation,
    text_conversation,
    vqa_conversation,
)
from transformers_cxr.data.wording import IMAGE_INSTRUCTIONS, REPORT_INSTRUCTIONS
from transformers_cxr.reports import etiology_of_report, finding_of_report, parse_report

SEEDS = range(200)
REPORT = StudyRecord(
    id="image-1", patient="p1", image="1.png", source="made", view="PA", findings="Clear lungs.", impression="Normal.",
    labels={"Edema": 0, "Fracture": 1}, codes=[1, 2, 3, 4],
)  # fmt: skip


def make_record(labels, view="AP", age_group="child", sex=""):
    return StudyRecord(
        id="1.png",
        patient="p1",
        image="images/1.png",
        source="made",
        view=view,
        age_group=age_group,
        sex=sex,
        labels=labels,
    )


NORMAL_CHILD = make_record({"Pneumonia": 0, "No Finding": 1})
BACTERIAL = make_record({"Pneumonia": 1, "Bacterial Pneumonia": 1, "Viral Pneumonia": 0})
VIRAL = make_record({"Pneumonia": 1, "Bacterial Pneumonia": 0, "Viral Pneumonia": 1})
UNLABELED = make_record({}, view="PA", age_group="adult", sex="F")
NORMAL_ADULT = make_record({"Mass": 0, "Effusion": 0, "No Finding": 1}, view="PA", age_group="adult", sex="M")
EFFUSION_AND_MASS = make_record({"Edema": 0, "Pneumonia": 0, "Effusion": 1, "Mass": 1}, age_group="adult", sex="F")
EDEMA_AND_PNEUMONIA = make_record({"Mass": 0, "Edema": 1, "Pneumonia": 1}, age_group="adult", sex="M")
FINDING_AND_ETIOLOGY = [
    (NORMAL_CHILD, "normal", None),
    (BACTERIAL, "pneumonia", "bacterial"),
    (VIRAL, "pneumonia", "viral"),
    (UNLABELED, None, None),
    (NORMAL_ADULT, "normal", None),
    (EFFUSION_AND_MASS, None, None),
    (EDEMA_AND_PNEUMONIA, "pneumonia", None),
]
ALL_RECORDS = [record for record, _, _ in FINDING_AND_ETIOLOGY]


def texts(conversation):
    return [part["text"] for message in conversation["messages"] for part in message["content"] if "text" in part]


def with_fields(record, **fields):
    return StudyRecord(**(record.__dict__ | fields))


def test_report_is_the_answer_to_an_instruction_with_an_image():
    conversation = report_conversation(REPORT, random.Random(0))
    user, assistant = conversation.pop("messages")
    assert conversation == {"task": "report", "id": "image-1", "image_codes": [[1, 2, 3, 4]]}
    assert user["content"][0]["text"] in REPORT_INSTRUCTIONS and user["content"][1:] == [{"type": "image"}]
    text = "FINDINGS: Clear lungs.\nIMPRESSION: Normal."
    assert assistant == {"role": "assistant", "content": [{"type": "text", "text": text}]}


def test_report_has_the_sections_that_there_are_and_that_are_asked_for():
    def report(record, sections="findings+impression"):
        return texts(report_conversation(record, random.Random(0), sections))[1]

    assert report(REPORT, "impression") == "IMPRESSION: Normal."
    assert report(with_fields(REPORT, findings="")) == "IMPRESSION: Normal."
    assert report(with_fields(REPORT, impression="")) == "FINDINGS: Clear lungs."


def test_report_and_questions_are_turns_in_any_order_about_one_image():
    orders = set()
    for seed in range(20):
        conversation = report_conversation(REPORT, random.Random(seed), num_questions=2)
        users, assistants = conversation["messages"][::2], conversation["messages"][1::2]
        assert [sum(part["type"] == "image" for part in message["content"]) for message in users] == [1, 0, 0]
        reports = ["IMPRESSION" in message["content"][0]["text"] for message in assistants]
        assert sum(reports) == 1
        orders.add(reports.index(True))
    assert orders == {0, 1, 2}


def test_image_is_the_answer_to_the_report_or_its_bare_impression():
    prompts = Counter()
    for seed in SEEDS:
        conversation = image_conversation(REPORT, random.Random(seed))
        assert conversation["task"] == "image" and conversation["messages"][1]["content"] == [{"type": "image"}]
        instruction, prompt = texts(conversation)
        assert instruction in IMAGE_INSTRUCTIONS
        prompts[prompt] += 1
    assert set(prompts) == {"FINDINGS: Clear lungs.\nIMPRESSION: Normal.", "Normal."}
    assert 0.4 < prompts["Normal."] / len(SEEDS) < 0.6
    assert {texts(image_conversation(REPORT, random.Random(s), "impression"))[1] for s in SEEDS} == {"Normal."}
    without = with_fields(REPORT, impression="")
    assert {texts(image_conversation(without, random.Random(s)))[1] for s in SEEDS} == {"FINDINGS: Clear lungs."}


def test_prompt_is_empty_as_often_as_it_is_asked_for():
    empty = [texts(image_conversation(REPORT, random.Random(s), empty_prompt_ratio=0.3))[1] == "" for s in range(1000)]
    assert 0.25 < sum(empty) / 1000 < 0.35


def test_record_without_codes_gives_the_path_of_its_image():
    conversation = report_conversation(with_fields(REPORT, codes=[]), random.Random(0))
    assert conversation["images"] == ["1.png"] and "image_codes" not in conversation


def test_question_is_the_instruction():
    record = with_fields(REPORT, question="Is there edema?", answer="No.")
    assert vqa_conversation(record, random.Random(0)) == {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Is there edema?"}, {"type": "image"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
        ],
        "task": "vqa",
        "id": "image-1",
        "image_codes": [[1, 2, 3, 4]],
    }


def test_record_without_a_question_is_asked_one_that_its_labels_answer():
    asked = {tuple(texts(vqa_conversation(REPORT, random.Random(seed)))) for seed in range(300)}
    assert ("Is there edema?", "No.") in asked and ("Is there a fracture?", "Yes.") in asked
    assert ("Is this X-ray normal?", "No.") in asked and ("Which view is this?", "PA.") in asked


def test_text_conversation_has_no_image():
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    expected = {"messages": messages, "task": "text", "id": "t:1", "image_codes": []}
    assert text_conversation({"id": "t:1", "messages": messages}) == expected


def reports(record):
    return [label_report(record, random.Random(seed)) for seed in SEEDS]


@pytest.mark.parametrize(("record", "finding", "etiology"), FINDING_AND_ETIOLOGY)
def test_label_report_and_its_impression_state_the_labels(record, finding, etiology):
    for report in reports(record):
        for text in (report, parse_report(report).impression):
            assert (finding_of_report(text), etiology_of_report(text)) == (finding, etiology), text


@pytest.mark.parametrize("record", ALL_RECORDS)
def test_label_report_is_short_varied_ascii_with_view_age_group_and_sex(record):
    persons = {("child", ""): "a child", ("adult", "M"): "an adult man", ("adult", "F"): "an adult woman"}
    assert len(set(reports(record))) > 10
    for report in reports(record):
        findings, impression = report.split("\n")
        assert findings.startswith("FINDINGS: ") and impression.startswith("IMPRESSION: ")
        assert report.isascii() and 15 <= len(report.split()) <= 45, report
        assert f"{record.view} " in report and persons[record.age_group, record.sex] in report


def test_label_report_of_an_unlabelled_record_says_so():
    for report in reports(UNLABELED):
        assert "label" in report
        assert not any(claim in report.lower() for claim in ("covid", "pneumonia", "normal", "acute", "opacity"))


def test_label_report_names_every_label_in_both_sections():
    for report in reports(EFFUSION_AND_MASS):
        assert all("a pleural effusion and a mass" in section for section in report.lower().split("\n"))
        assert "pneumonia" not in report
    record = make_record({"Edema": 1, "Rib_Fracture": 1, "Pleural_Thickening": 1})
    assert "edema, rib fracture and pleural thickening" in label_report(record, random.Random(0))


def test_support_devices_are_not_a_finding():
    normal = make_record({"No Finding": 1, "Support Devices": 1}, view="", age_group="")
    edema = make_record({"Edema": 1, "Support Devices": 1}, view="LATERAL", age_group="", sex="M")
    for report in reports(normal):
        assert finding_of_report(report) == "normal" and "Support devices are in place." in report
    for report in reports(edema):
        assert "edema" in report.lower() and "edema and" not in report and "Support devices are in place." in report
        assert "lateral" in report.lower() and "a man" in report
    questions = {
        question for kind, question, _ in asked(make_record({"Support Devices": 1, "Edema": 0})) if kind == "label"
    }
    assert "Is there support devices?" not in questions and "Can you see support devices?" in questions


def test_record_with_only_absent_labels_is_reported_by_them():
    record = make_record({"Pneumothorax": 0, "Pleural Effusion": 0}, age_group="")
    for report in reports(record):
        assert "of a pneumothorax or a pleural effusion." in report and finding_of_report(report) is None
    assert {kind for kind, _, _ in asked(record)} == {"view", "label"}


def test_uncertain_and_unknown_facts_are_neither_asked_nor_reported():
    uncertain = make_record({"Edema": -1}, view="", age_group="")
    assert question_answers(uncertain, random.Random(0)) == []
    assert not any("edema" in report.lower() or "view" in report for report in reports(uncertain))
    assert all("a patient" in report for report in reports(uncertain))


def asked(record):
    return [triple for seed in SEEDS for triple in question_answers(record, random.Random(seed))]


@pytest.mark.parametrize(
    ("record", "answers"),
    [
        (NORMAL_CHILD, {"view": {"AP."}, "age_group": {"A child."}}),
        (BACTERIAL, {"view": {"AP."}, "age_group": {"A child."}, "etiology": {"Bacterial pneumonia."}}),
        (UNLABELED, {"view": {"PA."}, "age_group": {"An adult."}, "sex": {"Female."}}),
        (NORMAL_ADULT, {"view": {"PA."}, "age_group": {"An adult."}, "sex": {"Male."}, "label": {"No."}}),
        (make_record({"Edema": 1, "Mass": 0}, "PA", ""), {"view": {"PA."}, "label": {"Yes.", "No."}}),
        (make_record({}, view="LATERAL", age_group=""), {"view": {"Lateral."}}),
    ],
)  # fmt: skip
def test_answers_are_those_of_the_record(record, answers):
    given = {}
    for question_type, question, answer in asked(record):
        assert record.view != "LATERAL" or "AP" not in question
        if question_type != "finding":
            given.setdefault(question_type, set()).add(answer)
    assert given == answers


@pytest.mark.parametrize(
    ("record", "is_pneumonia", "is_normal"),
    [
        (NORMAL_CHILD, "No.", "Yes."),
        (BACTERIAL, "Yes.", "No."),
        (EFFUSION_AND_MASS, "No.", "No."),
        (EDEMA_AND_PNEUMONIA, "Yes.", "No."),
    ],
)
def test_finding_questions_are_answered_for_what_they_ask_and_balanced(record, is_pneumonia, is_normal):
    pairs = [(question, answer) for question_type, question, answer in asked(record) if question_type == "finding"]
    assert {answer for question, answer in pairs if "pneumonia" in question} == {is_pneumonia}
    assert {answer for question, answer in pairs if "normal" in question} == {is_normal}
    assert len(pairs) == len(SEEDS) and 0.4 < sum("normal" in question for question, _ in pairs) / len(SEEDS) < 0.6


def test_label_questions_ask_for_one_present_and_one_absent_label():
    for seed in SEEDS:
        triples = question_answers(EFFUSION_AND_MASS, random.Random(seed))
        labels = {answer: question for question_type, question, answer in triples if question_type == "label"}
        assert set(labels) == {"Yes.", "No."}
        assert any(name in labels["Yes."] for name in ("effusion", "mass"))
        assert any(name in labels["No."] for name in ("edema", "pneumonia"))


def test_order_of_questions_is_shuffled():
    first = {question_answers(BACTERIAL, random.Random(seed))[0][0] for seed in SEEDS}
    assert first == {"view", "age_group", "finding", "etiology"}


@pytest.mark.parametrize("write", [label_report, question_answers, report_conversation, image_conversation])
def test_same_seed_gives_the_same_output(write):
    assert write(EDEMA_AND_PNEUMONIA, random.Random(3)) == write(EDEMA_AND_PNEUMONIA, random.Random(3))
