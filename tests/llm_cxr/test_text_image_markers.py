"""The token layout of the released LLM-CXR, where `<` and `>`, two text tokens, begin and end an image."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from transformers_cxr import (
    ImageGrammarLogitsProcessor,
    LlmCxrConfig,
    LlmCxrForCausalLM,
    LlmCxrProcessor,
)

NUM_CODES, CODEBOOK_SIZE = 16, 32


def codes(count, seed=0):
    return np.random.default_rng(seed).integers(0, CODEBOOK_SIZE, (count, NUM_CODES))


@pytest.fixture
def marker_model(text_tokenizer, vq_tokenizer):
    """Model and processor on a Llama whose vocabulary ends with the codes."""
    processor = LlmCxrProcessor.from_tokenizer(text_tokenizer, vq_tokenizer.config, text_image_markers=True)
    torch.manual_seed(1)
    text_config = LlamaConfig(
        vocab_size=processor.image_token_offset + CODEBOOK_SIZE,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    config = LlmCxrConfig(
        text_config=text_config,
        vq_config=vq_tokenizer.config,
        **processor.token_layout,
    )
    model = LlmCxrForCausalLM(config).eval()
    model.vq_tokenizer = vq_tokenizer
    return model, processor


@pytest.mark.parametrize(
    "text", ["<image>", "a <image> b", "<image><image>", '"<image>".', "x <y <image>\n\nz > <image>"]
)
def test_ids_to_text_and_codes_and_back_whatever_stands_beside_an_image(marker_model, text):
    _, processor = marker_model
    given = codes(text.count("<image>"))
    ids = processor(text=[text], image_codes=given, return_tensors="pt").input_ids
    back_text, back_codes = processor.split_interleaved(ids[0])
    assert back_text == text and back_codes == given.tolist()
    assert ids.max() < processor.image_token_id
    for kind in (None, "np"):
        assert np.array_equal(processor(text=[text], image_codes=given, return_tensors=kind)["input_ids"][0], ids[0])


def test_markers_without_codes_are_text(marker_model):
    model, processor = marker_model
    processor.vq_tokenizer = model.vq_tokenizer
    ids = processor(text=["x < 5 <image> and > 3 <"], image_codes=codes(1)).input_ids[0]
    ids += processor.tokenizer("<").input_ids
    # The markers of an image belong to no text.
    assert processor.post_process_multimodal_output([ids]) == ["x < 5  and > 3 <<"]
    assert len(processor.post_process_multimodal_output([ids], generation_mode="image")[0]) == 1


def allowed_by_definition(row, config, vocabulary, may_begin):
    """The ids that may follow a row, read from the left token by token."""
    all_codes = set(range(config.image_token_offset, config.image_token_offset + CODEBOOK_SIZE))
    run = 0
    for token in row:
        run = run + 1 if token in all_codes else 0
    if 0 < run < NUM_CODES:
        return all_codes
    if run >= NUM_CODES:
        return {config.eoi_token_id}
    begins = may_begin and row[-1] == config.boi_token_id
    return set(range(vocabulary)) if begins else set(range(vocabulary)) - all_codes


@pytest.mark.parametrize("allow_images", [True, False])
def test_grammar_equals_its_definition_on_random_batches(marker_model, allow_images):
    config = marker_model[0].config
    vocabulary = config.text_config.vocab_size
    generator = torch.Generator().manual_seed(0)
    for trial in range(60):
        length = int(torch.randint(1, 40, (), generator=generator))
        ids = torch.randint(0, vocabulary, (6, length), generator=generator)
        # Mostly codes, so that runs of all lengths occur; and rows that end with `<`.
        random_codes = torch.randint(config.image_token_offset, vocabulary, ids.shape, generator=generator)
        ids = torch.where(torch.rand(ids.shape, generator=generator) < trial / 60, random_codes, ids)
        ids[:2, -1] = config.boi_token_id
        max_length = length + NUM_CODES + 1 - trial % 2
        grammar = ImageGrammarLogitsProcessor(config, allow_images, max_length)
        scores = grammar(ids, torch.zeros(6, vocabulary))
        for row, row_scores in zip(ids.tolist(), scores):
            expected = allowed_by_definition(row, config, vocabulary, allow_images and trial % 2 == 0)
            assert set(torch.isfinite(row_scores).nonzero().flatten().tolist()) == expected


def with_bias(model, token_ids, value):
    """Makes tokens likelier, by a bias of the head."""
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features), requires_grad=False)
    head.bias[token_ids] = value


def test_generate_image_gives_the_codes_of_plain_generate_under_greedy(marker_model):
    model, processor = marker_model
    with_bias(model, slice(model.config.image_token_offset, None), 100.0)
    inputs = processor(text="Generate: " + processor.boi_token, return_tensors="pt")
    assert inputs.input_ids[0, -1] == model.config.boi_token_id
    generated = model.generate_image(**inputs, do_sample=False)
    # The first code begins the image; `generate` completes it.
    begun = torch.cat([inputs.input_ids, generated[:, :1] + model.config.image_token_offset], dim=1)
    plain = model.generate(begun, do_sample=False, max_new_tokens=NUM_CODES)
    assert torch.equal(generated + model.config.image_token_offset, plain[:, -NUM_CODES - 1 : -1])
    assert plain[0, -1] == model.config.eoi_token_id
    without_boi = model.generate_image(inputs.input_ids[:, :-1], do_sample=False)
    assert torch.equal(without_boi, generated)


def test_save_and_load_keep_the_layout(marker_model, tmp_path):
    model, processor = marker_model
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = LlmCxrForCausalLM.from_pretrained(tmp_path), LlmCxrProcessor.from_pretrained(tmp_path)
    loaded.check_processor(loaded_processor)
    assert loaded.config.text_image_markers and loaded_processor.text_image_markers
    assert loaded_processor.image_processor.round_to_nearest
    given = {"text": ["a <image>"], "image_codes": codes(1)}
    assert loaded_processor(**given)["input_ids"] == processor(**given)["input_ids"]
