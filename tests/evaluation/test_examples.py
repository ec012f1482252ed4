import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from transformers_cxr.data.records import StudyRecord
from transformers_cxr.evaluation.examples import (
    checked,
    drawings_of,
    label_derived_drawings,
    label_derived_questions,
    label_derived_reports,
    read_questions,
    read_reports,
    sample,
)


def study(name, findings=("No Finding",), source="kermany"):
    return StudyRecord(
        id=name, patient=f"p-{name}", image=name, source=source, view="AP", age_group="child", labels=dict.fromkeys(findings, 1)
    )


def record(number, **fields):
    base = {
        "id": number,
        "patient": "p",
        "image": f"{number}.png",
        "findings": "Clear lungs.",
        "impression": "Normal.",
    }
    return base | fields


def write(tmp_path, records):
    path = tmp_path / "reports.json"
    path.write_text(json.dumps(records))
    return path


def test_what_a_study_is_asked_does_not_depend_on_the_studies_beside_it():
    studies = [study("a"), study("b", ("Pneumonia",)), study("c", ())]
    for make in (label_derived_questions, label_derived_drawings, lambda s: label_derived_reports(s, "Report.")):
        both, alone = make(studies), make(studies[1:2])
        assert [example for example in both if example.id.startswith("b")] == alone
    assert [e.id for e in label_derived_reports(studies, "Report.")] == ["a", "b"]
    assert {e.id.partition("#")[0] for e in label_derived_questions(studies)} == {"a", "b", "c"}
    assert label_derived_drawings(studies)[1].kind == "Pneumonia"


def test_reports_are_read_from_json_and_parquet(tmp_path):
    records = [record(1, source="site A"), record(2, findings="", patient=7), record(3, impression=None)]
    examples = read_reports(write(tmp_path, records), "Report.")
    assert [e.reference for e in examples] == [
        "FINDINGS: Clear lungs.\nIMPRESSION: Normal.",
        "IMPRESSION: Normal.",
        "FINDINGS: Clear lungs.",
    ]
    assert (examples[0].id, examples[0].source, examples[1].patient) == ("1", "site A", "7")
    assert examples[0].image_path == tmp_path / "1.png" and examples[0].prompt == "Report."
    records = [{**record(i), "source": "site A"} for i in range(2)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), tmp_path / "reports.parquet")
    assert [e.id for e in read_reports(tmp_path / "reports.parquet", "Report.")] == ["0", "1"]
    drawn = drawings_of(examples)
    assert drawn[0].prompt == examples[0].reference and drawn[0].reference == ""


def test_questions_are_read_with_their_types(tmp_path):
    base = {"patient": "p", "image": "x.png", "question": "Is there edema?", "answer": "No."}
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([base | {"id": "1", "type": "presence"}, base | {"id": "2"}]))
    examples = read_questions(path)
    assert [(e.prompt, e.reference, e.kind) for e in examples] == [
        ("Is there edema?", "No.", "presence"),
        ("Is there edema?", "No.", ""),
    ]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "There is no example"),
        ([record(1), record(1)], "more than once, such as '1'"),
        ([record(1, findings=" ", impression="")], "Record '1' .* neither findings nor an impression"),
        ([{"id": 1, "patient": "p", "image": "x.png"}], r"Record 1 .* lacks \['findings', 'impression'\]"),
        ({"1": {}}, "Expected a list of records"),
    ],
)
def test_references_that_cannot_be_used_are_refused(tmp_path, records, message):
    with pytest.raises(ValueError, match=message):
        read_reports(write(tmp_path, records), "Report.")


def test_files_of_another_kind_and_missing_ones_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="reports.json"):
        read_reports(tmp_path / "reports.json", "Report.")
    (tmp_path / "reports.csv").write_text("id")
    with pytest.raises(ValueError, match=r"\.json or \.parquet"):
        read_reports(tmp_path / "reports.csv", "Report.")


def test_a_smaller_sample_is_the_beginning_of_a_larger_one():
    examples = label_derived_reports([study(str(i)) for i in range(50)], "Report.")
    assert sample(examples, 8) == sample(examples, None)[:8] != examples[:8]
    assert sample(examples, 8, seed=1) != sample(examples, 8)
    assert checked(examples, "them") is examples


def test_a_broken_json_file_is_named(tmp_path):
    (tmp_path / "reports.json").write_text("[{")
    with pytest.raises(ValueError, match="reports.json' is no JSON file"):
        read_reports(tmp_path / "reports.json", "Write a report.")
