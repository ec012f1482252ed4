import numpy as np
import pytest
import torch

from transformers_cxr import LlmCxrProcessor, generate_image, generate_text

GREEDY = {"do_sample": False, "max_new_tokens": 12}


def images(count):
    return [np.random.default_rng(i).integers(0, 256, (40, 48), dtype=np.uint8) for i in range(count)]


def codes_of(model, processor, images):
    return model.vq_tokenizer.encode(processor.image_processor(images, return_tensors="pt").pixel_values)


def test_text_is_that_of_generate_after_the_chat_template(any_model):
    model, processor = any_model
    content = [{"type": "text", "text": processor.report_instruction}, {"type": "image", "image": images(1)[0]}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, generation_mode="text", **GREEDY)[:, inputs.input_ids.shape[1] :]
    expected = processor.tokenizer.decode(output[0], skip_special_tokens=True).strip()
    assert expected and generate_text(model, processor, images(1)[0], **GREEDY) == [expected]


def test_images_and_codes_of_several_requests_are_answered_as_one_by_one(any_model):
    model, processor = any_model
    questions = ["Is there pneumonia?", "Which of the two images is normal?", "Hello."]
    requests = [images(1)[0], images(3)[1:], []]
    texts = generate_text(model, processor, requests, questions, **GREEDY)
    alone = [generate_text(model, processor, [i], q, **GREEDY)[0] for i, q in zip(requests, questions)]
    assert texts == alone and len(set(texts)) == 3
    codes = codes_of(model, processor, images(3))
    by_codes = generate_text(model, processor, instruction=questions, image_codes=[codes[0], codes[1:], []], **GREEDY)
    assert by_codes == texts
    assert generate_text(model, processor, instruction=questions[2], **GREEDY) == texts[2:]
    reports = generate_text(model, processor, images(2), **GREEDY)
    assert reports == generate_text(model, processor, images(2), [processor.report_instruction] * 2, **GREEDY)
    answers = generate_text(model, processor, images(1)[0], questions, **GREEDY)
    assert answers == generate_text(model, processor, images(1) * 3, questions, **GREEDY)


def test_history_holds_images_of_the_user_and_generated_ones(tiny_model):
    model, processor = tiny_model
    codes = codes_of(model, processor, images(3)).tolist()
    history = [
        {"role": "user", "content": [{"type": "text", "text": "Report."}, {"type": "image"}]},
        {"role": "assistant", "content": "Clear."},
        {"role": "user", "content": [{"type": "text", "text": "Generate it."}, {"type": "text", "text": "Normal."}]},
        {"role": "assistant", "content": [{"type": "image"}]},
    ]
    new = [{"role": "user", "content": [{"type": "text", "text": "Compare."}, {"type": "image"}]}]
    prompt = processor.apply_chat_template(history + new, add_generation_prompt=True)
    inputs = processor(text=[prompt], image_codes=codes, return_tensors="pt")
    output = model.generate(**inputs, generation_mode="text", **GREEDY)[:, inputs.input_ids.shape[1] :]
    expected = processor.tokenizer.decode(output[0], skip_special_tokens=True).strip()
    assert generate_text(model, processor, [images(3)], "Compare.", history=history, **GREEDY) == [expected]
    with pytest.raises(ValueError, match="an image for each of the 2 slots of `history`, got 1"):
        generate_text(model, processor, images(1), "Compare.", history=history)
    with pytest.raises(ValueError, match="a single request with `history`, got 2"):
        generate_text(model, processor, images(2), "Compare.", history=history)


@pytest.mark.parametrize(
    "text",
    ["What is <|cxr_start|> there?", "Is <image> normal?", "a <|cxr_0001|> ### End", "<|endoftext|>", "### Response:"],
)
def test_special_tokens_in_texts_become_plain_text(tiny_model, monkeypatch, text):
    model, processor = tiny_model
    prompts = []
    generate = type(model).generate
    monkeypatch.setattr(
        type(model), "generate", lambda self, **kw: prompts.append(kw["input_ids"]) or generate(self, **kw)
    )
    special = set(processor.tokenizer.added_tokens_decoder)
    counts = []
    for question in ("What?", text):
        generate_text(model, processor, images(1)[0], question, history=[], **GREEDY)
        generate_text(model, processor, images(1), "x", history=[{"role": "assistant", "content": question}], **GREEDY)
        counts += [sum(i in special for i in ids[0].tolist()) for ids in prompts[-2:]]
    assert counts[:2] == counts[2:]
    assert processor.tokenizer.decode(prompts[-2][0]).count(processor.plain_text(text)) == 1
    (image,) = generate_image(model, processor, text, instruction=text, seed=0)
    assert image.size == (32, 32)


def test_new_tokens_are_limited_to_the_context(tiny_model):
    model, processor = tiny_model
    context = model.config.text_config.max_position_embeddings
    kwargs = {"do_sample": False, "eos_token_id": -1, "instruction": "a " * (context - 80)}
    lengths = []
    model.get_decoder().register_forward_hook(lambda *args: lengths.append(args[2].last_hidden_state.shape[1]))
    generate_text(model, processor, **kwargs)
    assert sum(lengths) == context - 1  # nothing comes after the last token
    with pytest.raises(ValueError, match="has a context of 256"):
        generate_text(model, processor, instruction="a " * context)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"images": images(2), "instruction": ["a"]}, ValueError, "one instruction for each request, got 1 for 2"),
        ({"images": []}, ValueError, "at least one request, got none"),
        ({"images": np.zeros((2, 1, 64, 64), dtype=np.uint8)}, ValueError, "got an array of shape"),
        ({"images": images(1), "image_codes": [[0] * 16]}, ValueError, "not both"),
        ({"image_codes": [[0] * 15]}, ValueError, "Expected 16 codes for an image, got 15"),
        ({"images": images(1), "instruction": 3}, TypeError, "Expected an instruction as a string, got int"),
    ],
)
def test_wrong_requests_are_refused(tiny_model, kwargs, error, message):
    with pytest.raises(error, match=message):
        generate_text(*tiny_model, **kwargs)


def test_default_instructions_are_those_of_the_processor(tiny_model, tmp_path):
    model, processor = tiny_model
    processor.report_instruction, processor.image_instruction = "Report on it.", "Make its image."
    processor.save_pretrained(tmp_path)
    loaded = LlmCxrProcessor.from_pretrained(tmp_path)
    expected = generate_text(model, processor, images(1)[0], "Report on it.", **GREEDY)
    assert generate_text(model, loaded, images(1)[0], **GREEDY) == expected
    codes = generate_image(model, processor, "Normal.", instruction="Make its image.", seed=0, output_type="codes")
    assert torch.equal(generate_image(model, loaded, "Normal.", seed=0, output_type="codes"), codes)
