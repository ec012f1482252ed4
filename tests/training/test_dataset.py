"""Conversations as examples, and examples as batches, padded and packed."""

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset

from transformers_cxr.training.dataset import (
    PACKINGS,
    TASKS,
    InstructionCollator,
    InstructionDataset,
    encode_conversation,
)
from transformers_cxr.training.trainer import losses_of_examples


def text(value):
    return {"type": "text", "text": value}


def record(task, answer="Clear.", seed=0, **kwargs):
    """A conversation of 16 codes, all but that of the task "text"."""
    question = {"report": "Report.", "vqa": "Is there pneumonia?", "image": "Draw.", "text": "What is an X-ray?"}[task]
    codes = np.random.default_rng(seed).integers(0, 32, (1, 16)).tolist()
    parts = {
        "report": ([text(question), {"type": "image"}], [text(answer)]),
        "vqa": ([text(question), {"type": "image"}], answer),
        "image": ([text(question), text(answer)], [{"type": "image"}]),
        "text": (question, answer),
    }[task]
    messages = [{"role": role, "content": content} for role, content in zip(("user", "assistant"), parts)]
    return {"messages": messages, "task": task, "image_codes": [] if task == "text" else codes, **kwargs}


@pytest.fixture
def conversations():
    """Of all tasks and many lengths."""
    answers = ["No.", "The lungs are clear and there is no effusion. " * 3, "Yes. " * 12]
    return [record(task, answer, seed=i) for i, answer in enumerate(answers) for task in TASKS]


def examples(records, processor):
    dataset = InstructionDataset(records, processor)
    return [dataset[i] for i in range(len(dataset))]


@pytest.mark.parametrize(
    ("task", "response"), [("report", "Clear."), ("vqa", "Clear."), ("text", "Clear."), ("image", "<image>")]
)
def test_the_labels_are_the_response_and_its_end(tiny_model, task, response):
    _, processor = tiny_model
    example = encode_conversation(processor, record(task))
    labelled = example["labels"][example["labels"] != -100]
    assert processor.split_interleaved(labelled)[0] == f"{response}\n\n### End"
    assert torch.equal(labelled, example["input_ids"][example["labels"] != -100])
    assert TASKS[example["task"]] == task


def test_images_give_the_ids_of_their_codes(tiny_model, tmp_path):
    model, processor = tiny_model
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    codes = model.vq_tokenizer.encode(processor.image_processor(image, return_tensors="pt").pixel_values)
    by_codes = encode_conversation(processor, {**record("image"), "image_codes": codes.tolist()})
    for given in (image, str(tmp_path / "image.png")):
        by_image = encode_conversation(processor, {**record("image"), "image_codes": None, "images": [given]})
        batch = InstructionCollator(0)([{**by_image, "skipped": 0}])
        ids, labels = model.replace_image_placeholders(batch["input_ids"], batch["pixel_values"], batch["labels"])
        assert torch.equal(ids[0], by_codes["input_ids"]) and torch.equal(labels[0], by_codes["labels"])


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_a_dataset_that_gives_arrays_gives_the_examples_of_one_that_gives_lists(tiny_model, form):
    records = [record("report"), record("image", seed=1)]
    rows = Dataset.from_list(records).with_format(form)
    for row, expected in zip(InstructionDataset(rows, tiny_model[1]), examples(records, tiny_model[1]), strict=True):
        assert torch.equal(row["input_ids"], expected["input_ids"])


def test_packed_losses_are_those_of_the_conversations_alone(any_model, conversations):
    model, processor = any_model
    batch = examples(conversations, processor)
    expected = []
    for example in batch:
        alone = model(input_ids=example["input_ids"][None], labels=example["labels"][None])
        expected.append(alone.loss.item() * int((example["labels"] != -100).sum()))
    for packing in PACKINGS:
        packed = InstructionCollator(0, packing, return_tasks=True)(batch)
        assert len(packed["input_ids"]) < len(batch)
        inputs = {name: packed[name] for name in ("input_ids", "position_ids", "labels")}
        output = model(**inputs)
        sums, tokens = losses_of_examples(output.logits, packed["labels"], packed["examples"], len(batch))
        torch.testing.assert_close(sums, torch.tensor(expected, dtype=torch.double), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(output.loss.double(), sums.sum() / tokens.sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_conversations_do_not_see_each_other(tiny_model, conversations, attention):
    model, processor = tiny_model
    model.set_attn_implementation({"text_config": attention})
    batch = InstructionCollator(0, "one_row", return_tasks=True)(examples(conversations[:3], processor))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][batch["examples"] == 0] = 7
    logits = [model(b["input_ids"], position_ids=b["position_ids"], use_cache=False).logits for b in (batch, changed)]
    for owner in (1, 2):
        members = batch["examples"] == owner
        torch.testing.assert_close(logits[0][members], logits[1][members], rtol=0, atol=1e-5)
    assert not torch.allclose(logits[0][batch["examples"] == 0], logits[1][batch["examples"] == 0])


def test_packed_gradients_are_those_of_the_padded_batch(any_model, conversations):
    model, processor = any_model
    batch = examples(conversations[:9], processor)
    gradients = []
    for packing in (None, "rows"):
        model.zero_grad()
        model(**InstructionCollator(0, packing)(batch)).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.language_model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_rows_are_no_longer_than_the_longest_conversation_and_hold_each_once(tiny_model, conversations):
    _, processor = tiny_model
    batch = examples(conversations, processor)
    padded, packed = (InstructionCollator(0, p, return_tasks=True)(batch) for p in (None, "rows"))
    assert packed["input_ids"].shape[1] <= padded["input_ids"].shape[1]
    assert packed["input_ids"].numel() < padded["input_ids"].numel()
    for owner, example in enumerate(batch):
        members = packed["examples"] == owner
        assert torch.equal(packed["input_ids"][members], example["input_ids"])
        assert torch.equal(packed["position_ids"][members], torch.arange(len(example["input_ids"])))
        assert len(members.any(1).nonzero()) == 1
    assert torch.equal((packed["examples"] >= 0).sum(), padded["attention_mask"].sum())


def test_padding_is_on_the_right_and_without_a_loss(tiny_model, conversations):
    _, processor = tiny_model
    batch = InstructionCollator(5)(examples(conversations[:4], processor))
    padding = batch["attention_mask"] == 0
    assert padding.any() and not padding[:, 0].any() and (padding[:, 1:] >= padding[:, :-1]).all()
    assert (batch["input_ids"][padding] == 5).all() and (batch["labels"][padding] == -100).all()
    assert "position_ids" not in batch and "tasks" not in batch


def test_a_conversation_that_is_too_long_is_an_error_that_names_it(tiny_model):
    dataset = InstructionDataset([record("text"), record("text", "Yes. " * 99, id="study 7")], tiny_model[1], 120)
    assert dataset[0]["skipped"] == 0
    with pytest.raises(ValueError, match=r"Conversation 1 \(id 'study 7'\) has \d+ tokens, and 120 are allowed"):
        dataset[1]


def test_a_conversation_that_is_too_long_can_be_skipped_and_is_counted(tiny_model):
    short, long = record("vqa", seed=1), record("text", "Yes. " * 99, id="study 7")
    dataset = InstructionDataset([long, long, short], tiny_model[1], 120, skip_too_long=True)
    assert torch.equal(dataset[0]["input_ids"], dataset[2]["input_ids"])
    assert [example["skipped"] for example in dataset] == [1, 1, 0]
    assert len(dataset.fitting()) == 1
    dataset = InstructionDataset([long, long], tiny_model[1], 120, skip_too_long=True)
    with pytest.raises(ValueError, match="None of the 2 conversations fits into 120 tokens"):
        dataset[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "caption"}, r"\(id 'x'\): the task must be one of report, image, vqa, text, got 'caption'"),
        ({"image_codes": [[0] * 15 + [32]]}, r"\(id 'x'\): Code 32 is outside the codebook"),
        ({"image_codes": [[0] * 15]}, "Expected 16 codes an image, got 15"),
        ({"image_codes": [[0] * 16] * 2}, "1 image slots .* and 2 images were given"),
        ({"image_codes": None}, "1 image slots .* and 0 images were given"),
        ({"image_codes": None, "images": ["a.png", "b.png"]}, "1 image slots and 2 images"),
        ({"image_codes": None, "images": ["missing.png"]}, r"\(id 'x'\): .*missing.png"),
        ({"messages": record("report")["messages"][:1]}, "no response of the assistant"),
        ({"messages": None}, r"\(id 'x'\): it has no `messages`"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"\(id 'x'\): .* has the role 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, r"\(id 'x'\): the `content` of message 1 .*, got None"),
        (
            {"messages": [{"role": "user"}], "images": ["a.png"]},
            "the `content` of message 1 must be a text, or a list",
        ),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, r"got \[{'text': 'x'}\]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "message 1 must be a text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, r"got \['x'\]"),
        ({"messages": "[{}]"}, r"`messages` must be a list of objects with `role` and `content`, got '\[{}\]'"),
    ],
)
def test_a_record_that_is_wrong_is_an_error_that_names_it(tiny_model, change, message):
    dataset = InstructionDataset([{**record("report", id="x"), **change}], tiny_model[1])
    with pytest.raises(ValueError, match=message):
        dataset[0]


def test_no_conversation_at_all_is_an_error(tiny_model):
    with pytest.raises(ValueError, match="at least one conversation"):
        InstructionDataset([], tiny_model[1])


def test_an_unknown_packing_is_an_error():
    with pytest.raises(ValueError, match="must be one of rows, one_row or None, got 'dense'"):
        InstructionCollator(0, packing="dense")
