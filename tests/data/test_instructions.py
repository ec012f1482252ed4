import random
from collections import Counter
from pathlib import Path

import pytest

from transformers_cxr.data.instructions import (
    IMAGE_INSTRUCTIONS,
    REPORT_INSTRUCTIONS,
    image_conversation,
    label_report,
    question_answers,
    report_conversation,
)
from transformers_cxr.data.readers.image_folder import LABELS_OF_SOURCE, Study
from transformers_cxr.reports import etiology_of_report, finding_of_report

SEEDS = range(200)


def make_study(
    source="kermany", view="AP", age_group="child", sex="", findings=("No Finding",), etiology="", absent=None
):
    if absent is None:
        labels = LABELS_OF_SOURCE.get(source, ()) if findings else ()
        absent = tuple(label for label in labels if label not in findings)
    return Study(
        image_path=Path("images/1.png"),
        image_id="images/1.png",
        split="train",
        source=source,
        patient_id="patient-1",
        view=view,
        age_group=age_group,
        sex=sex,
        findings=findings,
        etiology=etiology,
        absent=absent,
    )


NORMAL_CHILD = make_study()
BACTERIAL = make_study(findings=("Pneumonia",), etiology="bacterial")
VIRAL = make_study(findings=("Pneumonia",), etiology="viral")
UNLABELLED = make_study(source="hannover", view="PA", age_group="adult", sex="F", findings=())
NORMAL_ADULT = make_study(source="nih64", view="PA", age_group="adult", sex="M")
EFFUSION_AND_MASS = make_study(source="nih64", age_group="adult", sex="F", findings=("Effusion", "Mass"))
EDEMA_AND_PNEUMONIA = make_study(source="nih64", age_group="adult", sex="M", findings=("Edema", "Pneumonia"))

FINDING_AND_ETIOLOGY = [
    (NORMAL_CHILD, "normal", None),
    (BACTERIAL, "pneumonia", "bacterial"),
    (VIRAL, "pneumonia", "viral"),
    (UNLABELLED, None, None),
    (NORMAL_ADULT, "normal", None),
    (EFFUSION_AND_MASS, None, None),
    (EDEMA_AND_PNEUMONIA, "pneumonia", None),
]
ALL_STUDIES = [study for study, _, _ in FINDING_AND_ETIOLOGY]


def reports(study):
    return [label_report(study, random.Random(seed)) for seed in SEEDS]


@pytest.mark.parametrize(("study", "finding", "etiology"), FINDING_AND_ETIOLOGY)
def test_report_reads_back_as_the_labels_it_was_written_from(study, finding, etiology):
    for report in reports(study):
        assert finding_of_report(report) == finding, report
        assert etiology_of_report(report) == etiology, report


@pytest.mark.parametrize(("study", "finding", "etiology"), FINDING_AND_ETIOLOGY)
def test_impression_alone_states_finding_and_etiology(study, finding, etiology):
    for report in reports(study):
        impression = report.split("IMPRESSION: ")[1]
        assert finding_of_report(impression) == finding, impression
        assert etiology_of_report(impression) == etiology, impression


@pytest.mark.parametrize("study", ALL_STUDIES)
def test_report_is_short_ascii_of_two_sections(study):
    for report in reports(study):
        findings, impression = report.split("\n")
        assert findings.startswith("FINDINGS: ")
        assert impression.startswith("IMPRESSION: ")
        assert report.isascii()
        assert 15 <= len(report.split()) <= 45, report


@pytest.mark.parametrize("study", ALL_STUDIES)
def test_report_states_view_age_group_and_sex(study):
    persons = {("child", ""): "a child", ("adult", "M"): "an adult man", ("adult", "F"): "an adult woman"}
    for report in reports(study):
        assert f"{study.view} " in report
        assert persons[study.age_group, study.sex] in report


def test_wording_of_reports_varies():
    for study in ALL_STUDIES:
        assert len(set(reports(study))) > 10


def test_report_of_an_unlabelled_study_names_no_finding_and_says_so():
    for report in reports(UNLABELLED):
        assert "label" in report
        for claim in ("covid", "pneumonia", "normal", "acute", "opacity"):
            assert claim not in report.lower()


def test_report_names_every_label_in_both_sections():
    for report in reports(EFFUSION_AND_MASS):
        for section in report.lower().split("\n"):
            assert "a pleural effusion and a mass" in section
        assert "pneumonia" not in report


def test_report_joins_three_labels_by_comma_and_and():
    study = make_study(source="nih64", findings=("Edema", "Fibrosis", "Pleural_Thickening"))
    assert "edema, fibrosis and pleural thickening" in label_report(study, random.Random(0))


def test_label_of_another_dataset_is_named_as_it_is_written():
    assert "rib fracture" in label_report(make_study(findings=("Rib_Fracture",)), random.Random(0))


def test_labels_of_chexpert_are_named_and_devices_are_no_finding():
    study = make_study(source="chexpert", view="", age_group="", findings=("No Finding", "Support Devices"))
    for report in reports(study):
        assert finding_of_report(report) == "normal", report
        assert "Support devices are in place." in report
    edema = make_study(source="chexpert", view="LATERAL", age_group="", sex="M", findings=("Edema", "Support Devices"))
    for report in reports(edema):
        assert (
            "edema" in report.lower()
            and "edema and" not in report
            and "support devices are in place" in report.lower()
        )
        assert "lateral" in report.lower() and "a man" in report


def test_study_with_nothing_but_absent_labels_is_reported_by_them():
    study = make_study(source="chexpert", age_group="", findings=(), absent=("Pneumothorax", "Pleural Effusion"))
    for report in reports(study):
        assert "of a pneumothorax or a pleural effusion." in report
        assert finding_of_report(report) is None
    types = {question_type for question_type, _, _ in asked(study)}
    assert types == {"view", "label"}


def test_view_sex_and_age_group_that_are_not_known_are_neither_asked_nor_reported():
    study = make_study(source="chexpert", view="", age_group="", findings=("Edema",), absent=("Fracture",))
    assert {question_type for question_type, _, _ in asked(study)} == {"finding", "label"}
    for report in reports(study):
        assert "view" not in report and "a patient" in report
    lateral = make_study(view="LATERAL")
    assert all("AP" not in q for question_type, q, _ in asked(lateral) if question_type == "view")


def test_support_devices_are_asked_for_in_the_plural():
    study = make_study(source="chexpert", findings=("Support Devices",), absent=("Edema",))
    questions = {question for question_type, question, answer in asked(study) if answer == "Yes."}
    assert questions == {"Does this X-ray show support devices?", "Can you see support devices?"}


def asked(study):
    return [triple for seed in SEEDS for triple in question_answers(study, random.Random(seed))]


@pytest.mark.parametrize(
    ("study", "answers"),
    [
        (NORMAL_CHILD, {"view": {"AP."}, "age_group": {"A child."}}),
        (BACTERIAL, {"view": {"AP."}, "age_group": {"A child."}, "etiology": {"Bacterial pneumonia."}}),
        (VIRAL, {"view": {"AP."}, "age_group": {"A child."}, "etiology": {"Viral pneumonia."}}),
        (UNLABELLED, {"view": {"PA."}, "age_group": {"An adult."}, "sex": {"Female."}}),
        (NORMAL_ADULT, {"view": {"PA."}, "age_group": {"An adult."}, "sex": {"Male."}, "label": {"No."}}),
        (EFFUSION_AND_MASS, {"view": {"AP."}, "age_group": {"An adult."}, "sex": {"Female."}, "label": {"Yes.", "No."}}),
        (EDEMA_AND_PNEUMONIA, {"view": {"AP."}, "age_group": {"An adult."}, "sex": {"Male."}, "label": {"Yes.", "No."}}),
    ],
)  # fmt: skip
def test_answers_are_those_of_the_columns(study, answers):
    given = {}
    for question_type, _, answer in asked(study):
        if question_type != "finding":
            given.setdefault(question_type, set()).add(answer)
    assert given == answers


@pytest.mark.parametrize(
    ("study", "is_pneumonia", "is_normal"),
    [
        (NORMAL_CHILD, "No.", "Yes."),
        (BACTERIAL, "Yes.", "No."),
        (EFFUSION_AND_MASS, "No.", "No."),
        (EDEMA_AND_PNEUMONIA, "Yes.", "No."),
    ],
)
def test_finding_questions_are_answered_for_what_they_ask(study, is_pneumonia, is_normal):
    pairs = {(question, answer) for question_type, question, answer in asked(study) if question_type == "finding"}
    assert {answer for question, answer in pairs if "pneumonia" in question} == {is_pneumonia}
    assert {answer for question, answer in pairs if "normal" in question} == {is_normal}


@pytest.mark.parametrize("study", [NORMAL_CHILD, BACTERIAL])
def test_finding_questions_are_balanced_between_yes_and_no(study):
    counts = Counter(answer for question_type, _, answer in asked(study) if question_type == "finding")
    assert sum(counts.values()) == len(SEEDS)
    assert 0.4 < counts["Yes."] / len(SEEDS) < 0.6


def test_label_questions_ask_one_present_and_one_absent_label():
    for seed in SEEDS:
        triples = question_answers(EFFUSION_AND_MASS, random.Random(seed))
        labels = {answer: question for question_type, question, answer in triples if question_type == "label"}
        assert set(labels) == {"Yes.", "No."}
        assert "effusion" in labels["Yes."] or "mass" in labels["Yes."]
        assert "effusion" not in labels["No."] and "mass" not in labels["No."]


def test_order_of_questions_is_shuffled():
    first = {question_answers(BACTERIAL, random.Random(seed))[0][0] for seed in SEEDS}
    assert first == {"view", "age_group", "finding", "etiology"}


def test_instructions_are_ten_different_short_sentences_each():
    for instructions in (REPORT_INSTRUCTIONS, IMAGE_INSTRUCTIONS):
        assert len(set(instructions)) == 10
        assert all(5 <= len(instruction.split()) <= 12 for instruction in instructions)


def test_report_conversation_has_the_image_in_the_user_turn():
    conversation = report_conversation(BACTERIAL, random.Random(0))
    user, assistant = conversation.pop("messages")
    assert conversation == {"task": "report", "image_id": "images/1.png"}
    instruction = user["content"][0]["text"]
    assert instruction in REPORT_INSTRUCTIONS
    assert user == {"role": "user", "content": [{"type": "text", "text": instruction}, {"type": "image"}]}
    report = assistant["content"][0]["text"]
    assert assistant == {"role": "assistant", "content": [{"type": "text", "text": report}]}
    assert etiology_of_report(report) == "bacterial"


def test_image_conversation_has_the_image_as_the_answer():
    conversation = image_conversation(VIRAL, random.Random(0))
    user, assistant = conversation.pop("messages")
    assert conversation == {"task": "image", "image_id": "images/1.png"}
    assert user["role"] == "user"
    assert [part["type"] for part in user["content"]] == ["text", "text"]
    assert user["content"][0]["text"] in IMAGE_INSTRUCTIONS
    assert etiology_of_report(user["content"][1]["text"]) == "viral"
    assert assistant == {"role": "assistant", "content": [{"type": "image"}]}


def test_image_conversation_gives_the_whole_report_half_of_the_time_and_else_the_bare_impression():
    conversations = [image_conversation(VIRAL, random.Random(seed)) for seed in SEEDS]
    texts = [conversation["messages"][0]["content"][1]["text"] for conversation in conversations]
    whole = [text for text in texts if text.startswith("FINDINGS: ") and "\nIMPRESSION: " in text]
    bare = [text for text in texts if "FINDINGS" not in text and "IMPRESSION" not in text]
    assert len(whole) + len(bare) == len(SEEDS)
    assert 0.4 < len(whole) / len(SEEDS) < 0.6


@pytest.mark.parametrize("write", [label_report, question_answers, report_conversation, image_conversation])
@pytest.mark.parametrize("study", ALL_STUDIES)
def test_same_seed_gives_the_same_output(write, study):
    assert write(study, random.Random(3)) == write(study, random.Random(3))
