"""Outputs of a task: batches, processes, interruptions, and outputs of another model."""

import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from accelerate import PartialState

from transformers_cxr.evaluation import Example
from transformers_cxr.evaluation.generations import generate_outputs, model_fingerprint, read_generations

EXAMPLES = [Example(str(i), str(i), "", Path(f"{i}.png"), "Is there pneumonia?") for i in range(7)]


def write_texts(batch):
    return [f"report of {example.id}" for example in batch]


def write_codes(batch):
    return np.array([[int(example.id)] * 4 for example in batch], dtype=np.uint16)


TEXTS = write_texts(EXAMPLES)


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.parquet")}


def test_only_missing_outputs_are_generated_and_kept_as_parquet(tmp_path):
    calls = []

    def interrupted(batch):
        if len(calls) == 2:
            raise RuntimeError("interrupted")
        calls.append([example.id for example in batch])
        return write_texts(batch)

    with pytest.raises(RuntimeError, match="interrupted"):
        generate_outputs(EXAMPLES, interrupted, tmp_path, {}, batch_size=2)
    finished = files(tmp_path)
    calls[:] = [[]]
    # The first batch of four is complete; the second lacks three.
    assert generate_outputs(EXAMPLES, interrupted, tmp_path, {}, batch_size=4) == TEXTS
    assert calls == [[], ["4", "5", "6"]] and finished.items() <= files(tmp_path).items()
    assert generate_outputs(EXAMPLES, interrupted, tmp_path, {}, batch_size=2) == TEXTS and len(calls) == 2
    row = read_generations(tmp_path)["3"]
    assert row["prompt"] == "Is there pneumonia?" and row["seconds"] >= 0 and row["peak_mib"] > 10


def test_codes_are_kept_with_16_bits(tmp_path):
    codes = generate_outputs(EXAMPLES, write_codes, tmp_path, {}, batch_size=4)
    assert np.array_equal(codes, write_codes(EXAMPLES)) and codes[0].dtype == np.uint16
    schema = pyarrow.parquet.read_schema(next(tmp_path.glob("*.parquet")))
    assert schema.field("codes").type.value_type == "uint16"


def test_outputs_of_another_model_or_prompt_are_refused(tiny_model, tmp_path):
    before = {"model": model_fingerprint(*tiny_model)}
    assert before["model"] == model_fingerprint(*tiny_model)
    generate_outputs(EXAMPLES, write_texts, tmp_path, before)
    with torch.no_grad():
        next(tiny_model[0].parameters()).view(-1)[0] += 1
    after = {"model": model_fingerprint(*tiny_model)}
    message = f"model was '{before['model']}' and is '{after['model']}'.*another output folder"
    with pytest.raises(ValueError, match=message):
        generate_outputs(EXAMPLES, write_texts, tmp_path, after)
    asked = [Example(e.id, e.patient, "", e.image_path, "Another question?") for e in EXAMPLES]
    with pytest.raises(ValueError, match="another prompt of '0'"):
        generate_outputs(asked, write_texts, tmp_path, before)


def run(folder, delay, environment):
    """Generate all outputs in a process, each batch slowed down by `delay` seconds."""
    os.environ.update(environment)
    PartialState._reset_state()
    for name, generate in (("text", write_texts), ("image", write_codes)):

        def slow(batch, generate=generate):
            time.sleep(delay)
            return generate(batch)

        generate_outputs(EXAMPLES, slow, folder / name, {"model": "tiny"}, batch_size=2)


def start(*args) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=run, args=args)
    process.start()
    return process


def test_a_killed_run_resumes(tmp_path):
    process = start(tmp_path, 0.3, {})
    folder, end = tmp_path / "text", time.monotonic() + 60
    while len(files(folder)) < 2 and time.monotonic() < end:
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    finished = files(folder)
    assert 2 <= len(finished) < 4
    assert generate_outputs(EXAMPLES, write_texts, folder, {"model": "tiny"}, batch_size=2) == TEXTS
    assert len(files(folder)) == 4 and finished.items() <= files(folder).items()


def test_two_processes_share_the_batches(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The environment of `torchrun --nproc_per_node 2`, on CPUs.
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    running = [start(tmp_path, 0.05, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    for process in running:
        process.join(timeout=60)
        assert process.exitcode == 0
    rows = {name: read_generations(tmp_path / name) for name in ("text", "image")}
    assert [rows["text"][e.id]["text"] for e in EXAMPLES] == TEXTS
    assert np.array_equal([rows["image"][e.id]["codes"] for e in EXAMPLES], write_codes(EXAMPLES))
    assert {row["process"] for row in rows["text"].values()} == {0, 1}
