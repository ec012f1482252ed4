import pytest
from PIL import Image

from transformers_cxr.data import write_records
from transformers_cxr.data.image_source import is_streamed, open_source


@pytest.fixture
def records(tmp_path, make_record):
    for number in range(3):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    split = {0: "train", 1: "test", 2: "train"}
    made = [make_record(n, image=str(tmp_path / f"{n}.png"), split=split[n]) for n in range(3)]
    made.append(make_record(2, image=str(tmp_path / "2.png"), question="Edema?", answer="No."))
    write_records(made, tmp_path / "records.parquet")
    return tmp_path / "records.parquet"


def test_images_of_records_have_their_ids_and_splits(records):
    assert not is_streamed(records)
    source = open_source(str(records), "train")
    rows = list(source.rows(0))
    assert [source.id_of(row, number) for number, row in enumerate(rows)] == ["image-0", "image-2"]
    assert source.image_of(rows[1]) == str(records.with_name("2.png"))
    assert (source.total, source.metadata.names) == (2, ["image"])
    assert list(source.rows(1)) == rows[1:]
    assert open_source(str(records)).total == 3


def test_folder_with_metadata_keeps_its_columns_and_its_split(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,split,age\n1.png,train,61\n2.png,test,17\n")
    source = open_source(str(tmp_path), "test")
    (row,) = source.rows(0)
    assert (source.id_of(row, 0), source.image_of(row)) == ("2.png", tmp_path / "2.png")
    assert source.metadata.names == ["split", "age"]
    other = open_source(str(tmp_path), "train")
    assert source.settings["rows"] != other.settings["rows"]
    with pytest.raises(FileNotFoundError, match="No image of split 'validation'"):
        open_source(str(tmp_path), "validation")
