"""Conversations as examples."""

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset

from transformers_cxr.data.mixture import TASKS
from transformers_cxr.training import InstructionCollator, InstructionDataset, encode_conversation


@pytest.mark.parametrize(
    ("task", "response"), [("report", "Clear."), ("vqa", "Clear."), ("text", "Clear."), ("image", "<image>")]
)
def test_labels_are_the_response_and_its_end(tiny_model, conversation, task, response):
    _, processor = tiny_model
    example = encode_conversation(processor, conversation(task))
    labeled = example["labels"][example["labels"] != -100]
    assert processor.split_interleaved(labeled)[0] == f"{response}\n\n### End"
    assert torch.equal(labeled, example["input_ids"][example["labels"] != -100])
    assert TASKS[example["task"]] == task


def test_images_give_the_ids_of_their_codes(tiny_model, conversation, tmp_path):
    model, processor = tiny_model
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    codes = model.vq_tokenizer.encode(processor.image_processor(image, return_tensors="pt").pixel_values)
    by_codes = encode_conversation(processor, conversation("image") | {"image_codes": codes.tolist()})
    for given in (image, str(tmp_path / "image.png")):
        record = conversation("image") | {"image_codes": None, "images": [given]}
        batch = InstructionCollator(0)([encode_conversation(processor, record)])
        ids, _, labels, _ = model.replace_image_placeholders(
            batch["pixel_values"], batch["input_ids"], labels=batch["labels"]
        )
        assert torch.equal(ids[0], by_codes["input_ids"]) and torch.equal(labels[0], by_codes["labels"])


def test_codes_of_prompts_have_labels_on_request(tiny_model, conversation):
    _, processor = tiny_model
    given = conversation("report")
    example = encode_conversation(processor, given, label_prompt_images=True)
    text, codes = processor.split_interleaved(example["labels"][example["labels"] != -100])
    # Without the tokens around an image, its codes are special tokens of the text.
    codes_of_prompt = "".join(f"<|cxr_{code:04d}|>" for code in given["image_codes"][0])
    assert text == f"{codes_of_prompt}Clear.\n\n### End" and not codes


def test_every_other_image_of_a_prompt_is_augmented_the_same_way_each_time(tiny_model, conversation):
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    rows = [conversation(task) | {"image_codes": None, "images": [image]} for task in ("report",) * 3 + ("image",)]
    plain, augmented = (InstructionDataset(rows, tiny_model[1], augment=augment) for augment in (False, True))
    pixel_values = [[dataset[i]["pixel_values"] for i in range(4)] for dataset in (plain, augmented)]
    assert [torch.equal(*pair) for pair in zip(*pixel_values)] == [True, False, True, True]
    assert torch.equal(augmented[1]["pixel_values"], pixel_values[1][1])
    with pytest.raises(ValueError, match="Codes cannot be augmented. Give `images`, or do not set `augment`"):
        InstructionDataset([conversation("report")], tiny_model[1], augment=True)[0]


def test_a_formatted_table_gives_the_examples_of_lists(tiny_model, conversation):
    records = [conversation("report"), conversation("image", seed=1)]
    rows = InstructionDataset(Dataset.from_list(records).with_format("torch"), tiny_model[1])
    for row, expected in zip(rows, InstructionDataset(records, tiny_model[1]), strict=True):
        assert torch.equal(row["input_ids"], expected["input_ids"])


def test_a_conversation_that_is_too_long_is_an_error_or_skipped(tiny_model, conversation):
    short, long = conversation("vqa", seed=1), conversation("text", "Yes. " * 99, id="study 7")
    with pytest.raises(ValueError, match=r"Conversation 1 \(id 'study 7'\) has \d+ tokens, more than .* of 120"):
        InstructionDataset([short, long], tiny_model[1], 120)[1]
    dataset = InstructionDataset([long, long, short], tiny_model[1], 120, skip_too_long=True)
    assert torch.equal(dataset[0]["input_ids"], dataset[2]["input_ids"])
    assert [example["skipped"] for example in dataset] == [1, 1, 0]
    assert len(dataset.drop_too_long()) == 1
    with pytest.raises(ValueError, match="None of the 2 conversations fits into 120 tokens"):
        InstructionDataset([long, long], tiny_model[1], 120, skip_too_long=True)[0]


USER = [{"role": "user", "content": "Report."}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "caption"}, r"\(id 'x'\): Expected a task from report, image, vqa, text, got 'caption'"),
        ({"image_codes": [[0] * 15 + [32]]}, r"\(id 'x'\): Expected integer codes in .*to 32"),
        ({"image_codes": [[0] * 16] * 2}, "Found total 1 <image> tokens and 2 images"),
        ({"image_codes": None, "images": ["a.png", "b.png"]}, "each of the 1 image slots, got 2"),
        ({"image_codes": None, "images": ["missing.png"]}, r"\(id 'x'\): .*missing.png"),
        ({"image_codes": None, "images": 5}, r"\(id 'x'\): Expected `images` as a list, got 5"),
        ({"image_codes": [["a"] * 16]}, r"\(id 'x'\): Expected integer codes"),
        ({"messages": [{"content": "x"}]}, "Expected the `role` of message 1 as a string, got None"),
        ({"messages": USER, "image_codes": []}, "Expected a response of the assistant"),
        ({"messages": None}, r"Expected `messages` as a list of `role` and `content`, got None"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"\(id 'x'\): .* has the role 'tool'"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, r"got \[{'text': 'x'}\]"),
    ],
)
def test_an_invalid_conversation_is_an_error_that_names_it(tiny_model, conversation, change, message):
    dataset = InstructionDataset([conversation("report", id="x") | change], tiny_model[1])
    with pytest.raises(ValueError, match=message):
        dataset[0]
