import json
from dataclasses import replace

import pytest

from transformers_cxr.data import SkipReport, StudyRecord, read_vqa

PAIR = {"question": "Is it normal?", "answer": "Yes."}


def make_record(number, study):
    return StudyRecord(
        id=f"image-{number}", patient="p1", image=f"{number}.png", source="mimic-cxr", study=study, split="test",
        labels={"Edema": 0},
    )  # fmt: skip


@pytest.fixture
def read(tmp_path):
    """Write rows to a file and return the records, and the rows that were skipped."""

    def write_and_read(rows, **options):
        (tmp_path / "v.json").write_text(json.dumps(rows))
        report = SkipReport()
        records = list(read_vqa(tmp_path / "v.json", skip_report=report, **options))
        return records, report.skipped

    return write_and_read


def test_questions_of_vqa_rad_are_about_their_image(read, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").touch()
    row = {"image_name": "1.jpg", "image_organ": "CHEST", "question_type": "PRES", **PAIR}
    rows = [
        row,
        # Some of its cells end in a space.
        row | {"image_organ": "CHEST ", "question": "How many?", "answer": 0},
        row | {"image_organ": "HEAD"},
        row | {"image_name": "2.jpg"},
        row | {"answer": ""},
    ]
    records, skipped = read(rows, images_dir=tmp_path / "images", where={"image_organ": "CHEST"}, split="train")
    assert [(record.question, record.answer) for record in records] == [("Is it normal?", "Yes."), ("How many?", "0")]
    first = records[0]
    assert (first.id, first.patient, first.split, first.source) == ("1.jpg", "1.jpg", "train", tmp_path.name)
    assert (first.image, first.question_type) == (str(tmp_path / "images/1.jpg"), "PRES")
    assert skipped == [
        ("v.json:3", "left out by `where`"),
        ("v.json:4", "no image file"),
        ("v.json:5", "no question or no answer"),
    ]


def test_questions_of_slake_are_chosen_by_language_modality_and_place(read):
    row = {"img_name": "xmlab1/source.jpg", "q_lang": "en", "location": "Lung", "modality": "X-Ray", **PAIR}
    row["content_type"] = "Abnormality"
    rows = [row, row | {"location": "Chest"}, row | {"modality": "CT"}, row | {"q_lang": "zh"}]
    where = {"q_lang": "en", "modality": "X-Ray", "location": ["Lung", "Chest"]}
    records, _ = read(rows, where=where, source="slake", split="Validate", images_needed=False)
    assert [(record.id, record.source, record.split, record.question_type) for record in records] == [
        ("xmlab1/source.jpg", "slake", "validation", "Abnormality")
    ] * 2


def test_questions_about_a_study_are_asked_about_each_of_its_images(read):
    pairs = [{"question": "Edema?", "answer": "No."}, {"question": "Mass?", "answer": "No."}]
    rows = [
        {"study_id": 500, **PAIR},
        {"study": "501", "questions": pairs},
        {"study": "501", "questions": []},
        {"study": "501", "questions": None, **PAIR},
        {"study": "999", **PAIR},
    ]
    records, skipped = read(rows, records=[make_record(1, "500"), make_record(2, "500"), make_record(3, "501")])
    assert [(record.id, record.question) for record in records] == [
        ("image-1", "Is it normal?"),
        ("image-2", "Is it normal?"),
        ("image-3", "Edema?"),
        ("image-3", "Mass?"),
        ("image-3", "Is it normal?"),
    ]
    assert records[0] == replace(make_record(1, "500"), **PAIR)
    assert skipped == [("v.json:5", "no record of the study")]


def test_study_of_two_datasets_needs_its_source(read):
    known = [make_record(1, "7"), replace(make_record(2, "7"), source="openi"), make_record(3, "8")]
    rows = [{"source": "openi", "study": "7"}, {"source": "openi", "study": "8"}, {"study": "8"}, {"study": "7"}]
    records, skipped = read([row | PAIR for row in rows], records=known)
    assert [record.id for record in records] == ["image-2", "image-3"]
    assert skipped == [("v.json:2", "no record of the study"), ("v.json:4", "a study of two sources")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "names neither an image .* nor a study"),
        ({"image": "1.png", "modality": None}, r"lacks the columns \['organ'\]"),
    ],
)
def test_rows_without_the_expected_columns_are_errors(read, row, message):
    with pytest.raises(ValueError, match=message):
        read([row | PAIR], where={"organ": "CHEST"} if "modality" in row else None)
