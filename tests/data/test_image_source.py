import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from transformers_cxr.data import write_records
from transformers_cxr.data.image_source import is_streamed, open_source


def test_images_of_records_have_their_ids_and_splits(tmp_path, make_record):
    for number in range(3):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    split = {0: "train", 1: "test", 2: "train"}
    made = [make_record(n, image=str(tmp_path / f"{n}.png"), split=split[n]) for n in range(3)]
    made.append(make_record(2, image=str(tmp_path / "2.png"), question="Edema?", answer="No."))
    records = tmp_path / "records.parquet"
    write_records(made, records)
    assert not is_streamed(records)
    source = open_source(str(records), "train")
    rows = list(source.rows(0))
    assert rows == [(f"image-{n}", str(tmp_path / f"{n}.png"), {}) for n in (0, 2)]
    assert source.total == 2 and list(source.rows(1)) == rows[1:]
    assert open_source(str(records)).total == 3


def test_an_id_of_two_images_is_an_error_with_the_way_out(tmp_path, make_record):
    made = [make_record(0, source=name, image=str(tmp_path / f"{name}.png")) for name in "ab"]
    write_records(made, tmp_path / "records.parquet")
    with pytest.raises(ValueError, match=r"'image-0' names two X-rays, '.*a\.png' and '.*b\.png'.* column `id`"):
        open_source(str(tmp_path / "records.parquet"))


@pytest.mark.parametrize("suffix", ["pth", "ten"])
def test_a_member_that_is_a_pickle_or_damaged_is_an_error_that_names_the_file(tmp_path, suffix):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / f"a.{suffix}").write_bytes(pickle.dumps(Path(tmp_path)))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.png", f"a.{suffix}"):
            tar.add(tmp_path / name, name)
    with pytest.raises(ValueError, match=r"a\.tar' cannot be read: "):
        open_source(str(tmp_path / "a.tar"))


def test_what_datasets_reads_is_a_stream(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    assert not is_streamed(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "age": 61}\n')
    assert is_streamed(tmp_path)
    (_, _, metadata), *others = open_source(str(tmp_path)).rows(0)
    assert metadata == {"age": 61} and not others


def test_folder_with_metadata_keeps_its_columns_and_its_split(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,split,age\n1.png,train,61\n2.png,test,17\n")
    source = open_source(str(tmp_path), "test")
    assert list(source.rows(0)) == [("2.png", tmp_path / "2.png", {"split": "test", "age": "17"})]
    assert source.metadata.names == ["split", "age"]
    other = open_source(str(tmp_path), "train")
    assert source.settings["rows"] != other.settings["rows"]
    with pytest.raises(FileNotFoundError, match="No image of split 'validation'"):
        open_source(str(tmp_path), "validation")
