import io
import json
import subprocess
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydicom.data import get_testdata_file

from transformers_cxr.data.codes import load_codes
from transformers_cxr.files import lock


@pytest.fixture
def encode(run, checkpoint_dir):
    def invoke(dataset, output, *arguments, shard_size=3, batch_size=2):
        sizes = ["--shard-size", shard_size, "--batch-size", batch_size]
        return run(
            "encode", dataset, "--output", output, "--model", checkpoint_dir, "--device", "cpu", *sizes, *arguments
        )

    return invoke


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_codes_are_those_of_the_tokenizer_for_any_batch_size(encode, images, loaded, tmp_path):
    model, processor = loaded
    assert encode(images, tmp_path / "a").exit_code == 0
    assert encode(images, tmp_path / "b", batch_size=5).exit_code == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    dataset = load_codes(tmp_path / "a")
    assert dataset["id"][:] == ["a/1.png", "a/3.png", "a/5.png", *(f"b/c/{number}.png" for number in (0, 2, 4, 6))]
    for row in dataset:
        pixel_values = processor.image_processor(images / row["id"], return_tensors="pt").pixel_values
        with torch.no_grad():
            assert model.vq_tokenizer.encode(pixel_values)[0].tolist() == row["codes"]
    assert [pq.read_metadata(tmp_path / f"a/codes-0000{shard}.parquet").num_rows for shard in range(3)] == [3, 3, 1]


def test_unreadable_images_are_named_counted_and_listed(encode, images, tmp_path):
    (images / "a/2.png").write_bytes((images / "a/1.png").read_bytes()[:200])
    (images / "a/4.png").write_bytes(b"")
    # A whole shard of unreadable images, and a DICOM image that is not a chest X-ray.
    for number in range(3):
        (images / f"b/c/9{number}.png").write_text("text")
    (images / "ct.dcm").write_bytes(open(get_testdata_file("CT_small.dcm"), "rb").read())
    result = encode(images, tmp_path / "codes", shard_size=2)
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    assert "7 images in 7 shards" in result.stdout and "6 skipped." in result.stdout
    skipped = [json.loads(line) for line in (tmp_path / "codes/skipped.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in skipped] == ["a/2.png", "a/4.png", *(f"b/c/9{n}.png" for n in range(3)), "ct.dcm"]
    assert all(entry["reason"] and f"Not read: {entry['id']}: " in result.stderr for entry in skipped)
    assert len(load_codes(tmp_path / "codes")) == 7


def test_metadata_are_kept_and_select_a_split(encode, images, tmp_path):
    rows = [f"b/c/{number}.png,{'train' if number else 'validation'},00{number}" for number in (6, 0, 4)]
    # Excel starts its files with a byte order mark.
    table = "\n".join(["file_name,split,patient", *rows, "a/none.png,train,"])
    (images / "metadata.csv").write_text(table, encoding="utf-8-sig")
    result = encode(images, tmp_path / "codes", "--split", "train")
    assert result.exit_code == 1 and "2 images in 1 shards" in result.stdout
    assert [(row["id"], row["split"], row["patient"]) for row in load_codes(tmp_path / "codes")] == [
        ("b/c/6.png", "train", "006"),
        ("b/c/4.png", "train", "004"),
    ]
    assert "none.png" in (tmp_path / "codes/skipped.jsonl").read_text()
    assert encode(images, tmp_path / "all").exit_code == 1 and len(load_codes(tmp_path / "all")) == 3


def test_parquet_and_webdataset_are_read(encode, images, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert encode(images, tmp_path / "plain").exit_code == 0
    expected = load_codes(tmp_path / "plain")["codes"][:]
    paths = [images / name for name in load_codes(tmp_path / "plain")["id"]]
    table = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths], "label": [*range(6), None]}
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.table(table), tmp_path / "parquet/train-00000-of-00001.parquet")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for number, path in enumerate(paths):
            for suffix, data in (("png", path.read_bytes()), ("json", json.dumps({"age": number}).encode())):
                entry = tarfile.TarInfo(f"x{number}.{suffix}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    for dataset, ids, column in (
        (tmp_path / "parquet", [path.name for path in paths], "label"),
        (tmp_path / "images.tar", [f"x{number}" for number in range(7)], "json"),
    ):
        output = tmp_path / f"codes-{dataset.name}"
        result = encode(dataset, output)
        assert result.exit_code == 0, result.stderr
        codes = load_codes(output)
        assert codes["codes"][:] == expected and codes["id"][:] == ids
        assert codes.column_names == ["id", "codes", column]
    # Images that were added before or between those with codes would be left out.
    with tarfile.open(tmp_path / "images.tar", "a") as archive:
        archive.add(paths[0], "new.png")
    result = encode(tmp_path / "images.tar", tmp_path / "codes-images.tar")
    assert result.exit_code == 1 and "other settings: files was" in result.stderr
    # The codes may be in the folder.
    for _ in range(2):
        assert encode(tmp_path / "parquet", tmp_path / "parquet/codes").exit_code == 0
    (tmp_path / "damaged.tar").write_bytes((tmp_path / "images.tar").read_bytes()[:20000])
    result = encode(tmp_path / "damaged.tar", tmp_path / "codes-damaged", shard_size=1)
    assert result.exit_code == 1 and "damaged.tar' cannot be read" in result.stderr


def test_killed_run_resumes_to_the_same_files(encode, images, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert encode(images, whole, shard_size=2).exit_code == 0
    killed.mkdir()
    for name in ("encoding.json", "codes-00000.parquet", "codes-00001.parquet"):
        (killed / name).write_bytes((whole / name).read_bytes())
    (killed / ".incomplete-codes-00002.parquet").write_bytes((whole / "codes-00002.parquet").read_bytes()[:100])
    with pytest.raises(ValueError, match="are not complete"):
        load_codes(killed)
    times = {path: path.stat().st_mtime_ns for path in killed.glob("codes-*.parquet")}
    assert encode(images, killed, shard_size=2).exit_code == 0
    assert contents(killed) == contents(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_two_processes_write_the_same_files_as_one(encode, images, checkpoint_dir, tmp_path):
    assert encode(images, tmp_path / "one", shard_size=2).exit_code == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["--model", checkpoint_dir, "--device", "cpu", "--shard-size", "2"]
    command = [*launch, "-m", "transformers_cxr.cli.main", "encode", images, "--output", tmp_path / "two", *options]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("7 images in 4 shards written") == 1
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_errors_are_one_message(encode, images, loaded, tmp_path):
    def check(message, *arguments, **kwargs):
        result = encode(*arguments, **kwargs)
        assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr

    codes, table = tmp_path / "codes", tmp_path / "table.parquet"
    assert encode(images, codes).exit_code == 0
    check("other settings: shard_size was 3 and is 4", images, codes, shard_size=4)
    check("and no codes. Choose a new or an empty folder", images, images)
    check("has no splits", images, tmp_path / "x", "--split", "train")
    check("Expected a folder, a Parquet file or a WebDataset tar", images / "notes.txt", tmp_path / "x")
    pq.write_table(pa.table({"scan": [b"x"], "text": ["y"]}), table)
    check("by `--image-column`: it has ['scan', 'text']", table, tmp_path / "x")
    check("lacks the columns ['y']", table, tmp_path / "x", "--image-column", "y")
    model, processor = loaded
    with torch.no_grad():
        model.vq_tokenizer.codebook.mul_(2)
    model.vq_tokenizer.save_pretrained(tmp_path / "other")
    processor.image_processor.save_pretrained(tmp_path / "other")
    check("other settings: tokenizer was ", images, codes, "--model", tmp_path / "other")
    with lock(codes):
        check("Another run is writing to this output", images, codes)
