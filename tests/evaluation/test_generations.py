"""Generation for an evaluation on a tiny random model: batches, processes, kills, stale caches."""

import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest
import torch
from accelerate import PartialState

from transformers_cxr.evaluation.examples import Example
from transformers_cxr.evaluation.generations import (
    fingerprint,
    generate,
    image_generator,
    interleaved_generator,
    is_well_formed,
    read_generations,
    text_generator,
)


@pytest.fixture
def examples(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(7):
        pixels = (rng.random((6, 6)) * 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).resize((40, 40)).save(tmp_path / "data" / f"{i}.png")
    paths = sorted((tmp_path / "data").iterdir())
    return [Example(path.name, path.name, "", path, "Is there pneumonia?") for path in paths]


def single(produce, examples):
    """What the examples give each in a batch of its own."""
    return [produce([example])[0] for example in examples]


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.parquet")}


def test_texts_and_images_of_a_batch_are_those_of_each_example_alone(tiny_model, examples, tmp_path):
    model, processor = tiny_model
    # Prompts of several lengths, so that rows are padded.
    examples = [Example(e.id, e.patient, "", e.image_path, e.prompt * (1 + i % 3)) for i, e in enumerate(examples)]
    texts = text_generator(model, processor, max_new_tokens=12)
    assert generate(examples, texts, tmp_path / "text", {}, batch_size=3) == single(texts, examples)
    images = image_generator(model, processor, seed=5, guidance_scale=1.5)
    codes = generate(examples, images, tmp_path / "image", {}, batch_size=3)
    assert np.array_equal(codes, single(images, examples)) and codes[0].dtype == np.uint16
    assert len({tuple(row) for row in codes}) == len(examples)
    other = image_generator(model, processor, seed=6, guidance_scale=1.5)
    assert not np.array_equal(codes[0], other(examples[:1])[0])


def test_text_is_that_of_generate_on_the_pixels(tiny_model, examples):
    model, processor = tiny_model
    messages = [{"role": "user", "content": [{"type": "text", "text": examples[0].prompt}, {"type": "image"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=[PIL.Image.open(examples[0].image_path)], text=prompt, return_tensors="pt")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=12, generation_mode="text")
    expected = processor.tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True).strip()
    assert text_generator(model, processor, max_new_tokens=12)(examples[:1]) == [expected]


def test_only_what_is_missing_is_produced_and_kept_as_parquet(examples, tmp_path):
    calls = []

    def produce(batch):
        if len(calls) == 2:
            raise RuntimeError("cut off")
        calls.append([example.id for example in batch])
        return [f"report of {example.id}" for example in batch]

    with pytest.raises(RuntimeError, match="cut off"):
        generate(examples, produce, tmp_path / "out", {}, batch_size=2)
    kept = files(tmp_path / "out")
    calls[:] = [[]]
    assert generate(examples, produce, tmp_path / "out", {}, batch_size=4)[5] == "report of 5.png"
    # The first batch of four was whole already; the second one held three that were missing.
    assert calls == [[], ["4.png", "5.png", "6.png"]]
    assert kept.items() <= files(tmp_path / "out").items()
    calls[:] = []
    texts = generate(examples, produce, tmp_path / "out", {}, batch_size=2)
    assert texts == [f"report of {e.id}" for e in examples] and not calls
    rows = read_generations(tmp_path / "out")
    assert rows["3.png"]["prompt"] == "Is there pneumonia?" and rows["3.png"]["seconds"] >= 0
    assert rows["3.png"]["peak_mib"] > 10


def test_codes_are_kept_with_16_bits(tiny_model, examples, tmp_path):
    generate(examples, image_generator(*tiny_model), tmp_path / "out", {}, batch_size=4)
    schema = pyarrow.parquet.read_schema(next((tmp_path / "out").glob("*.parquet")))
    assert str(schema.field("codes").type) in ("list<element: uint16>", "list<item: uint16>")


def test_outputs_of_another_model_or_prompt_are_refused(tiny_model, examples, tmp_path):
    model, processor = tiny_model
    before = {"model": fingerprint(model, processor), "seed": 0}
    assert before["model"] == fingerprint(model, processor)
    generate(examples, lambda batch: ["a"] * len(batch), tmp_path / "out", before)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    after = before | {"model": fingerprint(model, processor)}
    with pytest.raises(
        ValueError, match=f"model was '{before['model']}' and is '{after['model']}'.*another output folder"
    ):
        generate(examples, lambda batch: ["b"] * len(batch), tmp_path / "out", after)
    asked = [Example(e.id, e.patient, "", e.image_path, "Another question?") for e in examples]
    with pytest.raises(ValueError, match="another prompt of '0.png'"):
        generate(asked, lambda batch: ["b"] * len(batch), tmp_path / "out", before)


def test_every_image_at_temperature_two_is_well_formed_and_broken_ones_are_told(tiny_model, examples, tmp_path):
    model, processor = tiny_model
    outputs = generate(examples, interleaved_generator(model, processor), tmp_path / "out", {}, batch_size=4)
    assert all(is_well_formed(output, processor) for output in outputs)
    again = interleaved_generator(model, processor)(examples[:4])
    assert again == outputs[:4]
    ids = outputs[0].split()
    length, code = processor.num_image_tokens, str(processor.image_token_offset)
    assert not is_well_formed(" ".join(ids[: length - 1] + ids[length:]), processor)
    assert not is_well_formed(" ".join(ids[:length]), processor)
    assert not is_well_formed(" ".join([*ids, code]), processor)


def run(tiny_model, examples, folder, delay, environment):
    """What a process does: reports and drawings of all examples, each batch slowed down by `delay` seconds."""
    # As in the workers of a DataLoader: threads of the parent do not survive the fork.
    torch.set_num_threads(1)
    os.environ.update(environment)
    PartialState._reset_state()
    generators = {"text": text_generator(*tiny_model, max_new_tokens=8), "image": image_generator(*tiny_model)}
    for name, produce in generators.items():

        def slow(batch, produce=produce):
            time.sleep(delay)
            return produce(batch)

        generate(examples, slow, folder / name, {"model": "tiny"}, batch_size=2)


def start(*args) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=run, args=args)
    process.start()
    return process


def expected(tiny_model, examples):
    texts = text_generator(*tiny_model, max_new_tokens=8)
    images = image_generator(*tiny_model)
    return single(texts, examples), single(images, examples)


def test_a_run_killed_with_sigkill_goes_on_and_ends_as_if_it_had_not_been(tiny_model, examples, tmp_path):
    process = start(tiny_model, examples, tmp_path, 0.5, {})
    folder, end = tmp_path / "text", time.monotonic() + 60
    while len(files(folder)) < 2 and time.monotonic() < end:
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = files(folder)
    assert 2 <= len(kept) < 4
    texts, _ = expected(tiny_model, examples)
    produce = text_generator(*tiny_model, max_new_tokens=8)
    assert generate(examples, produce, folder, {"model": "tiny"}, batch_size=2) == texts
    assert len(files(folder)) == 4 and kept.items() <= files(folder).items()


def test_two_processes_give_what_one_gives(tiny_model, examples, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # What `torchrun --nproc_per_node 2` sets, and that CPUs are to be used.
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    running = [
        start(tiny_model, examples, tmp_path, 0.1, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    for process in running:
        process.join(timeout=60)
        assert process.exitcode == 0
    texts, images = expected(tiny_model, examples)
    rows = {name: read_generations(tmp_path / name) for name in ("text", "image")}
    assert [rows["text"][e.id]["text"] for e in examples] == texts
    assert np.array_equal([rows["image"][e.id]["codes"] for e in examples], images)
    processes = {row["process"] for row in rows["text"].values()}
    assert processes == {0, 1}
