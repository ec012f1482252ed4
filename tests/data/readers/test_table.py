import json
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_cxr.data import SkipReport, StudyRecord, read_table, write_records

ROWS = [
    {"file": "007.png", "person": "007", "text": "FINDINGS: Clear.\nIMPRESSION: Normal.", "set": "valid", "sex": "F"},
    {"file": "b/2.png", "person": "8", "text": "IMPRESSION: Edema.", "set": "train", "sex": "M"},
]  # fmt: skip
COLUMNS = {"image": "file", "patient": "person", "report": "text", "split": "set", "sex": "sex"}


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        lines = [delimiter.join(rows[0])]
        lines += [delimiter.join(f'"{value}"' for value in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("007.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "metadata.jsonl"])
def test_row_of_every_format_becomes_a_record_by_the_column_map(folder, name):
    path = write(folder / name, ROWS)
    records = list(read_table(folder if name.startswith("metadata") else path, COLUMNS))
    assert records[0] == StudyRecord(
        id="007.png", patient="007", image=str(folder / "007.png"), source=folder.name, study="007.png",
        split="validation", sex="F", findings="Clear.", impression="Normal.",
    )  # fmt: skip
    assert [record.patient for record in records] == ["007", "8"]


@pytest.mark.parametrize(
    ("name", "split"), [("Training", "train"), ("testing", "test"), ("VAL", "validation"), ("fold 1", "fold 1")]
)
def test_splits_have_one_name(folder, name, split):
    path = write(folder / "t.csv", [ROWS[0] | {"set": name}])
    assert [record.split for record in read_table(path, COLUMNS)] == [split]


def test_patient_of_two_tables_in_a_folder_is_one_patient(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name, row in zip(("train", "validation"), ROWS):
        write(folder / f"{name}.csv", [row | {"set": name, "person": "007"}])
    tables = [read_table(f"{name}.csv", COLUMNS) for name in ("train", "validation")]
    with pytest.raises(ValueError, match=f"Patient '007' of '{folder.name}' is in the splits"):
        write_records(chain(*tables), "records.parquet")


def test_image_in_the_table_is_known_by_its_path_and_several_are_an_error(folder):
    images = [{"bytes": b"\x89PNG", "path": name} for name in ("007.png", "3.png", None)]
    path, report = write(folder / "t.parquet", [row | {"file": i} for row, i in zip(ROWS * 2, images)]), SkipReport()
    assert [record.id for record in read_table(path, COLUMNS, skip_report=report)] == ["007.png"]
    assert report.skipped == [("3.png", "no image file"), ("row 3", "no image")]
    path = write(folder / "t.jsonl", [ROWS[0] | {"file": ["007.png", "b/2.png"]}])
    with pytest.raises(ValueError, match="Row 1 of '.*t.jsonl' has a list of images, .*; expected a row for each"):
        list(read_table(path, COLUMNS))


def test_labels_are_read_from_columns_named_after_them(folder):
    rows = [
        {"file": "007.png", "Edema": "1.0", "Mass": "", "Fracture": "-1"},
        {"file": "b/2.png", "Edema": "0", "Mass": "nan", "Fracture": ""},
    ]
    records = read_table(write(folder / "t.csv", rows), {"image": "file"}, ["Edema", "Mass", "Fracture"])
    assert [record.labels for record in records] == [{"Edema": 1, "Fracture": -1}, {"Edema": 0}]


@pytest.mark.parametrize(
    ("found", "labels"),
    [
        ({"Edema": 1, "Mass": 0, "Fracture": -1.0, "Nodule": None}, {"Edema": 1, "Mass": 0, "Fracture": -1}),
        ({"NO_FINDING": 0, "bacterial pneumonia": 1}, {"No Finding": 0, "Bacterial Pneumonia": 1}),
        ('{"Edema": 1, "Mass": "0.0"}', {"Edema": 1, "Mass": 0}),
        (["Edema", " Mass"], {"Edema": 1, "Mass": 1}),
        ("Hernia|normal", {"Hernia": 1, "No Finding": 1}),
        (float("nan"), {}),
        ({"Edema": 2}, None),
        ("[Edema]", None),
        ([1, 0], None),
    ],
)
def test_labels_are_read_from_lists_texts_and_objects(folder, found, labels):
    report = SkipReport()
    path = write(folder / "t.jsonl", [{"file": "007.png", "text": "Clear.", "found": found}])
    columns = {"image": "file", "findings": "text", "labels": "found"}
    records = list(read_table(path, columns, skip_report=report))
    assert [record.labels for record in records] == ([] if labels is None else [labels])
    assert len(report.skipped) == (labels is None)


def test_missing_cells_of_parquet_are_empty(folder):
    columns = {"image": "file", "findings": "findings", "impression": "impression", "study_order": "order"}
    rows = [{"file": "007.png", "findings": "Clear.", "impression": float("nan"), "order": 1.0}]
    (record,) = read_table(write(folder / "t.parquet", rows), columns)
    assert (record.findings, record.impression, record.study_order) == ("Clear.", "", 1)


def test_unusable_rows_are_skipped_with_a_reason(folder):
    rows = [
        {"file": "007.png", "text": "Clear.", "sex": "Male", "age": "Adult"},
        {"file": "missing.png", "text": "Clear.", "sex": "O", "age": "unknown"},
        {"file": "", "text": "Clear.", "sex": "", "age": ""},
        {"file": "b/2.png", "text": "", "sex": "", "age": ""},
        {"file": "b/2.png", "text": "Clear.", "sex": "", "age": "60-69"},
        {"file": "b/2.png", "text": "Clear.", "sex": "", "age": "", "question": "Edema?", "answer": ""},
    ]
    rows = [{"question": "", "answer": ""} | row for row in rows]
    report = SkipReport()
    columns = {"image": "file", "findings": "text", "sex": "sex", "age_group": "age"}
    columns |= {name: name for name in ("question", "answer")}
    (record,) = read_table(write(folder / "t.csv", rows), columns, skip_report=report)
    assert (record.sex, record.age_group) == ("M", "adult")
    assert report.skipped == [
        ("missing.png", "no image file"),
        ("row 3", "no image"),
        ("b/2.png", "neither a report nor a label"),
        ("b/2.png", "an invalid label, sex, age group or study order"),
        ("b/2.png", "no answer"),
    ]
    without_files = list(read_table(folder / "t.csv", columns, images_needed=False))
    assert [(record.id, record.sex) for record in without_files] == [("007.png", "M"), ("missing.png", "")]


def test_columns_with_the_names_of_fields_need_no_map(folder):
    rows = [
        {"File_Name": "007.png", "patient_id": "7", "Report": "FINDINGS: Clear.", "split": "dev", "age": "60"},
        {"File_Name": "b/2.png", "patient_id": "", "Report": "FINDINGS: Clear.", "split": "dev", "age": "60"},
    ]
    report = SkipReport()
    (record,) = read_table(write(folder / "t.csv", rows), skip_report=report)
    assert (record.id, record.patient, record.findings, record.split) == ("007.png", "7", "Clear.", "validation")
    assert report.skipped == [("b/2.png", "no patient")]
    with pytest.raises(ValueError, match="lacks the columns `file`, `patient`, `report` or `labels`; it has"):
        list(read_table(write(folder / "t.csv", [{"pixels": "007.png"}])))


def test_wrong_column_maps_are_named(folder):
    path = write(folder / "t.csv", ROWS)
    with pytest.raises(ValueError, match=r"unknown fields \['picture'\]"):
        list(read_table(path, {"picture": "file"}))
    with pytest.raises(ValueError, match="needs the field 'image'"):
        list(read_table(path, {"patient": "person"}))
    with pytest.raises(ValueError, match=r"Row 1 of .* lacks the columns \['Edema', 'pixels'\]"):
        list(read_table(path, {"image": "pixels"}, ["Edema"]))
    with pytest.raises(FileNotFoundError, match="metadata.csv"):
        list(read_table(folder / "b", {"image": "file"}))
