import json
from dataclasses import replace

import pytest
from datasets import Dataset

from transformers_cxr.data.records import (
    QuestionRecord,
    SkipReport,
    assign_split,
    check_patients,
    iterate,
    load_rows,
    record_row,
    select_records,
    write_records,
)


def test_records_are_read_back_as_they_were_written(tmp_path, make_record):
    records = [make_record(number, study_order=number, sex="F", age_group="adult") for number in range(3)]
    report = write_records(records, tmp_path / "records.parquet")
    rows = load_rows(tmp_path / "records.parquet", cache_dir=tmp_path / "cache")
    assert [dict(row) for row in rows] == [record_row(record) for record in records]
    assert rows[0]["labels"] == [{"name": "Edema", "value": 0}, {"name": "No Finding", "value": 1}]
    assert (report.used, report.skipped) == (3, [])
    assert [dict(row) for row in load_rows(tmp_path, cache_dir=tmp_path / "cache")] == [dict(row) for row in rows]


def test_codes_are_those_of_the_id_or_of_the_only_image_file_whose_path_ends_with_it(tmp_path, make_record):
    ids = ["files/p1/image-1.jpg", "a/2.png", "b/2.png", "image-3", "1.2.840.5"]
    codes = Dataset.from_dict({"id": ids, "codes": [[n] * 4 for n in range(5)]})
    found = {"image-1": 0, "image-1.dcm": 0, "p1/image-1.jpg": 0, "a/2.png": 1, "b/2": 2, "image-3": 3, "1.2.840.5": 4}
    # Two images are called 2, and which one is meant cannot be known.
    missing = ["2", "2.png", "p2/image-1.jpg", "x/image-3", "mage-3", "1.2.840"]
    records = [make_record(1, id=name) for name in [*found, *missing]]
    report = write_records(records, tmp_path / "records.parquet", codes, num_image_tokens=4)
    rows = load_rows(tmp_path / "records.parquet", cache_dir=tmp_path / "cache")
    assert {row["id"]: row["codes"] for row in rows} == {name: [n] * 4 for name, n in found.items()}
    assert report.skipped == [(name, "no codes") for name in missing]


def test_images_with_wrong_codes_and_ids_that_come_again_are_counted_and_listed(tmp_path, make_record):
    codes = Dataset.from_dict({"id": [f"image-{n}" for n in range(4)], "codes": [[0, 31], [0, 32], [0], [5, 5]]})
    records = [make_record(n) for n in (0, 1, 2, 3, 3, 4)]
    report = SkipReport(used=6, skipped=[("image-9", "no report file")])
    write_records(records, tmp_path / "r.parquet", codes, codebook_size=32, num_image_tokens=2, skip_report=report)
    assert report.used == 2
    assert report.skipped == [
        ("image-9", "no report file"),
        ("image-1", "a code outside of [0, 32)"),
        ("image-2", "not 2 codes"),
        ("image-3", "the id comes twice"),
        ("image-4", "no codes"),
    ]
    assert str(report).splitlines()[0] == "2 used, 5 skipped"
    report.write(tmp_path / "skipped.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert lines[1] == {"id": "image-1", "reason": "a code outside of [0, 32)"}


def test_texts_that_the_processor_would_take_for_an_image_are_skipped(tmp_path, make_record):
    records = [make_record(0), make_record(1, findings="See <image>."), make_record(2, impression="<|cxr_0001|>")]
    report = write_records(records, tmp_path / "r.parquet")
    assert report.used == 1
    assert report.skipped == [(f"image-{n}", "a text that stands for an image") for n in (1, 2)]


def test_questions_about_one_image_are_all_written_and_the_same_one_once(tmp_path, make_record):
    fields = record_row(make_record(1)) | {"labels": {}}
    questions = [QuestionRecord(**fields, question=q, answer="No.") for q in ("Edema?", "Mass?", "Edema?")]
    report = write_records(questions, tmp_path / "q.parquet")
    rows = load_rows(tmp_path / "q.parquet", cache_dir=tmp_path / "cache")
    assert rows["question"][:] == ["Edema?", "Mass?"]
    assert report.skipped == [("image-1", "the id comes twice")]


def test_nothing_is_written_where_all_is_skipped_or_an_error_comes(tmp_path, make_record, codes_of):
    with pytest.raises(ValueError, match="There is no record to write .*: 1 no codes"):
        write_records([make_record(1)], tmp_path / "r.parquet", codes_of(["other"]), num_image_tokens=4)
    leak = [make_record(1), make_record(2, patient="patient-1", split="test")]
    with pytest.raises(ValueError, match="'patient-1' of 'made' is in the splits 'train' and 'test'"):
        write_records(leak, tmp_path / "r.parquet")
    assert list(tmp_path.iterdir()) == []


def test_records_and_codes_of_other_ids_are_named_where_none_match(tmp_path, make_record):
    codes = Dataset.from_dict({"id": ["train/1.png"], "codes": [[0] * 256]})
    with pytest.raises(
        ValueError, match="1 no codes. Records have ids such as 'cxr/train/1.png', .* 'train/1.png': encode"
    ):
        write_records([make_record(1, id="cxr/train/1.png")], tmp_path / "r.parquet", codes)


def test_an_output_that_exists_is_not_overwritten(tmp_path, make_record):
    (tmp_path / "r.parquet").write_text("mine")
    with pytest.raises(FileExistsError):
        write_records([make_record(1)], tmp_path / "r.parquet")
    assert (tmp_path / "r.parquet").read_text() == "mine"


def test_same_pseudonym_in_two_datasets_is_not_the_same_patient(tmp_path, make_record):
    records = [make_record(1), make_record(2, patient="patient-1", split="test", source="other")]
    assert write_records(records, tmp_path / "r.parquet").used == 2


def test_patients_of_two_sets_are_counted_and_a_shared_one_is_an_error(make_record):
    rows = [record_row(make_record(n)) for n in range(4)]
    assert check_patients(train=rows[:3], validation=Dataset.from_list(rows[3:])) == {"train": 3, "validation": 1}
    with pytest.raises(ValueError, match="2 patients are in both 'train' and 'test', such as 'patient-1' of 'made'"):
        check_patients(train=rows[:3], validation=rows[3:], test=rows[1:3])


def test_split_depends_on_the_patient_and_the_seed_alone(make_record):
    records = [make_record(n, patient=f"patient-{n // 2}", split="") for n in range(2000)]
    splits = {record.id: record.split for record in assign_split(records)}
    assert [splits[f"image-{n}"] for n in range(0, 2000, 2)] == [splits[f"image-{n}"] for n in range(1, 2000, 2)]
    assert {r.id: r.split for r in assign_split(records[::-1][:100])}.items() <= splits.items()
    assert {r.id: r.split for r in assign_split(records, seed=1)} != splits
    shares = {split: list(splits.values()).count(split) / 2000 for split in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.05)


def test_records_keep_the_split_that_they_have(make_record):
    assert [r.split for r in assign_split([make_record(1, split="test")], test=0.0)] == ["test"]


def test_shares_of_splits_in_percent_are_an_error(make_record):
    with pytest.raises(
        ValueError, match=r"shares in \[0, 1\], at most 1 in all, got 10 \(validation\) and 20 \(test\)"
    ):
        list(assign_split([make_record(1, split="")], validation=10, test=20))


def test_columns_of_rows_are_read_in_the_order_of_a_selection(make_record):
    rows = Dataset.from_list([record_row(make_record(number)) for number in range(1002)]).select(range(1001, -1, -1))
    wanted = [{name: row[name] for name in ("labels", "id")} for row in rows]
    assert list(iterate(rows, ["labels", "id"])) == wanted


def test_rows_are_selected_by_split_view_study_and_sections(make_record):
    records = [
        make_record(0, study_order=1),
        make_record(1, study_order=2),
        make_record(2, study_order=1, view="LATERAL"),
        make_record(3, study_order=1, split="test"),
        make_record(4, study_order=1, view="AP", impression=""),
        make_record(5, study_order=1, findings="", impression=""),
    ]
    rows = Dataset.from_list([record_row(record) for record in records])

    def ids(**conditions):
        return [int(name[-1]) for name in select_records(rows, **conditions)["id"]]

    assert ids() == [0, 1, 2, 3, 4, 5]
    assert ids(splits=["test"]) == [3]
    assert ids(views=["AP", "PA"]) == [0, 1, 3, 4, 5]
    assert ids(first_study=True) == [0, 2, 3, 4, 5]
    # A report that is derived from labels has an impression.
    assert ids(sections="impression") == [0, 1, 2, 3, 5]
    assert ids(splits=["train"], views=["AP", "PA"], first_study=True, sections="impression") == [0, 5]


def test_selection_of_nothing_says_what_removed_how_many(make_record):
    rows = Dataset.from_list([record_row(replace(make_record(n), view="PA" if n else "AP")) for n in range(3)])
    with pytest.raises(
        ValueError, match=r"No row of 3 is left; .*\{'view': 1, 'first study': 2\}.* 'study_order': \{0\}"
    ):
        select_records(rows, views=["PA"], first_study=True)
    unsplit = Dataset.from_list([record_row(make_record(0, split=""))])
    with pytest.raises(ValueError, match=r"The rows have \{'split': \{''\}\}. `assign_split` gives"):
        select_records(unsplit, splits=["train"])


def test_selection_of_some_logs_what_removed_how_many(make_record, caplog):
    rows = Dataset.from_list([record_row(make_record(n, view="PA" if n else "")) for n in range(3)])
    select_records(rows, splits=["train"])
    assert caplog.messages == []
    select_records(rows, splits=["train"], views=["AP", "PA"])
    assert caplog.messages == ["2 rows of 3 are left; removed by condition: {'view': 1}."]


def test_missing_data_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.parquet"):
        with pytest.raises(FileNotFoundError, match=f"'{path}' is neither a Parquet file nor a folder"):
            load_rows(path)


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "table.csv").write_text("id,image\n1,1.png\n")
    with pytest.raises(ValueError, match="table.csv' cannot be read as Parquet"):
        load_rows(tmp_path / "table.csv")
