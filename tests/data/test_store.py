from dataclasses import replace

import pytest
from datasets import Dataset
from PIL import Image

from transformers_cxr.data import (
    SkipReport,
    StudyRecord,
    assign_split,
    check_patients,
    load_records,
    open_records,
    select_records,
    write_records,
)


@pytest.fixture
def load(tmp_path):
    return lambda path: load_records(path, cache_dir=tmp_path / "cache")


@pytest.fixture(scope="session")
def as_rows():
    return lambda records: Dataset.from_list([record.to_row() for record in records])


def test_records_are_read_as_they_were_written(tmp_path, make_record, load):
    records = [make_record(number, study_order=number, sex="F", age_group="adult") for number in range(3)]
    records.append(make_record(3, question="Edema?", answer="No.", question_type="label"))
    report = write_records(records, tmp_path / "records.parquet")
    rows = load(tmp_path / "records.parquet")
    assert [StudyRecord.from_row(row) for row in rows] == records
    assert (report.used, report.skipped) == (4, [])
    assert load(tmp_path)[:] == rows[:]
    assert open_records(tmp_path / "records.parquet") == open_records(tmp_path) == records


def test_records_keep_their_own_codes(tmp_path, make_record, load):
    records = [make_record(number, codes=[number] * 4) for number in range(2)]
    write_records(records, tmp_path / "records.parquet")
    assert load(tmp_path / "records.parquet")["codes"][:] == [[0] * 4, [1] * 4]
    assert open_records(tmp_path / "records.parquet") == [replace(record, codes=[]) for record in records]


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


def test_unusable_records_are_skipped_with_a_reason(tmp_path, make_record, codes_of):
    codes = codes_of([f"image-{n}" for n in range(5)])
    records = [make_record(n) for n in (0, 1, 1, 6)]
    records += [make_record(2, findings="See <image>."), make_record(3, impression="<|cxr_0001|>")]
    report = SkipReport(used=6, skipped=[("image-9", "no report file")])
    write_records(records, tmp_path / "r.parquet", codes, skip_report=report)
    assert report.used == 2
    assert report.skipped == [
        ("image-9", "no report file"),
        ("image-1", "the id comes twice"),
        ("image-6", "no codes"),
        ("image-2", "a text contains an image token"),
        ("image-3", "a text contains an image token"),
    ]


def test_all_questions_about_an_image_are_written_once(tmp_path, make_record, load):
    questions = [make_record(1, question=question, answer="No.") for question in ("Edema?", "Mass?", "Edema?")]
    report = write_records(questions, tmp_path / "q.parquet")
    assert load(tmp_path / "q.parquet")["question"][:] == ["Edema?", "Mass?"]
    assert report.skipped == [("image-1", "the id comes twice")]


def test_failed_write_leaves_nothing(tmp_path, make_record, codes_of):
    message = "at least one record .*, got none.*1 no codes.* ids such as 'image-1', and codes such as 'other': encode"
    with pytest.raises(ValueError, match=message):
        write_records([make_record(1)], tmp_path / "r.parquet", codes_of(["other"]))
    leak = [make_record(1), make_record(2, patient="patient-1", split="test")]
    with pytest.raises(ValueError, match="'patient-1' of 'made' is in the splits 'train' and 'test'"):
        write_records(leak, tmp_path / "r.parquet")
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_not_overwritten(tmp_path, make_record):
    (tmp_path / "r.parquet").write_text("mine")
    with pytest.raises(FileExistsError):
        write_records([make_record(1)], tmp_path / "r.parquet")
    assert (tmp_path / "r.parquet").read_text() == "mine"


def test_same_pseudonym_in_two_datasets_is_two_patients(tmp_path, make_record):
    records = [make_record(1), make_record(2, patient="patient-1", split="test", source="other")]
    assert write_records(records, tmp_path / "r.parquet").used == 2


def test_records_of_one_split_are_opened_without_their_codes(tmp_path, make_record, codes_of):
    records = [make_record(number, split="train" if number else "test") for number in range(3)]
    codes = codes_of([record.id for record in records])
    write_records(records, tmp_path / "records.parquet", codes)
    assert open_records(tmp_path / "records.parquet", "train") == records[1:]
    with pytest.raises(ValueError, match=r"split 'validation' in .*, got none; it has \['test', 'train'\]"):
        open_records(tmp_path / "records.parquet", "validation")


def test_folder_of_images_is_opened_as_records(tmp_path):
    (tmp_path / "ct").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "ct/1.png")
    (record,) = open_records(tmp_path, "train")
    assert (record.id, record.image, record.source) == ("ct/1.png", str(tmp_path / "ct/1.png"), "ct")


@pytest.mark.parametrize("in_rows", [False, True])
def test_shared_patients_of_two_sets_are_an_error(make_record, as_rows, in_rows):
    records = [make_record(number) for number in range(4)]

    def subset(*numbers):
        chosen = [records[number] for number in numbers]
        return as_rows(chosen) if in_rows else chosen

    assert check_patients(train=subset(0, 1, 2), validation=subset(3)) == {"train": 3, "validation": 1}
    with pytest.raises(ValueError, match="2 patients are in both 'train' and 'test', such as 'patient-1' of 'made'"):
        check_patients(train=subset(0, 1, 2), validation=subset(3), test=subset(1, 2))


def test_split_depends_only_on_the_patient_and_the_seed(make_record):
    records = [make_record(n, patient=f"patient-{n // 2}", split="") for n in range(2000)]
    splits = {record.id: record.split for record in assign_split(records)}
    assert [splits[f"image-{n}"] for n in range(0, 2000, 2)] == [splits[f"image-{n}"] for n in range(1, 2000, 2)]
    assert {r.id: r.split for r in assign_split(records[::-1][:100])}.items() <= splits.items()
    assert {r.id: r.split for r in assign_split(records, seed=1)} != splits
    shares = {split: list(splits.values()).count(split) / 2000 for split in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.05)


def test_assign_split_keeps_splits_and_refuses_percentages(make_record):
    assert [r.split for r in assign_split([make_record(1, split="test")], test=0.0)] == ["test"]
    with pytest.raises(ValueError, match=r"shares in \[0, 1\] .*, got 10 \(validation\) and 20 \(test\)"):
        list(assign_split([make_record(1, split="")], validation=10, test=20))


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"splits": ["test"]}, [3]),
        ({"views": ["AP", "PA"]}, [0, 1, 3, 4, 5]),
        ({"first_study": True}, [0, 2, 3, 4, 5]),
        # A report that is derived from labels has an impression.
        ({"sections": "impression"}, [0, 1, 2, 3, 5]),
        ({"splits": ["train"], "views": ["AP", "PA"], "first_study": True, "sections": "impression"}, [0, 5]),
    ],
)
def test_records_are_selected_by_split_view_study_and_sections(make_record, as_rows, conditions, expected):
    records = [
        make_record(0, study_order=1),
        make_record(1, study_order=2),
        make_record(2, study_order=1, view="LATERAL"),
        make_record(3, study_order=1, split="test"),
        make_record(4, study_order=1, view="AP", impression=""),
        make_record(5, study_order=1, findings="", impression=""),
    ]
    assert select_records(as_rows(records), **conditions)["id"][:] == [f"image-{number}" for number in expected]


def test_empty_selection_is_an_error_that_says_what_removed_how_many(make_record, as_rows):
    rows = as_rows([make_record(n, view="PA" if n else "AP") for n in range(3)])
    message = r"No row of 3 is left; .*\{'view': 1, 'first study': 2\}.* 'study_order': \{0\}"
    with pytest.raises(ValueError, match=message):
        select_records(rows, views=["PA"], first_study=True)
    with pytest.raises(ValueError, match=r"The rows have \{'split': \{''\}\}. `assign_split` gives"):
        select_records(as_rows([make_record(0, split="")]), splits=["train"])


def test_selection_logs_what_removed_how_many(make_record, as_rows, caplog):
    rows = as_rows([make_record(n, view="PA" if n else "") for n in range(3)])
    select_records(rows, splits=["train"])
    assert caplog.messages == []
    select_records(rows, splits=["train"], views=["AP", "PA"])
    assert caplog.messages == ["2 rows of 3 are left; removed by condition: {'view': 1}."]


def test_missing_and_unreadable_data_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.parquet"):
        with pytest.raises(FileNotFoundError, match=f"'{path}' is neither a Parquet file nor a folder"):
            load_records(path)
    (tmp_path / "table.csv").write_text("id,image\n1,1.png\n")
    with pytest.raises(ValueError, match="table.csv' cannot be read as Parquet"):
        load_records(tmp_path / "table.csv")
    with pytest.raises(
        ValueError, match="Expected a Parquet file of `write_records` or a folder of images, got .*csv"
    ):
        open_records(tmp_path / "table.csv")
