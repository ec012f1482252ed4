import json
import os
import pickle
import random
from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_cxr.conversion import official_data
from transformers_cxr.conversion.official_data import convert_code_pickle, convert_vqa_files


def random_codes(number: int) -> dict[str, list[int]]:
    rng = random.Random(0)
    return {f"{n:08x}-dicom": [rng.randrange(1024) for _ in range(256)] for n in range(number)}


def write_pickle(path, content, protocol=None):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_codes_come_out_as_they_went_in(tmp_path, protocol):
    images = random_codes(5)
    images["ends"] = [0] * 128 + [1023] * 128
    path = write_pickle(tmp_path / "codes.pickle", images, protocol)
    report = convert_code_pickle(path, tmp_path / "new" / "codes.parquet")
    assert (report.written, report.left_out) == (6, [])
    table = pq.read_table(tmp_path / "new" / "codes.parquet")
    assert table.schema.equals(pa.schema([("image_id", pa.string()), ("codes", pa.list_(pa.uint16()))]))
    assert dict(zip(table["image_id"].to_pylist(), table["codes"].to_pylist())) == images
    assert sorted(file.name for file in tmp_path.iterdir()) == ["codes.pickle", "new"]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["codes.parquet"]


def test_row_groups_are_of_constant_size(tmp_path, monkeypatch):
    monkeypatch.setattr(official_data, "ROW_GROUP_SIZE", 4)
    images = random_codes(10)
    convert_code_pickle(write_pickle(tmp_path / "codes.pickle", images), tmp_path / "codes.parquet")
    metadata = pq.ParquetFile(tmp_path / "codes.parquet").metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [4, 4, 2]
    assert pq.read_table(tmp_path / "codes.parquet")["image_id"].to_pylist() == list(images)


def test_images_with_wrong_codes_are_left_out_by_id_and_reason(tmp_path):
    images = random_codes(2)
    codes = list(images.values())[0]
    wrong = {
        "short": codes[:-1],
        "long": codes + [1],
        "none": [],
        "too large": codes[:-1] + [1024],
        "negative": [-1] + codes[1:],
        "float": [1.0] + codes[1:],
        "truth": [True] + codes[1:],
        "text": "a" * 256,
        7: codes,
    }
    path = write_pickle(tmp_path / "codes.pickle", wrong | images)
    report = convert_code_pickle(path, tmp_path / "codes.parquet")
    assert report.written == 2
    assert dict(report.left_out) == {
        "short": "255 codes instead of 256",
        "long": "257 codes instead of 256",
        "none": "0 codes instead of 256",
        "too large": "code 1024 is outside [0, 1024)",
        "negative": "code -1 is outside [0, 1024)",
        "float": "a code is float instead of an integer",
        "truth": "a code is bool instead of an integer",
        "text": "the codes are str instead of a list",
        "7": "the image id is int instead of a string",
    }
    assert pq.read_table(tmp_path / "codes.parquet")["image_id"].to_pylist() == list(images)


class Call:
    """Unpickles by calling a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", ["mkdir", "eval"])
@pytest.mark.parametrize("place", ["whole file", "id", "codes", "code"])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path, protocol, function, place):
    marker = tmp_path / "executed"
    call = {
        "mkdir": Call(os.mkdir, str(marker)),
        "eval": Call(eval, f"__import__('os').mkdir({str(marker)!r})"),
    }[function]
    images = random_codes(2)
    content = {
        "whole file": call,
        "id": images | {call: [0] * 256},
        "codes": images | {"x": call},
        "code": images | {"x": [0] * 255 + [call]},
    }[place]
    path = write_pickle(tmp_path / "codes.pickle", content, protocol)
    with pytest.raises(ValueError, match=rf"refers to '.*\.{function}'.* Nothing in it was executed"):
        convert_code_pickle(path, tmp_path / "codes.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["codes.pickle"]
    pickle.loads(path.read_bytes())
    assert marker.exists()


@pytest.mark.parametrize("content", [OrderedDict(random_codes(1)), {"x": np.zeros(256, dtype=np.int64)}])
def test_a_pickle_of_other_classes_is_refused_by_their_names(tmp_path, content):
    path = write_pickle(tmp_path / "codes.pickle", content)
    with pytest.raises(ValueError, match="refers to '(collections.OrderedDict|numpy.*)'"):
        convert_code_pickle(path, tmp_path / "codes.parquet")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_truncated_pickle_is_refused(tmp_path, share, protocol):
    path = write_pickle(tmp_path / "codes.pickle", random_codes(3), protocol)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match="Cannot read .*codes.pickle' as a pickle of codes"):
        convert_code_pickle(path, tmp_path / "codes.parquet")
    assert not (tmp_path / "codes.parquet").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds list instead of a dictionary"),
        ({}, "holds no valid codes. It is empty."),
        (
            {"a": [1], "b": []},
            "holds no valid codes. Of 2 that were left out the first is 'a': 1 codes instead of 256.",
        ),
    ],
)
def test_a_pickle_without_codes_is_refused(tmp_path, content, message):
    path = write_pickle(tmp_path / "codes.pickle", content)
    with pytest.raises(ValueError, match=message):
        convert_code_pickle(path, tmp_path / "codes.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["codes.pickle"]


def test_an_output_that_exists_is_not_overwritten(tmp_path):
    path = write_pickle(tmp_path / "codes.pickle", random_codes(1))
    write_vqa(tmp_path, "p1/s2.txt", QUESTIONS)
    output = tmp_path / "output"
    output.write_text("mine", encoding="utf-8")
    for convert, source in ((convert_code_pickle, path), (convert_vqa_files, tmp_path)):
        with pytest.raises(FileExistsError, match="output' exists"):
            convert(source, output)
    assert output.read_text(encoding="utf-8") == "mine"


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    path = write_pickle(tmp_path / "codes.pickle", random_codes(1))
    monkeypatch.setattr(official_data, "CODES_SCHEMA", pa.schema([("image_id", pa.string()), ("codes", pa.int8())]))
    with pytest.raises((TypeError, pa.ArrowInvalid, pa.ArrowTypeError)):
        convert_code_pickle(path, tmp_path / "codes.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["codes.pickle"]


QUESTIONS = [
    {"question": "Is there a pleural effusion?", "answer": "No."},
    {"answer": 'It\'s clear: "both" lungs, 3 cm ≥ 2 cm.', "question": "What do the lungs show?\nDescribe."},
]


def write_vqa(folder, name: str, content) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else repr(content), encoding="utf-8")


def test_questions_come_out_as_the_released_code_reads_them(tmp_path):
    folder = tmp_path / "vqa"
    write_vqa(folder, "files/p11/p11000002/s50000004.txt", QUESTIONS[:1])
    write_vqa(folder, "files/p10/p10000001/s50000003.txt", repr(QUESTIONS) + "\n")
    write_vqa(folder, "files/p10/p10000001/notes.md", "no text file")
    report = convert_vqa_files(folder, tmp_path / "vqa.json")
    assert (report.written, report.left_out) == (3, [])
    assert json.loads((tmp_path / "vqa.json").read_text(encoding="utf-8")) == [
        {"subject_id": 10000001, "study_id": 50000003, **QUESTIONS[0]},
        {"subject_id": 10000001, "study_id": 50000003, **QUESTIONS[1]},
        {"subject_id": 11000002, "study_id": 50000004, **QUESTIONS[0]},
    ]


def test_files_and_records_of_another_form_are_left_out_by_path_and_reason(tmp_path):
    folder = tmp_path / "vqa"
    marker = tmp_path / "executed"
    question, answer = QUESTIONS[0]["question"], QUESTIONS[0]["answer"]
    write_vqa(folder, "p1/s1.txt", QUESTIONS)
    write_vqa(folder, "p1/s2.txt", f"[{{'question': __import__('os').mkdir({str(marker)!r}), 'answer': 'x'}}]")
    write_vqa(folder, "p1/s3.txt", "[{'question': 'cut off")
    write_vqa(folder, "p1/s4.txt", repr(QUESTIONS) + "\n" + repr(QUESTIONS))
    write_vqa(folder, "p1/s5.txt", " \n")
    write_vqa(folder, "p1/s6.txt", QUESTIONS[0])
    write_vqa(folder, "p1/s7.txt", "[" * 5000)
    write_vqa(folder, "p1/s8.txt", "[{[]: 1}]")
    write_vqa(folder, "p1/9.txt", QUESTIONS)
    (folder / "p1" / "s10.txt").write_bytes(b"[{'question': '\xff'}]")
    records = [
        QUESTIONS[0],
        "text",
        {"question": question},
        {"question": question, "answer": answer, "reason": "x"},
        {"question": question, "answer": None},
        {"question": "  ", "answer": answer},
        QUESTIONS[1],
    ]
    write_vqa(folder, "p2/s1.txt", records)
    report = convert_vqa_files(folder, tmp_path / "vqa.json")
    assert not marker.exists()
    assert report.written == 4
    reasons = dict(report.left_out)
    assert len(reasons) == len(report.left_out) == 14
    assert "malformed node" in reasons["p1/s2.txt"]
    assert "unterminated string" in reasons["p1/s3.txt"]
    assert reasons["p1/s4.txt"] == "2 lines instead of one"
    assert reasons["p1/s5.txt"] == "the file is empty"
    assert reasons["p1/s6.txt"] == "dict instead of a list of questions and answers"
    assert reasons["p1/s7.txt"]
    assert "unhashable" in reasons["p1/s8.txt"]
    assert reasons["p1/9.txt"] == "the path does not end with pSUBJECT/sSTUDY.txt"
    assert "utf-8" in reasons["p1/s10.txt"]
    assert reasons["p2/s1.txt, record 2 of 7"] == "str instead of a dictionary"
    assert reasons["p2/s1.txt, record 3 of 7"] == "the keys ['question'] instead of 'answer' and 'question'"
    assert "'reason'" in reasons["p2/s1.txt, record 4 of 7"]
    assert reasons["p2/s1.txt, record 5 of 7"] == "the answer is None instead of text"
    assert reasons["p2/s1.txt, record 6 of 7"] == "the question is '  ' instead of text"


def test_a_folder_without_questions_is_refused(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match="No `.txt` files"):
            convert_vqa_files(folder, tmp_path / "vqa.json")
    write_vqa(tmp_path, "p1/s1.txt", "[]")
    with pytest.raises(ValueError, match="holds no valid questions. It is empty."):
        convert_vqa_files(tmp_path, tmp_path / "vqa.json")
    write_vqa(tmp_path, "p1/s2.txt", "[")
    with pytest.raises(ValueError, match="Of 1 that were left out the first is 'p1/s2.txt': "):
        convert_vqa_files(tmp_path, tmp_path / "vqa.json")
    assert [file.name for file in tmp_path.iterdir()] == ["p1"]
