import random
from pathlib import Path

import pytest

from transformers_cxr.data.conversations import (
    has_label_questions,
    image_example,
    label_record,
    label_vqa_example,
    labelled_study,
    report_example,
    text_example,
    vqa_example,
)
from transformers_cxr.data.instructions import (
    IMAGE_INSTRUCTIONS,
    REPORT_INSTRUCTIONS,
)
from transformers_cxr.data.readers.image_folder import Study
from transformers_cxr.data.records import record_row
from transformers_cxr.reports import etiology_of_report, finding_of_report

SEEDS = range(100)
ROW = {
    "id": "image-1", "patient": "p1", "study": "s1", "image": "1.png", "view": "PA", "findings": "Clear lungs.",
    "impression": "Normal.", "labels": [{"name": "Edema", "value": 0}, {"name": "Fracture", "value": 1}], "split": "train",
    "source": "made", "study_order": 1, "sex": "", "age_group": "", "codes": [1, 2, 3, 4],
}  # fmt: skip
STUDY = Study(
    image_path=Path("images/1.png"), image_id="1.png", split="train", source="kermany", patient_id="p1", view="AP",
    age_group="child", sex="", findings=("Pneumonia",), etiology="viral", absent=(),
)  # fmt: skip


def texts(example):
    return [part["text"] for message in example["messages"] for part in message["content"] if part["type"] == "text"]


def test_report_is_the_answer_to_an_instruction_with_an_image():
    example = report_example(ROW, random.Random(0))
    user, assistant = example.pop("messages")
    assert example == {"task": "report", "id": "image-1", "image_codes": [[1, 2, 3, 4]]}
    assert user["content"][0]["text"] in REPORT_INSTRUCTIONS and user["content"][1:] == [{"type": "image"}]
    assert assistant["content"] == [{"type": "text", "text": "FINDINGS: Clear lungs.\nIMPRESSION: Normal."}]


def test_sections_are_those_that_there_are_and_that_are_asked_for():
    def report(row, sections="findings+impression"):
        return texts(report_example(row, random.Random(0), sections))[1]

    assert report(ROW, "impression") == "IMPRESSION: Normal."
    assert report(ROW | {"findings": ""}) == "IMPRESSION: Normal."
    assert report(ROW | {"impression": ""}) == "FINDINGS: Clear lungs."


def test_image_is_the_answer_to_the_report_or_its_bare_impression():
    prompts = set()
    for seed in SEEDS:
        example = image_example(ROW, random.Random(seed))
        assert example["messages"][1]["content"] == [{"type": "image"}]
        instruction, prompt = texts(example)
        assert instruction in IMAGE_INSTRUCTIONS
        prompts.add(prompt)
    assert prompts == {"FINDINGS: Clear lungs.\nIMPRESSION: Normal.", "Normal."}
    assert {texts(image_example(ROW, random.Random(s), "impression"))[1] for s in SEEDS} == {"Normal."}
    only_findings = {texts(image_example(ROW | {"impression": ""}, random.Random(s)))[1] for s in SEEDS}
    assert only_findings == {"FINDINGS: Clear lungs."}


def test_prompt_is_left_out_as_often_as_it_is_asked_for():
    empty = [texts(image_example(ROW, random.Random(s), empty_prompt_ratio=0.3))[1] == "" for s in range(1000)]
    assert 0.25 < sum(empty) / 1000 < 0.35


def test_row_without_codes_gives_the_path_of_its_image():
    row = {name: value for name, value in ROW.items() if name != "codes"}
    example = report_example(row, random.Random(0))
    assert example["images"] == ["1.png"] and "image_codes" not in example


def test_row_whose_codes_are_missing_gives_the_path_of_its_image():
    assert report_example(ROW | {"codes": None}, random.Random(0))["images"] == ["1.png"]


def test_question_is_the_instruction():
    example = vqa_example(ROW | {"question": "Is there edema?", "answer": "No."}, random.Random(0))
    assert (example["task"], example["image_codes"]) == ("vqa", [[1, 2, 3, 4]])
    assert example["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Is there edema?"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
    ]


def test_questions_from_labels_are_answered_as_they_are_labelled():
    asked = {tuple(texts(label_vqa_example(ROW, random.Random(seed)))) for seed in range(300)}
    assert ("Is there edema?", "No.") in asked and ("Is there a fracture?", "Yes.") in asked
    assert ("Is this X-ray normal?", "No.") in asked and ("Which view is this?", "PA.") in asked


def test_uncertain_labels_are_neither_asked_nor_reported():
    row = ROW | {"labels": [{"name": "Edema", "value": -1}], "view": "", "findings": "", "impression": ""}
    assert labelled_study(row).findings == labelled_study(row).absent == ()
    assert not has_label_questions(row)
    assert has_label_questions(ROW) and has_label_questions(row | {"sex": "F"})
    assert "edema" not in texts(report_example(row, random.Random(0)))[1].lower()


@pytest.mark.parametrize(
    ("label", "value", "asked"),
    [
        ("Edema", 1, True),
        ("No Finding", 1, True),
        ("Pneumonia", 0, True),
        ("Edema", 0, False),
        ("No Finding", 0, False),
        ("Support Devices", 1, False),
    ],
)
def test_label_questions_are_those_that_can_be_written(label, value, asked):
    row = ROW | {"labels": [{"name": label, "value": value}], "view": ""}
    assert has_label_questions(row) == asked
    assert not asked or label_vqa_example(row, random.Random(0))


@pytest.mark.parametrize(
    ("labels", "findings", "etiology", "absent"),
    [
        ({"Viral Pneumonia": 1}, ("Pneumonia",), "viral", ()),
        ({"Edema": 1, "Pneumonia": 0, "Viral Pneumonia": 1}, ("Edema", "Pneumonia"), "viral", ()),
        ({"Bacterial Pneumonia": 1, "Viral Pneumonia": 1}, ("Pneumonia",), "", ()),
        ({"No Finding": 0, "Edema": 0}, (), "", ("Edema",)),
        ({"Normal": 1, "No Finding": 1}, ("No Finding",), "", ()),
        ({"Normal": 0}, (), "", ()),
    ],
)
def test_labels_that_imply_others_do_not_contradict_them(labels, findings, etiology, absent):
    study = labelled_study(ROW | {"labels": [{"name": name, "value": value} for name, value in labels.items()]})
    assert (study.findings, study.etiology, study.absent) == (findings, etiology, absent)


def test_study_of_a_label_only_dataset_keeps_its_labels_as_a_record():
    for etiology, absent in (("viral", ()), ("", ("Edema",))):
        study = Study(**{**STUDY.__dict__, "etiology": etiology, "absent": absent})
        back = labelled_study(record_row(label_record(study)))
        assert back == study
    assert label_record(STUDY).labels == {"Pneumonia": 1, "Bacterial Pneumonia": 0, "Viral Pneumonia": 1}


def test_report_of_a_label_only_record_is_derived_anew_each_time():
    row = record_row(label_record(STUDY))
    written = {texts(report_example(row, random.Random(seed)))[1] for seed in SEEDS}
    assert len(written) > 20
    assert {finding_of_report(text) for text in written} == {"pneumonia"}
    assert {etiology_of_report(text) for text in written} == {"viral"}
    impression = texts(report_example(row, random.Random(0), "impression"))[1]
    assert impression.startswith("IMPRESSION: ") and etiology_of_report(impression) == "viral"


def test_text_conversation_has_no_image():
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    example = text_example({"id": "t:1", "messages": messages}, random.Random(0))
    assert example == {"messages": messages, "task": "text", "id": "t:1", "image_codes": []}
