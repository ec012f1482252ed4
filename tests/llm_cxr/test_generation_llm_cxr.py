import copy
import re

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, CompileConfig, Lfm2Config

from transformers_cxr import (
    ImageGrammarLogitsProcessor,
    LlmCxrConfig,
    LlmCxrForCausalLM,
    LlmCxrProcessor,
    generate_image,
    save_image,
)

NUM_CODES = 16


def prompts(processor, texts=("Normal.",), boi=True):
    rows = [f"Generate: {text}" + "<|cxr_start|>" * boi for text in texts]
    return processor(text=rows, return_tensors="pt", padding=True)


@pytest.fixture(params=["image tokens", "text markers"])
def any_layout(request, tiny_model, text_tokenizer, vq_tokenizer):
    """Both token layouts. In that of the released LLM-CXR `<` and `>` begin and end an image."""
    if request.param == "image tokens":
        return tiny_model
    processor = LlmCxrProcessor.from_tokenizer(text_tokenizer, vq_tokenizer.config, text_image_markers=True)
    text_config = copy.deepcopy(tiny_model[0].config.text_config)
    text_config.vocab_size = processor.image_token_offset + processor.codebook_size
    torch.manual_seed(1)
    config = LlmCxrConfig(text_config=text_config, vq_config=vq_tokenizer.config, **processor.token_layout)
    return LlmCxrForCausalLM(config).eval(), processor


def assert_well_formed(processor, ids):
    """Outside of whole images is only text."""
    text = processor.tokenizer.decode(ids)
    rest = re.sub(r"<\|cxr_start\|>(<\|cxr_\d{4}\|>){16}<\|cxr_end\|>", "", text)
    assert "<|cxr_" not in rest and "<image>" not in rest, text


@pytest.mark.parametrize(
    "kwargs",
    [
        {"do_sample": False},
        {"num_beams": 3, "do_sample": False},
        {"do_sample": False, "cache_implementation": "static"},
        {"do_sample": True, "temperature": 2.0, "top_k": 0},
        # No token twice, and never the end of an image.
        {"do_sample": False, "no_repeat_ngram_size": 1, "bad_words_ids": [[405]]},
    ],
    ids=str,
)
def test_output_is_well_formed_in_every_way_of_decoding(tiny_model, kwargs):
    model, processor = tiny_model
    torch.manual_seed(1)
    # Rows in different phases: one within an image, one before it, one in text.
    whole = prompts(processor, ["Normal."]).input_ids[0]
    codes = torch.arange(5) + model.config.image_token_offset
    rows = [torch.cat([whole, codes]), whole, whole[:-1]]
    length = max(map(len, rows))
    ids = torch.stack([torch.cat([torch.zeros(length - len(row), dtype=torch.long), row]) for row in rows])
    mask = torch.stack([torch.arange(length) >= length - len(row) for row in rows]).long()
    output = model.generate(ids, attention_mask=mask, max_new_tokens=50, eos_token_id=-1, pad_token_id=0, **kwargs)
    for row in output:
        assert_well_formed(processor, row)


@pytest.mark.parametrize("max_new_tokens, has_image", [(60, True), (NUM_CODES + 1, False)])
def test_generate_interleaves_text_and_the_images_that_fit(tiny_model, max_new_tokens, has_image):
    model, processor = tiny_model
    inputs = prompts(processor, boi=False)
    # A random model rarely begins an image by itself.
    boi = model.config.boi_token_id
    model.lm_head.register_forward_hook(
        lambda _, args, logits: logits + 5 * F.one_hot(torch.tensor(boi), logits.shape[-1])
    )
    torch.manual_seed(0)
    output = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=max_new_tokens, eos_token_id=-1)
    new = output[0, inputs.input_ids.shape[1] :]
    assert_well_formed(processor, new)
    assert bool((new == model.config.boi_token_id).any()) is has_image
    text, codes = processor.split_interleaved(new)
    assert text.count(processor.image_token) == len(codes) and bool(codes) is has_image


def test_generate_image_gives_the_codes_of_plain_generate_under_greedy(any_model):
    model, processor = any_model
    inputs = prompts(processor, ["Normal.", "Signs of viral pneumonia in an adult."])
    generated = model.generate_image(**inputs, do_sample=False)
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=NUM_CODES)[:, -NUM_CODES:]
    assert torch.equal(generated + model.config.image_token_offset, plain)
    assert len(generated.unique(dim=0)) == 2, "both prompts gave the same image: the test would not see a mix-up"


def test_generate_completes_an_image_that_a_code_begins(any_layout):
    model, processor = any_layout
    inputs = prompts(processor)
    generated = model.generate_image(**inputs, do_sample=False)
    assert torch.equal(model.generate_image(**prompts(processor, boi=False), do_sample=False), generated)
    begun = torch.cat([inputs.input_ids, generated[:, :1] + model.config.image_token_offset], dim=1)
    plain = model.generate(begun, do_sample=False, max_new_tokens=NUM_CODES)
    assert torch.equal(generated + model.config.image_token_offset, plain[:, -NUM_CODES - 1 : -1])
    assert plain[0, -1] == model.config.eoi_token_id


def test_several_images_of_a_backbone_that_is_partly_recurrent(text_tokenizer, vq_tokenizer):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 64, "layer_types": ["conv", "full_attention"], "initializer_range": 0.3}
    base = AutoModelForCausalLM.from_config(Lfm2Config(vocab_size=len(text_tokenizer), **sizes))
    model, processor = LlmCxrForCausalLM.from_language_model(
        base, text_tokenizer, vq_tokenizer, new_embeddings="random"
    )
    inputs = prompts(processor, ["Normal.", "Signs of viral pneumonia."])
    codes = model.generate_image(**inputs, num_images=2, seed=0)
    alone = [
        model.generate_image(**prompts(processor, [text]), num_images=2, seed=seed)
        for text, seed in (("Normal.", 0), ("Signs of viral pneumonia.", 2))
    ]
    assert torch.equal(codes, torch.cat(alone)) and len(codes.unique(dim=0)) == 4


@pytest.mark.parametrize("boi", [True, False])
def test_a_draft_model_of_the_same_kind_changes_no_token(tiny_model, boi):
    model, processor = tiny_model
    model.generation_config.num_assistant_tokens = 5
    inputs = prompts(processor, boi=boi)
    kwargs = {"do_sample": False, "max_new_tokens": 30}
    assisted = model.generate(**inputs, assistant_model=model, **kwargs)
    assert torch.equal(assisted, model.generate(**inputs, **kwargs))
    assert (assisted[:, inputs.input_ids.shape[1] :] >= model.config.image_token_offset).sum() == 16 * boi


def test_guidance_equals_two_forwards_a_step(tiny_model):
    model, processor = tiny_model
    inputs, negative = prompts(processor, ["Signs of viral pneumonia."]), prompts(processor, [""])
    generated = model.generate_image(
        **inputs, guidance_scale=3.0, negative_input_ids=negative.input_ids, do_sample=False, num_images=2
    )
    offset = model.config.image_token_offset
    rows = [inputs.input_ids, negative.input_ids]
    with torch.no_grad():
        for _ in range(NUM_CODES):
            logits = [model(row).logits[0, -1, offset : offset + 32].log_softmax(-1) for row in rows]
            code = (logits[1] + 3.0 * (logits[0] - logits[1])).argmax().view(1, 1) + offset
            rows = [torch.cat([row, code], dim=1) for row in rows]
    expected = rows[0][:, -NUM_CODES:] - offset
    assert torch.equal(generated, expected.repeat(2, 1))
    assert not torch.equal(expected, model.generate_image(**inputs, do_sample=False))


def test_the_checkpoint_has_settings_for_image_generation(tiny_model, tmp_path):
    model, processor = tiny_model
    given = {"guidance_scale": 3.0, "temperature": 0.5, "top_k": 5, "top_p": 0.8}
    explicit = generate_image(model, processor, "Normal.", seed=1, **given)[0]
    plain = generate_image(model, processor, "Normal.", seed=1)[0]
    model.generation_config.image_generation = given
    model.save_pretrained(tmp_path)
    model.generation_config.image_generation = {}
    other = LlmCxrForCausalLM.from_pretrained(tmp_path)
    assert np.array_equal(generate_image(other, processor, "Normal.", seed=1)[0], explicit)
    # Arguments override it.
    whole = {"guidance_scale": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    assert np.array_equal(generate_image(other, processor, "Normal.", seed=1, **whole)[0], plain)
    assert not np.array_equal(plain, explicit)
    # Without a prompt to guide away from there is no guidance.
    inputs = prompts(processor)
    sampling = {name: value for name, value in given.items() if name != "guidance_scale"}
    assert torch.equal(other.generate_image(**inputs, seed=1), model.generate_image(**inputs, seed=1, **sampling))


@pytest.mark.parametrize(("text", "expected"), [("Chest of an Adult.", True), ("Chest of a human child.", False)])
def test_a_warning_names_what_the_checkpoint_draws_badly(tiny_model, caplog, monkeypatch, text, expected):
    model, processor = tiny_model
    monkeypatch.setattr(model.generation_config, "weak_image_words", ["adult", "man"], raising=False)
    generate_image(model, processor, text)
    assert ("poor X-rays of texts with 'adult'" in caplog.text) == expected and "'man'" not in caplog.text


@pytest.mark.parametrize(
    ("text", "kwargs", "error", "message"),
    [
        ("x", {"num_images": 0}, ValueError, "`num_images` must be a whole number of at least 1, got 0"),
        ("x", {"guidance_scale": 0.5}, ValueError, "`guidance_scale` must be at least 1 .*got 0.5"),
        ("x", {"num_images": 3, "seed": [1, 2]}, ValueError, "one seed for each of the 3 images, got 2"),
        ("x", {"output_type": "np"}, ValueError, "`output_type` must be 'pil' or 'codes', got 'np'"),
        ([], {}, ValueError, "at least one text, got none"),
        ([3], {}, TypeError, "Expected a text, got int"),
        (["Normal. " * 300], {}, ValueError, "at least [0-9]+ tokens.*context of 256"),
    ],
)
def test_wrong_arguments_are_refused(tiny_model, text, kwargs, error, message):
    with pytest.raises(error, match=message):
        generate_image(*tiny_model, text, **kwargs)


def test_generate_image_makes_num_images_for_each_text_and_marks_them_in_the_file(tiny_model, tmp_path):
    model, processor = tiny_model
    settings = {"num_images": 2, "guidance_scale": 2.0, "seed": 0}
    images = generate_image(model, processor, ["Normal.", "Pneumonia."], **settings)
    codes = generate_image(model, processor, ["Normal.", "Pneumonia."], **settings, output_type="codes")
    processor.vq_tokenizer = model.vq_tokenizer
    assert codes.shape == (4, NUM_CODES) and images == processor.decode_codes(codes)
    for name in ("image.png", "image.jpg"):
        save_image(images[0], tmp_path / name)
        with PIL.Image.open(tmp_path / name) as file:
            assert "research only" in str(file.info.get("Comment", file.info.get("comment")))


def allowed_by_definition(row, config, vocabulary, may_begin):
    """The ids that may follow a row: a state machine from the left."""
    codes = set(range(config.image_token_offset, config.image_token_offset + config.vq_config.codebook_size))
    run, begun = 0, False
    for token in row:
        after_boi = not config.text_image_markers and token == config.boi_token_id
        run, begun = (run + 1, True) if token in codes else (0, after_boi)
    if begun and run < NUM_CODES:
        return codes
    if begun:
        return {config.eoi_token_id}
    text = set(range(vocabulary)) - codes
    if not config.text_image_markers:
        return text - {config.eoi_token_id, config.image_token_id, None if may_begin else config.boi_token_id}
    return text | codes if may_begin and row[-1] == config.boi_token_id else text


@pytest.mark.parametrize("allow_images", [True, False])
def test_grammar_equals_a_state_machine_on_random_batches(any_layout, allow_images):
    config = any_layout[0].config
    vocabulary = config.text_config.vocab_size
    generator = torch.Generator().manual_seed(0)
    for trial in range(60):
        length = int(torch.randint(1, 40, (), generator=generator))
        ids = torch.randint(0, vocabulary, (6, length), generator=generator)
        # Mostly codes, so that runs of all lengths occur.
        codes = torch.randint(config.image_token_offset, vocabulary, ids.shape, generator=generator)
        ids = torch.where(torch.rand(ids.shape, generator=generator) < trial / 60, codes, ids)
        ids[:2, -1] = config.boi_token_id
        max_length = length + NUM_CODES + (1 if config.text_image_markers else 2) - trial % 2
        grammar = ImageGrammarLogitsProcessor(config, allow_images, max_length)
        scores = grammar(ids, torch.zeros(6, vocabulary))
        for row, row_scores in zip(ids.tolist(), scores):
            expected = allowed_by_definition(row, config, vocabulary, allow_images and trial % 2 == 0)
            assert set(torch.isfinite(row_scores).nonzero().flatten().tolist()) == expected


def test_prompt_is_prefilled_once_and_only_the_code_rows_are_computed(tiny_model):
    model, processor = tiny_model
    calls, head_calls = [], []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    model.get_output_embeddings().register_forward_hook(lambda *_: head_calls.append(1))
    inputs = prompts(processor, ["Normal.", "Signs of viral pneumonia."])
    model.generate_image(**inputs, num_images=3, seed=0)
    assert calls == [tuple(inputs.input_ids.shape)] + [(6, 1)] * (NUM_CODES - 1)
    assert not head_calls


def test_a_compiled_step_gives_the_same_codes_and_is_compiled_once(tiny_model):
    model, processor = tiny_model
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    config = CompileConfig(fullgraph=True, backend=backend, mode="default")
    lengths = set()
    for texts in (["Normal.", "Signs of viral pneumonia."], ["No effusion.", "Signs of a viral pneumonia."]):
        inputs = prompts(processor, texts)
        lengths.add(inputs.input_ids.shape[1])
        negative_input_ids = prompts(processor, [""]).input_ids
        kwargs = {"guidance_scale": 2.0, "negative_input_ids": negative_input_ids, "num_images": 2, "seed": 0}
        codes = model.generate_image(**inputs, **kwargs)
        assert torch.equal(model.generate_image(**inputs, **kwargs, compile_config=config), codes)
        assert len(codes.unique(dim=0)) == 4
    assert len(lengths) == 2 and len(graphs) == 1


def test_callback_receives_the_codes_of_each_step_and_can_end_the_generation(tiny_model):
    model, processor = tiny_model
    steps = []

    def callback(caller, step, callback_kwargs):
        assert caller is model
        steps.append((step, callback_kwargs["codes"].tolist()))
        if step == 9 and len(steps) > NUM_CODES:
            raise KeyboardInterrupt

    codes = generate_image(
        *tiny_model, "Normal.", 2, seed=0, output_type="codes", callback_on_step_end=callback
    ).tolist()
    assert steps == [(step, [row[: step + 1] for row in codes]) for step in range(NUM_CODES)]
    with pytest.raises(KeyboardInterrupt):
        generate_image(*tiny_model, "Normal.", seed=0, callback_on_step_end=callback)
    assert len(steps) == NUM_CODES + 10
