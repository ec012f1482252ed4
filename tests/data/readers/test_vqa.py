import json
from dataclasses import replace

import pytest

from transformers_cxr.data.readers.vqa import parse_question_answers, read_vqa
from transformers_cxr.data.records import SkipReport, StudyRecord


def make_record(number, study):
    return StudyRecord(
        id=f"image-{number}", patient="p1", study=study, image=f"{number}.png", view="PA", findings="", impression="Normal.",
        labels={"Edema": 0}, split="test", source="mimic-cxr", study_order=1,
    )  # fmt: skip


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_questions_of_vqa_rad_are_about_their_image(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/synpic1.jpg").touch()
    rows = [
        {
            "qid": 1,
            "image_name": "synpic1.jpg",
            "image_organ": "CHEST",
            "answer": "Yes",
            "question": "Is there a mass?",
        },
        # Some of its cells end in a space.
        {"qid": 2, "image_name": "synpic1.jpg", "image_organ": "CHEST ", "answer": 0, "question": "How many?"},
        {"qid": 3, "image_name": "synpic1.jpg", "image_organ": "HEAD", "answer": "No", "question": "Is it dense?"},
        {"qid": 4, "image_name": "synpic2.jpg", "image_organ": "CHEST", "answer": "No", "question": "Is it dense?"},
        {"qid": 5, "image_name": "synpic1.jpg", "image_organ": "CHEST", "answer": "", "question": "Is it dense?"},
    ]
    report = SkipReport()
    path = write(tmp_path / "vqa_rad.json", rows)
    found = list(
        read_vqa(path, tmp_path / "images", where={"image_organ": "CHEST"}, split="train", skip_report=report)
    )
    assert [(record.question, record.answer) for record in found] == [("Is there a mass?", "Yes"), ("How many?", "0")]
    first = found[0]
    assert (first.id, first.split, first.source) == ("synpic1.jpg", "train", tmp_path.name)
    assert first.image == str(tmp_path / "images/synpic1.jpg")
    assert report.used == 2
    assert report.skipped == [
        ("vqa_rad.json:3", "left out by `where`"),
        ("vqa_rad.json:4", "no image file"),
        ("vqa_rad.json:5", "no question or no answer"),
    ]


def test_questions_of_slake_are_chosen_by_language_modality_and_place(tmp_path):
    row = {"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Is it?", "answer": "No", "q_lang": "en"}
    rows = [
        row | {"location": "Lung", "modality": "X-Ray"},
        row | {"location": "Chest", "modality": "X-Ray"},
        row | {"location": "Chest", "modality": "CT"},
        row | {"location": "Lung", "modality": "X-Ray", "q_lang": "zh"},
    ]
    where = {"q_lang": "en", "modality": "X-Ray", "location": ["Lung", "Chest"]}
    path = write(tmp_path / "validate.json", rows)
    found = list(read_vqa(path, where=where, source="slake", split="Validate", images_needed=False))
    assert [record.id for record in found] == ["xmlab1/source.jpg"] * 2
    assert found[0].split == "validation"


def test_questions_about_a_study_are_about_each_of_its_images(tmp_path):
    records = [make_record(1, "500"), make_record(2, "500"), make_record(3, "501")]
    rows = [
        {"subject_id": 1, "study_id": 500, "question": "Is it normal?", "answer": "Yes."},
        {
            "study": "501",
            "questions": [{"question": "Edema?", "answer": "No."}, {"question": "Mass?", "answer": "No."}],
        },
        {"study": "501", "questions": []},
        {"study": "501", "questions": None, "question": "Cyst?", "answer": "No."},
        {"study": "999", "question": "Is it normal?", "answer": "Yes."},
    ]
    report = SkipReport()
    found = list(read_vqa(write(tmp_path / "v.json", rows), records=records, skip_report=report))
    assert [(record.id, record.question) for record in found] == [
        ("image-1", "Is it normal?"),
        ("image-2", "Is it normal?"),
        ("image-3", "Edema?"),
        ("image-3", "Mass?"),
        ("image-3", "Cyst?"),
    ]
    assert (found[0].patient, found[0].split, found[0].labels) == ("p1", "test", {"Edema": 0})
    assert report.skipped == [("v.json:5", "no record of the study")]


def test_studies_of_two_sources_are_told_apart_by_the_source_or_counted(tmp_path):
    records = [make_record(1, "7"), replace(make_record(2, "7"), source="openi"), make_record(3, "8")]
    question = {"question": "Is it normal?", "answer": "Yes."}
    rows = [{"source": "openi", "study": "7"}, {"source": "openi", "study": "8"}, {"study": "8"}, {"study": "7"}]
    report = SkipReport()
    path = write(tmp_path / "v.json", [row | question for row in rows])
    assert [record.id for record in read_vqa(path, records=records, skip_report=report)] == ["image-2", "image-3"]
    assert report.skipped == [("v.json:2", "no record of the study"), ("v.json:4", "a study of two sources")]


def test_missing_cells_name_no_image_and_no_study(tmp_path):
    rows = [{"image": 7, "study": None}, {"image": None, "study": 8.0}, {"image": None, "study": ""}]
    path = write(tmp_path / "v.json", [row | {"question": "Is it?", "answer": "No."} for row in rows])
    report = SkipReport()
    found = list(read_vqa(path, records=[make_record(1, "8")], skip_report=report, images_needed=False))
    assert [record.id for record in found] == ["7", "image-1"]
    assert report.skipped == [("v.json:3", "no image and no study")]


def test_an_image_in_the_table_is_known_by_its_path_and_several_are_an_error(tmp_path):
    pair = {"question": "Is it?", "answer": "No."}
    rows = [{"image": {"bytes": "ÿØÿ", "path": "synpic1.jpg"}}, {"image": {"bytes": "ÿØÿ", "path": None}}]
    path, report = write(tmp_path / "v.json", [row | pair for row in rows]), SkipReport()
    assert [record.id for record in read_vqa(path, skip_report=report, images_needed=False)] == ["synpic1.jpg"]
    assert report.skipped == [("v.json:2", "no image and no study")]
    rows = [{"image": ["1.png", "2.png"], "study": "8"}, {"image": ["1.png", "2.png"], "study": ""}]
    questions = read_vqa(write(path, [row | pair for row in rows]), records=[make_record(1, "8")])
    assert next(questions).id == "image-1"
    with pytest.raises(ValueError, match=r"Row 2 of '.*v.json' has a list of images, \['1.png', '2.png'\]"):
        next(questions)


def test_rows_without_an_image_or_what_is_asked_for_are_errors(tmp_path):
    path = write(tmp_path / "v.json", [{"question": "Is it?", "answer": "No."}])
    with pytest.raises(ValueError, match="names neither an image .* nor a study"):
        list(read_vqa(path))
    with pytest.raises(ValueError, match=r"lacks the columns \['modality'\]"):
        list(read_vqa(path, where={"modality": "X-Ray"}))


def test_json_of_a_language_model_is_read_with_text_around_it():
    text = 'Here you are:\n[{"question": " Is there edema? ", "answer": "No."}]\nAnything else?'
    assert parse_question_answers(text) == [{"question": "Is there edema?", "answer": "No."}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Is there edema? No.", "no JSON list"),
        ('[{"question": "Is there edema?", "answer": "No."', "no valid JSON"),
        ('[{"question": "Is there edema?"}]', "not an object of 'question' and 'answer'"),
        ('[{"question": "Is there edema?", "answer": "No.", "question": "A mass?", "answer": "No."}]', "comes twice"),
        ('["Is there edema?"]', "not an object of 'question' and 'answer'"),
        ('[{"question": "Is there edema?", "answer": false}]', "not a text"),
        ('[{"question": "Is there edema?", "answer": " "}]', "not a text"),
    ],
)
def test_what_is_no_list_of_questions_and_answers_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_question_answers(text)
