import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_cxr.data import SkipReport, StudyRecord, check_patients
from transformers_cxr.data.readers.table import read_table, table_rows

ROWS = [
    {
        "file": "007.png",
        "person": "007",
        "text": "FINDINGS: Clear.\nIMPRESSION: Normal.",
        "set": "valid",
        "sex": "female",
    },
    {"file": "b/2.png", "person": "8", "text": "IMPRESSION: Edema.", "set": "train", "sex": "M"},
]
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


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet"])
def test_row_of_every_format_becomes_a_record_by_the_column_map(folder, name):
    records = list(read_table(write(folder / name, ROWS), COLUMNS))
    assert records[0] == StudyRecord(
        id="007.png",
        patient="007",
        study="007.png",
        image=str(folder / "007.png"),
        view="",
        findings="Clear.",
        impression="Normal.",
        labels={},
        split="validation",
        source=folder.name,
        sex="F",
    )
    assert [record.patient for record in records] == ["007", "8"]


@pytest.mark.parametrize(
    ("name", "split"), [("Training", "train"), ("testing", "test"), ("VAL", "validation"), ("fold 1", "fold 1")]
)
def test_splits_have_one_name(folder, name, split):
    path = write(folder / "t.csv", [ROWS[0] | {"set": name}])
    assert [record.split for record in read_table(path, COLUMNS)] == [split]


def test_compressed_table_is_read(folder):
    content = write(folder / "t.csv", ROWS).read_bytes()
    with gzip.open(folder / "t.csv.gz", "wb") as file:
        file.write(content)
    assert list(table_rows(folder / "t.csv.gz")) == ROWS


def test_patient_of_two_tables_in_a_folder_is_one_patient(folder, monkeypatch):
    monkeypatch.chdir(write(folder / "train.csv", ROWS[:1]).parent)
    write(folder / "validation.csv", ROWS[:1])
    sets = {
        name: list(read_table(f"{name}.csv", COLUMNS)) for name in ("train", "validation")
    }
    with pytest.raises(ValueError, match=f"such as '007' of '{folder.name}'"):
        check_patients(**sets)


def test_an_image_in_the_table_is_known_by_its_path_and_several_are_an_error(folder):
    images = [{"bytes": b"\x89PNG", "path": name} for name in ("007.png", "3.png", None)]
    path, report = write(folder / "t.parquet", [row | {"file": i} for row, i in zip(ROWS * 2, images)]), SkipReport()
    assert [record.id for record in read_table(path, COLUMNS, skip_report=report)] == ["007.png"]
    assert report.skipped == [("3.png", "no image file"), ("row 3", "no image")]
    path = write(folder / "t.jsonl", [ROWS[0] | {"file": ["007.png", "b/2.png"]}])
    with pytest.raises(
        ValueError, match="Row 1 of '.*t.jsonl' has a list of images, .*; expected a row for each image"
    ):
        list(read_table(path, COLUMNS))


def test_imagefolder_is_read_by_its_metadata_and_named_after_its_folder(folder):
    write(folder / "metadata.jsonl", ROWS)
    records = list(read_table(folder, COLUMNS))
    assert [record.source for record in records] == [folder.name] * 2
    assert [record.image for record in records] == [str(folder / "007.png"), str(folder / "b/2.png")]


def test_labels_come_from_columns_and_from_a_list(folder):
    rows = [
        {"file": "007.png", "Edema": "1.0", "Mass": "", "Fracture": "-1", "found": "Hernia|Nodule"},
        {"file": "b/2.png", "Edema": "0", "Mass": "nan", "Fracture": "", "found": ""},
    ]
    path = write(folder / "t.csv", rows)
    by_column, other = read_table(path, {"image": "file"}, ["Edema", "Mass", "Fracture"])
    assert by_column.labels == {"Edema": 1, "Fracture": -1}
    assert other.labels == {"Edema": 0}
    (listed,) = read_table(path, {"image": "file", "labels": "found"})
    assert listed.labels == {"Hernia": 1, "Nodule": 1}
    (of_list,) = read_table(
        write(folder / "t.jsonl", [{"file": "007.png", "found": ["Hernia"]}]), {"image": "file", "labels": "found"}
    )
    assert of_list.labels == {"Hernia": 1}


@pytest.mark.parametrize(
    ("found", "labels"),
    [
        ({"Edema": 1, "Mass": 0, "Fracture": -1.0, "Nodule": None}, {"Edema": 1, "Mass": 0, "Fracture": -1}),
        ('{"Edema": 1, "Mass": "0.0"}', {"Edema": 1, "Mass": 0}),
        (["Edema", "nan"], {"Edema": 1}),
        ("['pneumonia', ' pleural effusion']", {"Pneumonia": 1, "pleural effusion": 1}),
        ('["Edema"]', {"Edema": 1}),
        ("[Edema]", None),
        ("normal", {"No Finding": 1}),
        ({"NO_FINDING": 0, "Normal ": 0, "bacterial pneumonia": 1}, {"No Finding": 0, "Bacterial Pneumonia": 1}),
        (float("nan"), {}),
        ("nan", {}),
        ({"Edema": 0.9}, None),
        ({"Edema": 2}, None),
        ({"Edema": 300}, None),
        ({"Edema": float("inf")}, None),
        ({"Edema": [1]}, None),
        ({"Edema": "yes"}, None),
        ([1, 0], None),
        ("1", None),
        ("0|1", None),
        ({"Edema": True, "Mass": "FALSE"}, {"Edema": 1, "Mass": 0}),
        (1, None),
    ],
)
def test_labels_are_present_absent_uncertain_or_counted_as_neither(folder, found, labels):
    report = SkipReport()
    path = write(folder / "t.jsonl", [{"file": "007.png", "text": "Clear.", "found": found}])
    columns = {"image": "file", "findings": "text", "labels": "found"}
    records = list(read_table(path, columns, skip_report=report))
    assert [record.labels for record in records] == ([] if labels is None else [labels])
    assert report.counts == ({"a label without a name, or other than 1, 0 and -1": 1} if labels is None else {})


def test_missing_cells_and_whole_numbers_are_read_as_pandas_writes_them(folder):
    names = {
        "file": "image",
        "findings": "findings",
        "impression": "impression",
        "order": "study_order",
        "who": "patient",
    }
    rows = [{"file": "007.png", "findings": "Clear.", "impression": float("nan"), "order": 1.0, "who": 10000032.0}]
    (record,) = read_table(write(folder / "t.parquet", rows), {field: name for name, field in names.items()})
    assert (record.findings, record.impression, record.study_order) == ("Clear.", "", 1)
    # A table without a missing one has "10000032" for the same patient.
    assert (record.patient, record.study) == ("10000032", "007.png")


def test_what_cannot_be_used_is_counted_under_its_reason_and_listed(folder):
    rows = [
        {"file": "007.png", "text": "Clear.", "order": "1"},
        {"file": "007.png", "text": "Again.", "order": ""},
        {"file": "missing.png", "text": "Clear.", "order": ""},
        {"file": "", "text": "Clear.", "order": ""},
        {"file": "b/2.png", "text": "", "order": ""},
        {"file": "c.png", "text": "Clear.", "order": "first"},
    ]
    report = SkipReport()
    columns = {"image": "file", "findings": "text", "study_order": "order"}
    (record,) = read_table(write(folder / "t.csv", rows), columns, skip_report=report)
    assert record.study_order == 1
    assert report.used == 1
    assert report.skipped == [
        ("007.png", "the id comes twice"),
        ("missing.png", "no image file"),
        ("row 4", "no image"),
        ("b/2.png", "neither a report nor a label"),
        ("c.png", "a study's order that is no whole number"),
    ]
    without_files = list(read_table(folder / "t.csv", columns, images_needed=False))
    assert [record.id for record in without_files] == ["007.png", "missing.png"]


@pytest.mark.parametrize(
    ("sex", "age_group", "read"),
    [
        ("Male", "Adult", ("M", "adult")),
        ("f", "child", ("F", "child")),
        ("O", "", ("", "")),
        ("unknown", "Unknown", ("", "")),
        ("X", "adult", None),
        ("M", "60-69", None),
    ],
)
def test_sex_and_age_group_are_named_as_records_name_them_or_counted(folder, sex, age_group, read):
    report = SkipReport()
    path = write(folder / "t.csv", [{"file": "007.png", "text": "Clear.", "sex": sex, "age": age_group}])
    columns = {"image": "file", "findings": "text", "sex": "sex", "age_group": "age"}
    records = list(read_table(path, columns, skip_report=report))
    assert [(record.sex, record.age_group) for record in records] == ([read] if read else [])
    assert report.counts == ({} if read else {"a sex or an age group of another name": 1})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("latin.csv", "file,text\n1.png,Ödem\n".encode("latin-1"), "not UTF-8 text"),
        ("utf16.tsv", "file\ttext\n".encode("utf-16"), "not UTF-8 text"),
        ("latin.jsonl", '{"text": "Ödem"}\n'.encode("latin-1"), "not UTF-8 text"),
        ("quote.csv", b'file,text\n1.png,"' + b"Clear. " * 20_000, "field larger than field limit"),
        ("short.csv.gz", gzip.compress(b"file,text\n")[:-4], "ended before"),
        ("plain.csv.gz", b"file,text\n", "Not a gzipped file"),
        ("broken.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"'.*{name}' .*{reason}"):
        list(table_rows(tmp_path / name))


def test_text_that_is_cut_at_a_comma_is_named(folder):
    (folder / "t.csv").write_text("file,text\n007.png,Clear.\nb/2.png,Small effusion, no edema.\n")
    with pytest.raises(ValueError, match="Row 2 of '.*t.csv' has more cells .* contains ',' must be in quotes"):
        list(read_table(folder / "t.csv", {"image": "file", "findings": "text"}))
    (folder / "t.csv").write_text("file,text\n007.png,Clear.,,\n")
    assert list(table_rows(folder / "t.csv")) == [{"file": "007.png", "text": "Clear."}]


def test_mistakes_in_the_map_and_the_file_are_named(folder):
    path = write(folder / "t.csv", ROWS)
    with pytest.raises(ValueError, match=r"unknown fields \['picture'\]"):
        list(read_table(path, {"picture": "file"}))
    with pytest.raises(ValueError, match="needs the field 'image'"):
        list(read_table(path, {"patient": "person"}))
    with pytest.raises(ValueError, match=r"Row 1 of .* lacks the columns \['Edema', 'pixels'\]"):
        list(read_table(path, {"image": "pixels"}, ["Edema"]))
    with pytest.raises(FileNotFoundError, match="metadata.csv"):
        list(read_table(folder / "b", {"image": "file"}))
    (folder / "t.jsonl").write_text('{"file": "007.png"}\n{"file": \n')
    with pytest.raises(ValueError, match="'.*t.jsonl', line 2 is not JSON"):
        list(table_rows(folder / "t.jsonl"))
    with pytest.raises(ValueError, match="Expected a list of objects"):
        list(table_rows(write(folder / "t.json", {"rows": []})))
    (folder / "t.xlsx").touch()
    with pytest.raises(ValueError, match="Expected a file .csv"):
        list(table_rows(folder / "t.xlsx"))
