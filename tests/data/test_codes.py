import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from transformers_cxr.data import check_tokenizer, load_codes, load_records, tokenizer_fingerprint, write_records
from transformers_cxr.data.codes import begin_encoding, codes_schema, finish_encoding, shard_path, write_shard

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


def test_codes_are_read_as_they_were_written(store):
    dataset = load_codes(store)
    assert dataset.column_names == ["id", "codes", "age"]
    assert dataset["id"][:] == ["0-0", "0-1", "1-0", "1-1"] and dataset["age"][:] == [0, 1, 0, 1]
    assert np.array_equal(np.array(dataset["codes"][:]), CODES)
    assert pq.read_schema(shard_path(store, 0)).field("codes").type == pa.list_(pa.uint16(), 16)
    assert json.loads((store / "skipped.jsonl").read_text()) == {"id": "bad", "reason": "It is no image."}


@pytest.mark.parametrize(
    ("part", "same"),
    [("decoder", True), ("encoder", False), ("quant_conv", False), ("quantize", False)],
)
def test_codes_know_the_encoder_and_the_codebook_that_they_are_from(store, vq_tokenizer, part, same, make_record):
    # Records keep the tokenizer of their codes when they are written again.
    codes = load_codes(store)
    for name in ("once", "again"):
        write_records([make_record(0, id="1-0")], store / f"{name}.parquet", codes)
        codes = load_records(store / f"{name}.parquet", cache_dir=store / "cache")
    with torch.no_grad():
        next(getattr(vq_tokenizer.vq_model, part).parameters()).add_(1)
    for checked in (load_codes(store), codes):
        if same:
            check_tokenizer(checked, vq_tokenizer)
        else:
            with pytest.raises(ValueError, match="from another image tokenizer"):
                check_tokenizer(checked, vq_tokenizer)


def test_damaged_or_incomplete_store_is_refused(store, tmp_path):
    shard_path(store, 1).write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="codes-00001.parquet' cannot be read as Parquet"):
        load_codes(store)
    shard_path(store, 1).unlink()
    with pytest.raises(FileNotFoundError, match="codes-00001.parquet"):
        load_codes(store)
    (store / "encoding.json").write_text("{}")
    (store / "summary.json").write_text('{"num_shards": 1}')
    with pytest.raises(ValueError, match="Expected `tokenizer` of type str in '.*encoding.json', got None"):
        load_codes(store)
    (store / "summary.json").unlink()
    with pytest.raises(ValueError, match="are not complete"):
        load_codes(store)
    with pytest.raises(FileNotFoundError, match="No `encoding.json`"):
        load_codes(tmp_path / "nothing")


def test_encoding_resumes_only_with_the_same_settings(store, vq_tokenizer):
    assert begin_encoding(store, {"tokenizer": tokenizer_fingerprint(vq_tokenizer)}) == {0, 1}
    with pytest.raises(ValueError, match="other settings: tokenizer was '.*' and is 'another'"):
        begin_encoding(store, {"tokenizer": "another"})


def test_columns_of_the_names_of_the_store_are_refused(vq_tokenizer):
    with pytest.raises(ValueError, match="column \\['codes'\\]"):
        codes_schema(vq_tokenizer, pa.schema([("codes", pa.int64())]))
