import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from transformers_cxr.data import load_codes, tokenizer_fingerprint, write_records
from transformers_cxr.data.codes import begin_encoding, codes_schema, finish_encoding, shard_path, write_shard
from transformers_cxr.data.store import check_tokenizer

CODES = np.arange(4 * 16, dtype=np.uint16).reshape(4, 16) % 32


@pytest.fixture
def store(vq_tokenizer, tmp_path):
    """Two shards of two images; a third image of the first one could not be read."""
    schema = codes_schema(vq_tokenizer, pa.schema([("age", pa.int64())]))
    assert begin_encoding(tmp_path, {"tokenizer": tokenizer_fingerprint(vq_tokenizer)}) == set()
    for shard in range(2):
        rows = [{"id": f"{shard}-{row}", "age": row} for row in range(2)]
        skipped = [{"id": "bad", "reason": "It is no image."}] if shard == 0 else []
        write_shard(shard_path(tmp_path, shard), schema, rows, CODES[2 * shard : 2 * shard + 2], skipped)
    assert finish_encoding(tmp_path, 2) == (4, 1)
    return tmp_path


def test_codes_are_read_as_they_were_written(store, vq_tokenizer):
    dataset = load_codes(store, vq_tokenizer)
    assert dataset.column_names == ["id", "codes", "age"]
    assert dataset["id"][:] == ["0-0", "0-1", "1-0", "1-1"] and dataset["age"][:] == [0, 1, 0, 1]
    assert np.array_equal(np.array(dataset["codes"][:]), CODES)
    assert pq.read_schema(shard_path(store, 0)).field("codes").type == pa.list_(pa.uint16(), 16)
    assert json.loads((store / "skipped.jsonl").read_text()) == {"id": "bad", "reason": "It is no image."}


def test_records_know_the_tokenizer_of_their_codes(store, vq_tokenizer, make_record, tmp_path):
    path = tmp_path / "records.parquet"
    write_records([make_record(0, id="1-0")], path, load_codes(store))
    check_tokenizer(path, tokenizer_fingerprint(vq_tokenizer))
    with pytest.raises(
        ValueError, match=f"The codes in '{path}' were made by another image tokenizer than the model's"
    ):
        check_tokenizer(path, "another")
    write_records([make_record(0)], tmp_path / "without.parquet")
    check_tokenizer(tmp_path / "without.parquet", "any")


@pytest.mark.parametrize(
    ("part", "same"),
    [("decoder", True), ("post_quant_conv", True), ("encoder", False), ("quant_conv", False), ("quantize", False)],
)
def test_codes_of_another_encoder_or_codebook_are_refused(store, vq_tokenizer, part, same):
    with torch.no_grad():
        next(getattr(vq_tokenizer.vq_model, part).parameters()).add_(1)
    if same:
        assert len(load_codes(store, vq_tokenizer)) == 4
    else:
        with pytest.raises(ValueError, match="from another image tokenizer"):
            load_codes(store, vq_tokenizer)


def test_damaged_or_incomplete_store_is_refused(store, tmp_path):
    shard_path(store, 1).write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="codes-00001.parquet' cannot be read as Parquet"):
        load_codes(store)
    shard_path(store, 1).unlink()
    with pytest.raises(FileNotFoundError, match="codes-00001.parquet' is missing"):
        load_codes(store)
    with pytest.raises(ValueError, match="codes-00001.parquet' is missing"):
        finish_encoding(store, 2)
    (store / "summary.json").unlink()
    with pytest.raises(ValueError, match="are not complete"):
        load_codes(store)
    with pytest.raises(FileNotFoundError, match="No `encoding.json`"):
        load_codes(tmp_path / "nothing")


def test_encoding_resumes_only_with_the_same_settings(store, vq_tokenizer):
    assert begin_encoding(store, {"tokenizer": tokenizer_fingerprint(vq_tokenizer)}) == {0, 1}
    with pytest.raises(ValueError, match="other settings: tokenizer was '.*' and is 'another'"):
        begin_encoding(store, {"tokenizer": "another"})


def test_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="holds 'thesis.tex' and no codes"):
        begin_encoding(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_columns_of_the_names_of_the_store_are_refused(vq_tokenizer):
    with pytest.raises(ValueError, match="column \\['codes'\\]"):
        codes_schema(vq_tokenizer, pa.schema([("codes", pa.int64())]))
