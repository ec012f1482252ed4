import copy

import numpy as np
import PIL.Image
import pytest
import torch
from jinja2 import TemplateError
from tokenizers.processors import TemplateProcessing

from transformers_cxr import CXRVQTokenizerConfig, LlmCxrProcessor


def codes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 32, (count, 16))


CONVERSATION = [
    {"role": "user", "content": [{"type": "text", "text": "Is there pneumonia?"}, {"type": "image"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    {"role": "user", "content": [{"type": "text", "text": "Draw it."}, {"type": "text", "text": "Pneumonia."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Here: "}, {"type": "image"}]},
]


def test_chat_template_is_dollys_instruction_format(tiny_model):
    _, processor = tiny_model
    assert processor.apply_chat_template(CONVERSATION) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nIs there pneumonia?\n\nInput:\n<image>\n\n### Response:\nYes.\n\n### End\n\n"
        "### Instruction:\nDraw it.\n\nInput:\nPneumonia.\n\n### Response:\nHere: <image>\n\n### End"
    )


def test_system_message_replaces_the_introduction_and_the_prompt_ends_with_the_response_key(tiny_model):
    _, processor = tiny_model
    messages = [{"role": "system", "content": "You read X-rays."}, {"role": "user", "content": "Hello."}]
    expected = "You read X-rays.\n\n### Instruction:\nHello.\n\n### Response:\n"
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected


def test_system_message_in_parts_is_their_text(tiny_model):
    _, processor = tiny_model
    parts = [{"type": "text", "text": "You read "}, {"type": "text", "text": "X-rays."}]
    messages = [{"role": "system", "content": parts}, {"role": "user", "content": "Hello."}]
    assert processor.apply_chat_template(messages) == "You read X-rays.\n\n### Instruction:\nHello.\n\n"


USER, VIDEO = {"role": "user", "content": "Hello."}, {"type": "video", "path": "a.mp4"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER, {"role": "tool", "content": "3"}], "Message 2 has the role 'tool'. Known are 'user', 'assistant'"),
        ([USER, {"role": "system", "content": "Be brief."}], "Message 2 has the role 'system'.*for the first"),
        ([{"role": "user", "content": [VIDEO]}], "parts of type 'text' and 'image', not 'video'"),
        ([USER, {"role": "assistant", "content": [VIDEO]}], "parts of type 'text' and 'image', not 'video'"),
        ([{"role": "system", "content": [VIDEO]}], "parts of type 'text' and 'image', not 'video'"),
    ],
)
def test_what_the_chat_template_has_no_place_for_is_refused(tiny_model, messages, message):
    with pytest.raises(TemplateError, match=message):
        tiny_model[1].apply_chat_template(messages)


def test_assistant_mask_covers_exactly_the_responses_images_included(tiny_model):
    _, processor = tiny_model
    encoded = processor.apply_chat_template(
        [CONVERSATION],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        processor_kwargs={"image_codes": codes(2)},
    )
    ids, mask = encoded["input_ids"][0], encoded["assistant_masks"][0]
    response = [token for token, kept in zip(ids, mask) if kept]
    drawn = "".join(f"<|cxr_{code:04d}|>" for code in codes(2)[1])
    expected = f"Yes.\n\n### EndHere: <|cxr_start|>{drawn}<|cxr_end|>\n\n### End"
    assert processor.tokenizer.decode(response) == expected


@pytest.mark.parametrize("text", ["<image>", "a <image> b", "<image><image>", "no image", "<image>\n\nx <image>"])
def test_ids_to_text_and_codes_and_back(tiny_model, text):
    _, processor = tiny_model
    given = codes(text.count("<image>"))
    kwargs = {"image_codes": given} if len(given) else {}
    ids = processor(text=[text], return_tensors="pt", **kwargs).input_ids
    back_text, back_codes = processor.split_interleaved(ids[0])
    assert back_text == text and back_codes == given.tolist()
    assert len(ids[0]) == len(processor.tokenizer(text).input_ids) + 17 * len(given)


def test_a_sequence_that_begins_with_a_token_of_the_tokenizer_comes_back(text_tokenizer, vq_tokenizer):
    tokenizer = copy.deepcopy(text_tokenizer)
    begin = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    processor = LlmCxrProcessor.from_tokenizer(tokenizer, vq_tokenizer.config)
    ids = processor(text=["a <image> b"], image_codes=codes(1)).input_ids
    assert ids[0][0] == begin[1]
    text, image_codes = processor.split_interleaved(ids[0])
    assert processor(text=[text], image_codes=image_codes, add_special_tokens=False).input_ids == ids


def test_batch_is_padded_on_the_left(tiny_model):
    _, processor = tiny_model
    batch = processor(text=["short", "a longer <image> one"], image_codes=codes(1), return_tensors="pt", padding=True)
    assert batch.attention_mask[0, 0] == 0 and batch.attention_mask[:, -1].tolist() == [1, 1]


def test_conversation_with_images_of_any_kind_is_tokenized_in_one_call(tiny_model, tmp_path):
    model, processor = tiny_model
    array = np.random.default_rng(0).integers(0, 65536, (40, 40), dtype=np.uint16)
    PIL.Image.fromarray(array).save(tmp_path / "deep.png")
    results = []
    for source in (array, str(tmp_path / "deep.png"), PIL.Image.open(tmp_path / "deep.png")):
        message = {
            "role": "user",
            "content": [{"type": "text", "text": "Report."}, {"type": "image", "image": source}],
        }
        results.append(
            processor.apply_chat_template([message], tokenize=True, return_dict=True, return_tensors="pt").pixel_values
        )
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_output_modes_give_text_images_or_both(tiny_model):
    model, processor = tiny_model
    processor.vq_tokenizer = model.vq_tokenizer
    ids = processor(text=["a <image> b"], image_codes=codes(1), return_tensors="pt").input_ids
    assert processor.post_process_multimodal_output(ids, generation_mode="text") == ["a  b"]
    before, image, after = processor.post_process_multimodal_output(ids)[0]
    assert (before, after) == ("a ", " b") and image.size == (32, 32)
    assert [type(i) for i in processor.post_process_multimodal_output(ids[0], generation_mode="image")[0]] == [
        type(image)
    ]
    expected = processor.image_processor.postprocess(model.vq_tokenizer.decode(torch.tensor(codes(1))))[0]
    assert image.tobytes() == expected.tobytes()


def test_save_and_load_keeps_everything_but_the_vq_tokenizer(tiny_model, tmp_path):
    model, processor = tiny_model
    processor.vq_tokenizer = model.vq_tokenizer
    processor.save_pretrained(tmp_path)
    loaded = LlmCxrProcessor.from_pretrained(tmp_path)
    assert loaded.vq_tokenizer is None and loaded.tokenizer.padding_side == "left"
    assert (loaded.num_image_tokens, loaded.codebook_size, loaded.image_token_offset) == (
        16,
        32,
        processor.image_token_offset,
    )
    given = {"text": ["a <image>"], "image_codes": codes(1)}
    assert loaded(**given)["input_ids"] == processor(**given)["input_ids"]
    assert loaded.apply_chat_template(CONVERSATION) == processor.apply_chat_template(CONVERSATION)
    assert "image_token_offset" not in (tmp_path / "processor_config.json").read_text()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_images_and_slots_must_match_in_number(tiny_model, count):
    _, processor = tiny_model
    images = [np.zeros((40, 40), dtype=np.uint8)] * count
    with pytest.raises(ValueError, match=f"2 image slots.*{count} images"):
        processor(text=["<image> and <image>"], images=images or None)
    if count:
        with pytest.raises(ValueError, match=f"2 image slots.*{count} images"):
            processor(text=["<image> and <image>"], image_codes=codes(count))


@pytest.mark.parametrize("images", [[], [[], []]])
def test_a_batch_may_be_without_images(tiny_model, images):
    _, processor = tiny_model
    assert processor(text=["a", "b"], images=images) == processor(text=["a", "b"])
    with pytest.raises(ValueError, match="1 image slots.*0 images"):
        processor(text=["<image>", "b"], images=images)


def test_images_given_for_each_text_must_match_its_slots(tiny_model):
    _, processor = tiny_model
    images = [np.full((40, 40), value, dtype=np.uint8) for value in (0, 99)]
    texts = ["<image>", "<image>"]
    with pytest.raises(ValueError, match=r"The texts have \[1, 1\] image slots .* and \[2, 0\] images"):
        processor(text=texts, images=[images, []])
    nested = processor(text=texts, images=[images[:1], images[1:]], return_tensors="pt")
    assert torch.equal(nested.pixel_values, processor(text=texts, images=images, return_tensors="pt").pixel_values)


def test_texts_that_are_no_strings_are_refused(tiny_model):
    with pytest.raises(TypeError, match="Expected texts as strings, got NoneType"):
        tiny_model[1](text=["a", None])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("way", ["pixels", "codes", "vq_tokenizer"])
def test_truncation_that_cuts_an_image_is_refused(tiny_model, way, side):
    model, processor = tiny_model
    processor.tokenizer.truncation_side = side
    processor.vq_tokenizer = model.vq_tokenizer if way == "vq_tokenizer" else None
    images = {"image_codes": codes(1)} if way == "codes" else {"images": [np.zeros((40, 40), dtype=np.uint8)]}
    given = {"text": ["Before it <image> after it."], **images}
    whole = processor(**given)["input_ids"][0]
    assert processor(**given, truncation=True, max_length=len(whole))["input_ids"][0] == whole
    with pytest.raises(ValueError, match="truncation"):
        processor(**given, truncation=True, max_length=12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((1, 15), dtype=int), r"Expected 16 codes an image, got 15 \(image 1 of 1\)"),
        (np.full((1, 16), 32), r"Code 32 is outside the codebook: codes are integers in \[0, 32\)"),
        (np.full((1, 16), -1), "Code -1 is outside"),
        (np.full((1, 16), 0.5), "Codes must be integers, got 0.5"),
    ],
)
def test_wrong_codes_are_refused(tiny_model, wrong, message):
    _, processor = tiny_model
    with pytest.raises(ValueError, match=message):
        processor(text=["<image>"], image_codes=wrong)


def test_images_and_codes_together_are_refused(tiny_model):
    _, processor = tiny_model
    with pytest.raises(ValueError, match="not both"):
        processor(text=["<image>"], images=np.zeros((40, 40), dtype=np.uint8), image_codes=codes(1))


def test_codes_without_a_text_are_refused(tiny_model):
    model, processor = tiny_model
    with pytest.raises(ValueError, match="Codes are written into a text: give `text` with a slot"):
        processor(image_codes=codes(1))
    processor.vq_tokenizer = model.vq_tokenizer
    with pytest.raises(ValueError, match="Codes are written into a text: give `text` with a slot"):
        processor(images=np.zeros((40, 40), dtype=np.uint8))


def test_broken_image_in_ids_is_refused(tiny_model):
    _, processor = tiny_model
    ids = processor(text=["a <image>"], image_codes=codes(1), return_tensors="pt").input_ids[0]
    with pytest.raises(ValueError, match=r"Expected 16 codes for an image, got 12 \(image 1 of the sequence\)"):
        processor.split_interleaved(ids[:-5])


def test_vq_tokenizer_of_another_codebook_is_refused(tiny_model, text_tokenizer):
    model, _ = tiny_model
    config = CXRVQTokenizerConfig(image_size=32, block_out_channels=(32, 32), attention_levels=(), codebook_size=64)
    other = LlmCxrProcessor.from_tokenizer(text_tokenizer, config)
    with pytest.raises(ValueError, match="16 codes an image out of 32, the processor's tokens are for 256 out of 64"):
        other.vq_tokenizer = model.vq_tokenizer
    with pytest.raises(ValueError, match="Set `processor.vq_tokenizer"):
        other.decode_codes([[0] * 256])


def test_text_tokenizer_without_code_tokens_is_refused(tiny_model, text_tokenizer):
    _, processor = tiny_model
    with pytest.raises(ValueError, match="lacks the tokens .*from_tokenizer"):
        LlmCxrProcessor(processor.image_processor, text_tokenizer)


def test_the_given_tokenizer_is_left_as_it_was(text_tokenizer, vq_tokenizer):
    size, side = len(text_tokenizer), text_tokenizer.padding_side
    LlmCxrProcessor.from_tokenizer(text_tokenizer, vq_tokenizer.config)
    assert (len(text_tokenizer), text_tokenizer.padding_side) == (size, side)


def test_spelled_placeholder_in_generated_text_is_text(tiny_model):
    model, processor = tiny_model
    processor.vq_tokenizer = model.vq_tokenizer
    spelled = [i for piece in ("<", "image", ">") for i in processor.tokenizer(piece).input_ids]
    assert processor.image_token_id not in spelled
    drawn = processor(text=["<image>"], image_codes=codes(1)).input_ids[0]
    text, image = processor.post_process_multimodal_output([spelled + drawn])[0]
    assert text == "<image>" and image.size == (32, 32)


def test_output_of_one_row_is_taken_as_a_list_too(tiny_model):
    _, processor = tiny_model
    ids = processor.tokenizer("No effusion.").input_ids + [processor.tokenizer.convert_tokens_to_ids("### End")]
    for mode, expected in (("text", ["No effusion."]), (None, [["No effusion."]]), ("image", [[]])):
        assert processor.post_process_multimodal_output(ids, generation_mode=mode) == expected
    assert processor.post_process_multimodal_output(ids, skip_special_tokens=False) == [["No effusion.### End"]]
    with pytest.raises(ValueError, match="got 'audio'"):
        processor.post_process_multimodal_output(ids, generation_mode="audio")


@pytest.mark.parametrize("given", [torch.zeros(16, dtype=torch.long), [0] * 16])
def test_codes_that_are_not_in_rows_are_refused(tiny_model, given):
    _, processor = tiny_model
    with pytest.raises(ValueError, match=r"shape \(num_images, 16\), got int"):
        processor(text=["<image>"], image_codes=given)


@pytest.mark.parametrize("given", [torch.zeros(1, 16), torch.ones(1, 16, dtype=torch.bool)])
def test_codes_of_another_kind_are_refused(tiny_model, given):
    _, processor = tiny_model
    with pytest.raises(ValueError, match="Codes must be integers"):
        processor(text=["<image>"], image_codes=given)


def test_batch_with_conversations_without_images_masks_its_responses(tiny_model):
    _, processor = tiny_model
    plain = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "No image."}]
    encoded = processor.apply_chat_template(
        [plain, CONVERSATION],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        processor_kwargs={"image_codes": codes(2), "padding": True},
    )
    rows = zip(encoded["input_ids"], encoded["assistant_masks"])
    first, second = ([i for i, kept in zip(ids, mask) if kept] for ids, mask in rows)
    assert processor.tokenizer.decode(first) == "No image.\n\n### End"
    assert processor.tokenizer.decode(second).startswith("Yes.\n\n### EndHere: <|cxr_start|>")
