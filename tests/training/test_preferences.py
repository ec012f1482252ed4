"""Pairs and prompts for TRL."""

import numpy as np
import PIL.Image
import pytest

from transformers_cxr.training import check_lengths, preference_dataset, prompt_dataset, write_images_as_text

IMAGE = {"type": "image"}


def text(text):
    return {"type": "text", "text": text}


def ids(processor, messages, **kwargs):
    return processor.apply_chat_template([messages], tokenize=True, return_dict=True, **kwargs)["input_ids"][0]


@pytest.fixture
def pairs(conversation):
    """A pair of reports and a pair of images."""
    report, image = (conversation(task)["messages"] for task in ("report", "image"))
    codes = np.random.default_rng(1).integers(0, 32, (2, 16)).tolist()
    other = [{"role": "assistant", "content": "Edema."}]
    return [
        {"id": "a", "prompt": report[:1], "chosen": report[1:], "rejected": other, "image_codes": codes[:1]},
        {"id": "b", "prompt": image[:1], "chosen": image[1:], "rejected": image[1:], "image_codes": codes},
    ]


@pytest.mark.parametrize(
    "user", [[text("Report."), IMAGE, text("Old:"), IMAGE], [IMAGE, text("Report."), IMAGE], [IMAGE, IMAGE]]
)
def test_images_written_as_text_have_the_same_ids(tiny_model, user):
    _, processor = tiny_model
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": [text("So:"), IMAGE]}]
    codes = np.random.default_rng(0).integers(0, 32, (3, 16))
    written = write_images_as_text(processor, messages, codes)
    assert {part["type"] for message in written for part in message["content"]} == {"text"}
    assert ids(processor, written) == ids(processor, messages, processor_kwargs={"image_codes": codes})


def test_pairs_hold_their_own_codes(tiny_model, pairs):
    _, processor = tiny_model
    reports, images = preference_dataset(pairs, processor)
    for pair, written in zip(pairs, (reports, images)):
        codes = {"chosen": pair["image_codes"][:1], "rejected": pair["image_codes"][-1:]}
        for name, own in codes.items():
            expected = ids(processor, pair["prompt"] + pair[name], processor_kwargs={"image_codes": own})
            assert ids(processor, written["prompt"] + written[name]) == expected
    with pytest.raises(ValueError, match="Pair 0: the prompt and `chosen` have .* more than the maximum of 30"):
        check_lengths(preference_dataset(pairs, processor), processor, 30)


def test_pixels_of_prompts_are_encoded(tiny_model, pairs):
    model, processor = tiny_model
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    codes = model.vq_tokenizer.encode(processor.image_processor(image, return_tensors="pt").pixel_values).tolist()
    row = pairs[0] | {"image_codes": None, "images": [image]}
    with pytest.raises(ValueError, match="Set `processor.vq_tokenizer"):
        preference_dataset([row], processor)
    processor.vq_tokenizer = model.vq_tokenizer
    expected = preference_dataset([pairs[0] | {"image_codes": codes}], processor)[0]
    assert preference_dataset([row], processor)[0] == expected


@pytest.mark.parametrize(
    ("pair", "changes", "message"),
    [
        (0, {"rejected": [{"role": "assistant", "content": "Clear."}]}, r"Pair 1 \(id 'a'\): `chosen` equals"),
        (1, {"image_codes": [[5] * 16] * 2}, r"Pair 1 \(id 'b'\): `chosen` equals `rejected`"),
        (1, {"image_codes": None, "images": ["1.png", "2.png"]}, "a completion holds an image .* as pixels"),
        (1, {"image_codes": [[5] * 16]}, "Expected an image for each of the 2 slots, got 1"),
        (1, {"image_codes": [[5] * 16, [5] * 15]}, "Expected 16 codes for an image, got 15"),
        (0, {"prompt": "Report."}, "Expected `prompt` as a list of `role` and `content`"),
        (0, {"chosen": [{"role": "assistant", "content": None}]}, "Expected the `content` of message 1"),
    ],
)
def test_an_invalid_pair_is_an_error_with_its_name(tiny_model, pairs, pair, changes, message):
    with pytest.raises(ValueError, match=message):
        preference_dataset([pairs[1 - pair] if pair else pairs[1], pairs[pair] | changes], tiny_model[1])


def test_prompts_have_references_and_labels(tiny_model, conversation):
    _, processor = tiny_model
    rows = [conversation(task, labels={"Edema": value}) for value, task in enumerate(("report", "image"))]
    report, image = prompt_dataset(rows, processor)
    expected = ids(processor, rows[0]["messages"][:1], processor_kwargs={"image_codes": rows[0]["image_codes"]})
    assert ids(processor, report["prompt"]) == expected
    assert ids(processor, image["prompt"]) == ids(processor, rows[1]["messages"][:1])
    assert (report["reference"], image["reference"]) == ("Clear.", "")
    assert (report["labels"], image["labels"]) == ([{"name": "Edema", "value": 0}], [{"name": "Edema", "value": 1}])
    with pytest.raises(ValueError, match="Conversation 0: Expected a last message of the assistant, got .* 'user'"):
        prompt_dataset([{"messages": rows[0]["messages"][:1]}], processor)
    with pytest.raises(ValueError, match="Expected at least one conversation, got none"):
        prompt_dataset([], processor)
