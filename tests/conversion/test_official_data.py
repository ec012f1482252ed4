import pickle
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_cxr.conversion import convert_code_pickle

RNG = random.Random(0)
IMAGES = {f"{n:08x}-dicom": [RNG.randrange(1024) for _ in range(256)] for n in range(3)}
CODES = IMAGES["00000000-dicom"]


@pytest.fixture
def convert(tmp_path):
    """`convert(content, protocol)` -> the result, and the written images; `content` is pickled unless it is bytes."""

    def convert(content, protocol=None):
        path = tmp_path / "codes.pickle"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        result = convert_code_pickle(path, tmp_path / "codes.parquet")
        table = pq.read_table(tmp_path / "codes.parquet")
        assert table.schema.equals(pa.schema([("id", pa.string()), ("codes", pa.list_(pa.uint16()))]))
        return result, dict(zip(table["id"].to_pylist(), table["codes"].to_pylist(), strict=True))

    return convert


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_codes_of_every_protocol_stay_the_same(convert, protocol):
    images = IMAGES | {"ends": [0] * 128 + [1023] * 128}
    assert convert(images, protocol) == ((4, []), images)


def test_images_with_wrong_codes_are_skipped(convert):
    wrong = {"short": CODES[:-1], "text": "a" * 256, "too large": CODES[:-1] + [1024], "float": [1.0] + CODES[1:]}
    assert convert(wrong | IMAGES) == ((3, list(wrong)), IMAGES)


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("place", ["whole file", "codes", "code"])
def test_a_hostile_pickle_is_refused_and_not_executed(convert, tmp_path, trap, marker, protocol, place):
    content = {"whole file": trap, "codes": {"x": trap}, "code": {"x": [*CODES[:-1], trap]}}[place]
    with pytest.raises(ValueError, match=r"refers to '.*\.mkdir'.* Nothing in it was executed"):
        convert(content, protocol)
    assert not marker.exists()
    pickle.loads((tmp_path / "codes.pickle").read_bytes())
    assert marker.exists()


@pytest.mark.parametrize("nesting", [pickle.TUPLE1 * 1_000_000, (pickle.DUP + pickle.TUPLE2) * 100])
def test_a_pickle_of_nested_tuples_is_refused_before_they_are_hashed(convert, nesting):
    with pytest.raises(ValueError, match="Cannot read .*codes.pickle' as a pickle of codes .* holds a tuple"):
        convert(pickle.EMPTY_DICT + pickle.NONE + nesting + pickle.NONE + pickle.SETITEM + pickle.STOP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.zeros(256, dtype=np.int64)}, "refers to 'numpy"),
        (pickle.dumps(IMAGES)[:1000], "Cannot read .*codes.pickle' as a pickle of codes"),
        ([1, 2], "Cannot read .*codes.pickle' as a pickle of codes by image id"),
        ({"a": [1], "b": []}, r"holds no image of 256 codes in \[0, 1024\)"),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(convert, tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        convert(content)
    assert [file.name for file in tmp_path.iterdir()] == ["codes.pickle"]
