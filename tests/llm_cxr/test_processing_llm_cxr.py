import numpy as np
import pytest
import torch
from jinja2 import TemplateError

from transformers_cxr import CXRVQTokenizerConfig, LlmCxrProcessor


def codes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 32, (count, 16))


CONVERSATION = [
    {"role": "user", "content": [{"type": "text", "text": "Is there pneumonia?"}, {"type": "image"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    {"role": "user", "content": [{"type": "text", "text": "Generate it."}, {"type": "text", "text": "Pneumonia."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Here: "}, {"type": "image"}]},
]


def test_chat_template_is_dollys_instruction_format(tiny_model):
    _, processor = tiny_model
    assert processor.apply_chat_template(CONVERSATION) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nIs there pneumonia?\n\nInput:\n<image>\n\n### Response:\nYes.\n\n### End\n\n"
        "### Instruction:\nGenerate it.\n\nInput:\nPneumonia.\n\n### Response:\nHere: <image>\n\n### End"
    )


def test_system_message_replaces_the_introduction_and_the_prompt_ends_with_the_response_key(tiny_model):
    _, processor = tiny_model
    messages = [{"role": "system", "content": "You read X-rays."}, {"role": "user", "content": "Hello."}]
    expected = "You read X-rays.\n\n### Instruction:\nHello.\n\n### Response:\n"
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected


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
    generated = "".join(f"<|cxr_{code:04d}|>" for code in codes(2)[1])
    expected = f"Yes.\n\n### EndHere: <|cxr_start|>{generated}<|cxr_end|>\n\n### End"
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
    with pytest.raises(ValueError, match=f"of the texts, 2, got {count}"):
        processor(text=["<image> and <image>"], images=images or None)
    if count:
        with pytest.raises(ValueError, match=f"of the texts, 2, got {count}"):
            processor(text=["<image> and <image>"], image_codes=codes(count))


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
        (np.zeros((1, 15), dtype=int), r"Expected 16 codes for an image, got 15 \(image 1 of 1\)"),
        (np.full((1, 16), 32), r"Expected integer codes in \[0, 32\), got 32 \(image 1 of 1\)"),
        (np.full((1, 16), -1), "got -1"),
        (np.full((1, 16), 0.5), "integer codes .* got 0.5"),
        (torch.ones(1, 16, dtype=torch.bool), "integer codes .* got True"),
        ([0] * 16, r"shape \(num_images, 16\), got int"),
    ],
)
def test_wrong_codes_are_refused(tiny_model, wrong, message):
    _, processor = tiny_model
    with pytest.raises(ValueError, match=message):
        processor(text=["<image>"], image_codes=wrong)


def test_codes_without_a_text_are_refused(tiny_model):
    model, processor = tiny_model
    with pytest.raises(ValueError, match="Codes are part of a text: give `text` with a slot"):
        processor(image_codes=codes(1))
    processor.vq_tokenizer = model.vq_tokenizer
    with pytest.raises(ValueError, match="Codes are part of a text: give `text` with a slot"):
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
    with pytest.raises(ValueError, match="Expected a VQ tokenizer with 256 codes .* of 64, got 16 from 32"):
        other.vq_tokenizer = model.vq_tokenizer
    with pytest.raises(ValueError, match="Set `processor.vq_tokenizer"):
        other.decode_codes([[0] * 256])


def test_generated_ids_become_text_or_images(tiny_model):
    model, processor = tiny_model
    processor.vq_tokenizer = model.vq_tokenizer
    ids = processor(text=["a <image> b"], image_codes=codes(1), return_tensors="pt").input_ids
    assert processor.post_process_multimodal_output(ids) == ["a  b"]
    assert processor.post_process_multimodal_output(ids[0].tolist(), generation_mode="text") == ["a  b"]
    # A model can also spell `<image>` letter by letter: ids decide.
    spelled = [i for piece in ("<", "image", ">") for i in processor.tokenizer(piece).input_ids]
    ((image,),) = processor.post_process_multimodal_output([spelled + ids[0].tolist()], generation_mode="image")
    pixel_values = model.vq_tokenizer.decode(torch.tensor(codes(1)))
    (decoded,) = processor.post_process_multimodal_output(pixel_values, generation_mode="image")
    assert image.tobytes() == decoded.tobytes() and image.info == decoded.info
    with pytest.raises(ValueError, match="got 'audio'"):
        processor.post_process_multimodal_output(ids, generation_mode="audio")
