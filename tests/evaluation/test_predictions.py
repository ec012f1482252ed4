"""Outputs of a task: batches, processes, resuming, and outputs of another model."""

import multiprocessing
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import PartialState
from tqdm import tqdm

from transformers_cxr.checkpoints import model_fingerprint
from transformers_cxr.evaluation import Example
from transformers_cxr.evaluation.predictions import predict, read_predictions

EXAMPLES = [Example(str(i), f"p{i}", "", Path(f"/{i}.png"), "Is there pneumonia?") for i in range(7)]


def write_texts(batch):
    return [f"report of {example.id}" for example in batch]


def write_codes(batch):
    return np.array([[int(example.id)] * 4 for example in batch], dtype=np.uint16)


def outputs(predictions):
    return [prediction.output for prediction in predictions]


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
        predict(EXAMPLES, interrupted, tmp_path, {}, batch_size=2)
    finished = files(tmp_path)
    calls[:] = [[]]
    # The first batch of four is complete; the second lacks three.
    assert outputs(predict(EXAMPLES, interrupted, tmp_path, {}, batch_size=4)) == TEXTS
    assert calls == [[], ["4", "5", "6"]] and finished.items() <= files(tmp_path).items()
    assert outputs(predict(EXAMPLES, interrupted, tmp_path, {}, batch_size=2)) == TEXTS and len(calls) == 2
    predictions = list(read_predictions(tmp_path).values())
    assert [prediction.example for prediction in predictions] == EXAMPLES
    assert predictions[3].seconds >= 0 and predictions[3].peak_mib > 10
    assert list(pd.read_parquet(tmp_path)["prediction"])[:4] == TEXTS[:4]


@pytest.mark.parametrize("first", [EXAMPLES[1:], EXAMPLES[:3], EXAMPLES[::-1], EXAMPLES[::2]])
def test_other_examples_keep_what_is_finished(first, tmp_path):
    predict(first, write_texts, tmp_path, {}, batch_size=2)
    finished = files(tmp_path)
    assert outputs(predict(EXAMPLES, write_texts, tmp_path, {}, batch_size=2)) == TEXTS
    assert finished.items() <= files(tmp_path).items()
    assert sorted(pd.read_parquet(tmp_path)["id"]) == [example.id for example in EXAMPLES]


def test_codes_are_kept_with_16_bits(tmp_path):
    codes = outputs(predict(EXAMPLES, write_codes, tmp_path, {}, batch_size=4))
    assert np.array_equal(codes, write_codes(EXAMPLES)) and codes[0].dtype == np.uint16
    assert pd.read_parquet(tmp_path)["prediction"][0].dtype == np.uint16


def test_outputs_of_another_model_are_refused(tiny_model, tmp_path):
    before = {"model": model_fingerprint(*tiny_model)}
    assert before["model"] == model_fingerprint(*tiny_model)
    predict(EXAMPLES, write_texts, tmp_path, before)
    with torch.no_grad():
        next(tiny_model[0].parameters()).view(-1)[0] += 1
    after = {"model": model_fingerprint(*tiny_model)}
    tiny_model[0].generation_config.repetition_penalty = 2.0
    assert model_fingerprint(*tiny_model) not in (before["model"], after["model"])
    message = f"model was '{before['model']}' and is '{after['model']}'.*another output folder"
    with pytest.raises(ValueError, match=message):
        predict(EXAMPLES, write_texts, tmp_path, after)


def predict_as(rank, folder, environment):
    # The parent's lock may be held by a thread that does not exist in this process.
    tqdm.set_lock(threading.RLock())
    os.environ.update(environment | {"RANK": rank, "LOCAL_RANK": rank})
    PartialState._reset_state()
    predict(EXAMPLES, lambda batch: [f"{text} by {rank}" for text in write_texts(batch)], folder, {}, batch_size=2)


def test_two_processes_share_the_batches(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The environment of `torchrun --nproc_per_node 2`, on CPUs.
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    context = multiprocessing.get_context("fork")
    # Daemons, so that a process that hangs ends with the test run.
    running = [context.Process(target=predict_as, args=(rank, tmp_path, shared), daemon=True) for rank in "01"]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=60)
        assert process.exitcode == 0
    # Batches of two, in turns.
    expected = [f"{text} by {number // 2 % 2}" for number, text in enumerate(TEXTS)]
    assert outputs(read_predictions(tmp_path).values()) == expected
