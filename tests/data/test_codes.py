import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from transformers_cxr.data.codes import (
    begin_encoding,
    codes_schema,
    finish_encoding,
    load_codes,
    shard_path,
    tokenizer_fingerprint,
    write_shard,
)
from transformers_cxr.data.store import check_tokenizer, write_records

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


def change(path, **columns):
    table = pq.read_table(path)
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, path)


def test_what_was_written_is_read(store, vq_tokenizer):
    dataset = load_codes(store, vq_tokenizer)
    assert dataset.column_names == ["id", "codes", "age"]
    assert dataset["id"][:] == ["0-0", "0-1", "1-0", "1-1"] and dataset["age"][:] == [0, 1, 0, 1]
    assert np.array_equal(np.array(dataset["codes"][:]), CODES)
    vq_tokenizer.check_codes(torch.tensor(dataset[3]["codes"])[None])
    assert pq.read_schema(shard_path(store, 0)).field("codes").type == pa.list_(pa.uint16(), 16)
    assert json.loads((store / "skipped.jsonl").read_text()) == {"id": "bad", "reason": "It is no image."}


def test_records_know_the_tokenizer_of_their_codes(store, vq_tokenizer, make_record, tmp_path):
    path = tmp_path / "records.parquet"
    write_records([make_record(0, id="1-0")], path, load_codes(store), codebook_size=32, num_image_tokens=16)
    check_tokenizer(path, tokenizer_fingerprint(vq_tokenizer))
    with torch.no_grad():
        next(vq_tokenizer.vq_model.encoder.parameters()).add_(1)
    with pytest.raises(ValueError, match=f"The codes in '{path}' were made by another image tokenizer than the model's"):
        check_tokenizer(path, tokenizer_fingerprint(vq_tokenizer))
    write_records([make_record(0)], tmp_path / "without.parquet")
    check_tokenizer(tmp_path / "without.parquet", "any")


def test_another_decoder_is_the_same_tokenizer_and_another_encoder_is_not(store, vq_tokenizer):
    with torch.no_grad():
        next(vq_tokenizer.vq_model.decoder.parameters()).add_(1)
        next(vq_tokenizer.vq_model.post_quant_conv.parameters()).add_(1)
    assert len(load_codes(store, vq_tokenizer)) == 4
    for part in (vq_tokenizer.vq_model.encoder, vq_tokenizer.vq_model.quant_conv, vq_tokenizer.vq_model.quantize):
        parameter = next(part.parameters())
        with torch.no_grad():
            parameter.add_(1)
            with pytest.raises(ValueError, match="of another image tokenizer"):
                load_codes(store, vq_tokenizer)
            parameter.sub_(1)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (pa.array([[32] + [0] * 15] * 2, pa.list_(pa.uint16(), 16)), r"Code 32 .* outside the codebook.*\[0, 32\)"),
        (pa.array([[0] * 15] * 2, pa.list_(pa.uint16(), 15)), "Expected 16 codes of 16 bits"),
        (pa.array([[0] * 16, [0] * 3], pa.list_(pa.uint16())), "Expected 16 codes of 16 bits"),
        (pa.array([[0] * 16, None], pa.list_(pa.uint16(), 16)), "has no codes"),
    ],
)
def test_codes_that_are_no_image_are_refused(store, codes, message):
    change(shard_path(store, 1), codes=codes)
    with pytest.raises(ValueError, match=message):
        load_codes(store)


def test_an_incomplete_store_is_refused(store, tmp_path):
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


def test_a_store_is_resumed_with_the_same_settings_only(store, vq_tokenizer):
    assert begin_encoding(store, {"tokenizer": tokenizer_fingerprint(vq_tokenizer)}) == {0, 1}
    with pytest.raises(ValueError, match="other settings: tokenizer was '.*' and is 'another'"):
        begin_encoding(store, {"tokenizer": "another"})


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="holds 'thesis.tex' and no codes"):
        begin_encoding(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_columns_of_the_stores_own_names_are_refused(vq_tokenizer):
    with pytest.raises(ValueError, match="column \\['codes'\\]"):
        codes_schema(vq_tokenizer, pa.schema([("codes", pa.int64())]))
