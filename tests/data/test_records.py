import json

import pytest

from transformers_cxr.data import SkipReport, StudyRecord


def test_record_is_the_same_after_a_row(make_record):
    record = make_record(1, question="Edema?", answer="No.", labels={"Edema": 0, "Mass": -1}, codes=[1, 2])
    assert StudyRecord.from_row(record.to_row() | {"age": 61}) == record


@pytest.mark.parametrize(
    ("labels", "present", "etiology", "absent"),
    [
        ({"Edema": 1, "Mass": 0, "Fracture": -1}, ("Edema",), "", ("Mass",)),
        ({"Edema": 1, "Pneumonia": 0, "Viral Pneumonia": 1}, ("Edema", "Pneumonia"), "viral", ()),
        ({"Bacterial Pneumonia": 1, "Viral Pneumonia": 1}, ("Pneumonia",), "", ()),
        ({"No Finding": 0, "Edema": 0}, (), "", ("Edema",)),
        ({"No Finding": 1}, ("No Finding",), "", ()),
    ],
)
def test_labels_imply_others_without_contradicting_them(make_record, labels, present, etiology, absent):
    record = make_record(1, labels=labels)
    assert (record.present_labels, record.etiology, record.absent_labels) == (present, etiology, absent)
    assert record.is_normal == ("No Finding" in present)


def test_skip_report_counts_reasons_and_is_written_as_json_lines(tmp_path):
    report = SkipReport([("a", "no image file"), ("b", "no image file")], num_written=2)
    report.skip("c", "no split")
    assert str(report) == "2 written, 3 skipped\n  2  no image file\n  1  no split"
    report.write(tmp_path / "skipped.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert lines[2] == {"id": "c", "reason": "no split"}
