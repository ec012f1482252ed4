import os
import pickle
import random
from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_cxr.conversion import convert_code_pickle, official_data


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
    assert convert_code_pickle(path, tmp_path / "new" / "codes.parquet") == (6, [])
    table = pq.read_table(tmp_path / "new" / "codes.parquet")
    assert table.schema.equals(pa.schema([("image_id", pa.string()), ("codes", pa.list_(pa.uint16()))]))
    assert dict(zip(table["image_id"].to_pylist(), table["codes"].to_pylist())) == images
    assert sorted(file.name for file in tmp_path.iterdir()) == ["codes.pickle", "new"]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["codes.parquet"]


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
    num_images, left_out = convert_code_pickle(path, tmp_path / "codes.parquet")
    assert num_images == 2 and dict(left_out) == {
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
            "holds no valid codes. The first of 2 invalid images is 'a': 1 codes instead of 256.",
        ),
    ],
)
def test_a_pickle_without_codes_is_refused(tmp_path, content, message):
    path = write_pickle(tmp_path / "codes.pickle", content)
    with pytest.raises(ValueError, match=message):
        convert_code_pickle(path, tmp_path / "codes.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["codes.pickle"]


def test_an_output_that_exists_is_not_overwritten_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    path, output = write_pickle(tmp_path / "codes.pickle", random_codes(1)), tmp_path / "codes.parquet"
    output.write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="codes.parquet' exists"):
        convert_code_pickle(path, output)
    assert output.read_text(encoding="utf-8") == "mine"
    output.unlink()
    monkeypatch.setattr(official_data, "CODES_SCHEMA", pa.schema([("image_id", pa.string()), ("codes", pa.int8())]))
    with pytest.raises((TypeError, pa.ArrowInvalid, pa.ArrowTypeError)):
        convert_code_pickle(path, output)
    assert [file.name for file in tmp_path.iterdir()] == ["codes.pickle"]
