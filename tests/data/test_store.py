from dataclasses import replace

import pytest
from datasets import Dataset
from PIL import Image

from transformers_cxr.data import (
    SkipReport,
    StudyRecord,
    assign_split,
    load_records,
    open_records,
    select_records,
    write_records,
)


@pytest.fixture
def load(tmp_path):
    return lambda path: load_records(path, cache_dir=tmp_path / "cache")


def as_rows(records):
    return Dataset.from_list([record.to_row() for record in records])


def test_records_are_read_as_they_were_written(tmp_path, make_record, load):
    records = [make_record(number, study_order=number, codes=[number] * 4) for number in range(3)]
    records.append(make_record(3, question="Edema?", answer="No.", question_type="label", split="test"))
    report = write_records(records, tmp_path / "records.parquet")
    rows = load(tmp_path / "records.parquet")
    assert [StudyRecord.from_row(row) for row in rows] == records
    assert (report.num_written, report.skipped) == (4, [])
    assert load(tmp_path)[:] == rows[:]
    without_codes = [replace(record, codes=[]) for record in records]
    assert open_records(tmp_path / "records.parquet") == open_records(tmp_path) == without_codes
    assert open_records(tmp_path, "test") == without_codes[3:]
    with pytest.raises(ValueError, match=r"split 'validation' in .*, got none; it has \['test', 'train'\]"):
        open_records(tmp_path, "validation")


def test_folder_of_images_is_opened_as_records(tmp_path):
    (tmp_path / "ct").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "ct/1.png")
    (record,) = open_records(tmp_path, "train")
    assert (record.id, record.image, record.source) == ("ct/1.png", str(tmp_path / "ct/1.png"), "ct")
    assert [StudyRecord.from_row(row) for row in load_records(tmp_path)] == [replace(record, split="")]


def test_codes_are_those_of_the_id_or_of_the_only_image_whose_path_ends_with_it(tmp_path, make_record, load):
    ids = ["files/p1/image-1.jpg", "a/2.png", "b/2.png", "image-3", "1.2.840.5"]
    codes = Dataset.from_dict({"id": ids, "codes": [[n] * 4 for n in range(5)]})
    found = {"image-1": 0, "image-1.dcm": 0, "p1/image-1.jpg": 0, "a/2.png": 1, "b/2": 2, "image-3": 3, "1.2.840.5": 4}
    # "2" is the name of two images.
    missing = ["2", "2.png", "p2/image-1.jpg", "x/image-3", "mage-3", "1.2.840"]
    records = [make_record(1, id=name) for name in [*found, *missing]]
    report = write_records(records, tmp_path / "records.parquet", codes)
    rows = load(tmp_path / "records.parquet")
    assert {row["id"]: row["codes"] for row in rows} == {name: [n] * 4 for name, n in found.items()}
    assert report.skipped == [(name, "no codes") for name in missing]


def test_unusable_records_are_skipped_with_a_reason(tmp_path, make_record, codes_of, load):
    records = [make_record(n) for n in (0, 1, 1, 6)] + [make_record(1, source="other")]
    records += [make_record(1, question=question, answer="No.") for question in ("Edema?", "Mass?", "Edema?")]
    report = SkipReport([("image-9", "no report file")])
    write_records(records, tmp_path / "r.parquet", codes_of([f"image-{n}" for n in range(5)]), skip_report=report)
    rows = [(row["source"], row["id"], row["question"]) for row in load(tmp_path / "r.parquet")]
    assert rows == [
        ("made", "image-0", ""),
        ("made", "image-1", ""),
        ("other", "image-1", ""),
        ("made", "image-1", "Edema?"),
        ("made", "image-1", "Mass?"),
    ]
    assert report.num_written == 5
    assert report.skipped == [
        ("image-9", "no report file"),
        ("image-1", "the id comes twice"),
        ("image-6", "no codes"),
        ("image-1", "the id comes twice"),
    ]


def test_failed_write_leaves_nothing(tmp_path, make_record, codes_of):
    (tmp_path / "mine.parquet").write_text("mine")
    with pytest.raises(FileExistsError):
        write_records([make_record(1)], tmp_path / "mine.parquet")
    with pytest.raises(ValueError, match="(?s)1  no codes.* ids such as 'image-1', and codes such as 'other': encode"):
        write_records([make_record(1)], tmp_path / "r.parquet", codes_of(["other"]))
    leak = [make_record(1), make_record(2, patient="patient-1", split="test")]
    with pytest.raises(ValueError, match="'patient-1' of 'made' is in the splits 'train' and 'test'"):
        write_records(leak, tmp_path / "r.parquet")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_patient_in_two_splits_of_two_files_is_an_error(tmp_path, make_record):
    for name, fields in {"a": {}, "b": {"split": "test", "source": "other"}, "c": {"split": "test"}}.items():
        write_records([make_record(1, id=name, **fields)], tmp_path / f"{name}.parquet")
        if name == "b":
            # The same pseudonym in two datasets is two patients.
            assert len(open_records(tmp_path)) == 2
    with pytest.raises(ValueError, match="'patient-1' of 'made' is in the splits"):
        open_records(tmp_path)


def test_split_depends_only_on_the_patient_and_the_seed(make_record):
    records = [make_record(n, patient=f"patient-{n // 2}", split="") for n in range(2000)]
    splits = {record.id: record.split for record in assign_split(records)}
    assert [splits[f"image-{n}"] for n in range(0, 2000, 2)] == [splits[f"image-{n}"] for n in range(1, 2000, 2)]
    assert {r.id: r.split for r in assign_split(records[::-1][:100])}.items() <= splits.items()
    assert {r.id: r.split for r in assign_split(records, seed=1)} != splits
    shares = {split: list(splits.values()).count(split) / 2000 for split in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.05)
    assert [r.split for r in assign_split([make_record(1, split="test")], test=0.0)] == ["test"]
    with pytest.raises(ValueError, match=r"shares in \[0, 1\] .*, got 10 \(validation\) and 20 \(test\)"):
        list(assign_split(records, validation=10, test=20))


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"views": ["AP", "PA"]}, [0, 1, 3, 4, 5]),
        ({"first_study": True}, [0, 2, 3, 4, 5]),
        # A report that is derived from labels has an impression.
        ({"sections": "impression"}, [0, 1, 2, 3, 5]),
        ({"splits": ["train"], "views": ["AP", "PA"], "first_study": True, "sections": "impression"}, [0, 5]),
    ],
)
def test_records_are_selected_by_split_view_study_and_sections(make_record, conditions, expected):
    records = [
        make_record(number, **{"study_order": 1, **fields})
        for number, fields in enumerate(
            [
                {},
                {"study_order": 2},
                {"view": "LATERAL"},
                {"split": "test"},
                {"view": "AP", "impression": ""},
                {"findings": "", "impression": ""},
            ]
        )
    ]
    assert select_records(as_rows(records), **conditions)["id"][:] == [f"image-{number}" for number in expected]


def test_selection_says_what_removes_how_many(make_record, caplog):
    rows = as_rows([make_record(n, view="PA" if n else "") for n in range(3)])
    select_records(rows, splits=["train"])
    assert caplog.messages == []
    select_records(rows, splits=["train"], views=["AP", "PA"])
    assert caplog.messages == ["2 rows of 3 are left; removed by condition: {'view': 1}."]
    message = r"No row of 3 is left; .*\{'view': 1, 'study_order': 2\}.* 'study_order': \{0\}"
    with pytest.raises(ValueError, match=message):
        select_records(rows, views=["PA"], first_study=True)
    with pytest.raises(
        ValueError, match="Expected the sections 'findings.impression' or 'impression', got 'findings'"
    ):
        select_records(rows, sections="findings")
    with pytest.raises(ValueError, match=r"The rows have \{'split': \{''\}\}. `assign_split` gives"):
        select_records(as_rows([make_record(0, split="")]), splits=["train"])


def test_missing_and_unreadable_data_are_named(tmp_path):
    for load in (load_records, open_records):
        with pytest.raises(FileNotFoundError, match=f"'{tmp_path}'"):
            load(tmp_path)
        with pytest.raises(FileNotFoundError, match="nowhere.parquet"):
            load(tmp_path / "nowhere.parquet")
    table = tmp_path / "table.csv"
    table.write_text("id,image\n1,1.png\n")
    with pytest.raises(ValueError, match="table.csv' cannot be read as Parquet"):
        load_records(table)
    with pytest.raises(ValueError, match="Expected a Parquet file of `write_records` or a folder of images"):
        open_records(table)
