import numpy as np
import pytest
import torch
from jinja2 import TemplateError

from transformers_cxr import LlmCxrProcessor


def codes(count):
    return np.random.default_rng(0).integers(0, 32, (count, 16))


@pytest.fixture(params=[False, True], ids=["image tokens", "text markers"])
def processor(request, text_tokenizer, vq_tokenizer):
    """Both token layouts. In that of the released LLM-CXR `<` and `>` begin and end an image."""
    return LlmCxrProcessor.from_tokenizer(text_tokenizer, vq_tokenizer.config, text_image_markers=request.param)


CONVERSATION = [
    {"role": "user", "content": [{"type": "text", "text": "Is there pneumonia?"}, {"type": "image"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    {"role": "user", "content": [{"type": "text", "text": "Generate it."}, {"type": "text", "text": "Pneumonia."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Here: "}, {"type": "image"}]},
]


def test_chat_template_is_dollys_instruction_format(processor):
    assert processor.apply_chat_template(CONVERSATION) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nIs there pneumonia?\n\nInput:\n<image>\n\n### Response:\nYes.\n\n### End\n\n"
        "### Instruction:\nGenerate it.\n\nInput:\nPneumonia.\n\n### Response:\nHere: <image>\n\n### End"
    )


def test_codes_as_text_have_the_ids_of_their_image(processor):
    image_codes = codes(2)
    before, after = processor.codes_to_text(image_codes)
    expected = processor(text=["So <image><image>."], image_codes=image_codes).input_ids
    assert processor(text=[f"So {before}{after}."]).input_ids == expected
    with pytest.raises(ValueError, match="Expected 16 codes for an image, got 15"):
        processor.codes_to_text(image_codes[:, 1:])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<|cxr_0001|>", "< |cxr_0001|>"),
        ("<ima<image>ge>", "<ima< image>ge>"),
        ("### End", "# ## End"),
        ("x ### Response:", "x # ## Response:"),
        ("a lone \ud800 surrogate", "a lone \ufffd surrogate"),
        ("# 1 < 2 cm", "# 1 < 2 cm"),
    ],
)
def test_special_tokens_in_texts_are_plain_text_to_every_user_of_the_chat_template(processor, text, plain):
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": [{"type": "text", "text": text}]}]
    assert processor.apply_chat_template(messages).count(plain) == 2
    encoded = processor.apply_chat_template([messages], tokenize=True, return_dict=True)["input_ids"][0]
    added = [token for token in processor.tokenizer.convert_ids_to_tokens(encoded) if token.startswith(("<|", "##"))]
    assert added == ["### Instruction:", "### Response:\n", "### End"]
    (answer,) = processor.post_process_multimodal_output([processor.tokenizer(plain).input_ids])
    assert answer == plain


def test_an_answer_that_spells_a_special_token_holds_plain_text(processor):
    spelled = [i for piece in ("<", "image", ">") for i in processor.tokenizer(piece).input_ids]
    assert processor.post_process_multimodal_output([spelled]) == ["< image>"]


def test_system_message_replaces_the_introduction_and_the_prompt_ends_with_the_response_key(processor):
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
    ],
)
def test_what_the_chat_template_has_no_place_for_is_refused(processor, messages, message):
    with pytest.raises(TemplateError, match=message):
        processor.apply_chat_template(messages)


def test_assistant_mask_covers_exactly_the_responses_images_included(processor):
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
    begin, end = processor.tokenizer.batch_decode([[processor.boi_token_id], [processor.eoi_token_id]])
    expected = f"Yes.\n\n### EndHere: {begin}{generated}{end}\n\n### End"
    assert processor.tokenizer.decode(response) == expected


@pytest.mark.parametrize("text", ["<image><image>", '"<image>".', "no image", "x <y <image>\n\nz > <image>"])
def test_ids_to_text_and_codes_and_back_whatever_stands_beside_an_image(processor, text):
    given = codes(text.count("<image>"))
    kwargs = {"text": [text], "image_codes": given}
    ids = processor(**kwargs, return_tensors="pt").input_ids[0]
    back_text, back_codes = processor.split_interleaved(ids)
    assert back_text == text and back_codes == given.tolist()
    assert len(ids) == len(processor.tokenizer(text).input_ids) + 17 * len(given)
    assert (ids != processor.image_token_id).all()
    for kind in (None, "np"):
        assert np.array_equal(processor(**kwargs, return_tensors=kind)["input_ids"][0], ids)


def test_markers_without_codes_are_text(text_tokenizer, vq_tokenizer):
    processor = LlmCxrProcessor.from_tokenizer(text_tokenizer, vq_tokenizer.config, text_image_markers=True)
    processor.vq_tokenizer = vq_tokenizer
    ids = processor(text=["x < 5 <image> and > 3 <"], image_codes=codes(1)).input_ids[0]
    ids += processor.tokenizer("<").input_ids
    # The markers of an image belong to no text.
    assert processor.post_process_multimodal_output([ids]) == ["x < 5  and > 3 <<"]
    assert len(processor.post_process_multimodal_output([ids], generation_mode="image")[0]) == 1


def test_save_and_load_keep_everything_but_the_vq_tokenizer(processor, vq_tokenizer, tmp_path):
    processor.vq_tokenizer = vq_tokenizer
    processor.save_pretrained(tmp_path)
    loaded = LlmCxrProcessor.from_pretrained(tmp_path)
    assert loaded.vq_tokenizer is None and loaded.tokenizer.padding_side == "left"
    assert loaded.token_layout == processor.token_layout
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    given = {"text": ["a <image>"], "image_codes": codes(1)}
    assert loaded(**given)["input_ids"] == processor(**given)["input_ids"]
    assert loaded.apply_chat_template(CONVERSATION) == processor.apply_chat_template(CONVERSATION)


@pytest.mark.parametrize("count", [0, 3])
def test_images_and_slots_must_match_in_number(processor, count):
    text = ["<image> and <image>"]
    images = [np.zeros((40, 40), dtype=np.uint8)] * count
    for given in ({"images": images or None}, {"image_codes": codes(count)}):
        with pytest.raises(ValueError, match="2 <image> tokens"):
            processor(text=text, **given)


@pytest.mark.parametrize("way", ["pixels", "codes", "vq_tokenizer"])
def test_truncation_that_cuts_an_image_is_refused(processor, vq_tokenizer, way):
    processor.vq_tokenizer = vq_tokenizer if way == "vq_tokenizer" else None
    images = {"image_codes": codes(1)} if way == "codes" else {"images": [np.zeros((40, 40), dtype=np.uint8)]}
    with pytest.raises(ValueError, match="truncation"):
        processor(text=["Before it <image> after it."], **images, truncation=True, max_length=12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((1, 15), dtype=int), r"Expected 16 codes for an image, got 15 \(image 1 of 1\)"),
        ([[0] * 16, [0] * 15 + [32]], r"integer codes in \[0, 32\), got int64 from 0 to 32 \(image 2 of 2\)"),
        (torch.full((1, 16), 0.5), "got float32"),
    ],
)
def test_wrong_codes_are_refused(processor, wrong, message):
    with pytest.raises(ValueError, match=message):
        processor(text=["<image>"] * len(wrong), image_codes=wrong)


def test_generated_ids_become_text_or_images(processor, vq_tokenizer):
    ids = processor(text=["a <image> b"], image_codes=codes(1), return_tensors="pt").input_ids
    with pytest.raises(ValueError, match="Set `processor.vq_tokenizer"):
        processor.decode_codes(codes(1))
    processor.vq_tokenizer = vq_tokenizer
    assert processor.post_process_multimodal_output(ids) == ["a  b"]
    assert processor.post_process_multimodal_output(ids[0].tolist(), generation_mode="text") == ["a  b"]
    # A model can also spell `<image>` letter by letter: ids decide.
    spelled = [i for piece in ("<", "image", ">") for i in processor.tokenizer(piece).input_ids]
    ((image,),) = processor.post_process_multimodal_output([spelled + ids[0].tolist()], generation_mode="image")
    pixel_values = vq_tokenizer.decode(torch.tensor(codes(1)))
    (decoded,) = processor.post_process_multimodal_output(pixel_values, generation_mode="image")
    assert image.tobytes() == decoded.tobytes() and image.info == decoded.info
    with pytest.raises(ValueError, match=r"Expected 16 codes for an image, got 12 \(image 1 of the sequence\)"):
        processor.split_interleaved(ids[0, : ids[0].tolist().index(processor.boi_token_id) + 13])
    with pytest.raises(ValueError, match="got 'audio'"):
        processor.post_process_multimodal_output(ids, generation_mode="audio")
