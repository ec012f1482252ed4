"""What Transformers, TRL, PEFT and vLLM expect of a vision-language model."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    OPTConfig,
    PhiConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.trainer_pt_utils import LabelSmoother

from transformers_cxr import CXRVQTokenizer, CXRVQTokenizerConfig, LlmCxrForCausalLM, LlmCxrModel

# PEFT asks by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
NUM_CODES = 16


def test_base_model_gives_the_hidden_states_of_the_backbone(any_model, pixel_inputs):
    model, processor = any_model
    inputs = pixel_inputs(processor)
    hidden = model.base_model(**inputs).last_hidden_state
    assert isinstance(model.base_model, LlmCxrModel) and model.get_decoder() is model.model.language_model
    assert hidden.shape == (*inputs.input_ids.shape, model.config.text_config.hidden_size)
    assert torch.equal(model.lm_head(hidden), model(**inputs).logits)


def test_embeddings_with_pixels_are_read_and_continued_as_their_ids(any_model, pixel_inputs):
    model, processor = any_model
    inputs = pixel_inputs(processor)
    rest = {"pixel_values": inputs.pixel_values, "attention_mask": inputs.attention_mask}
    embeddings = model.get_input_embeddings()(inputs.input_ids)
    expected = model(**inputs, labels=inputs.input_ids)
    output = model(inputs_embeds=embeddings, labels=inputs.input_ids, **rest)
    assert torch.equal(output.logits, expected.logits) and output.loss == expected.loss
    features = model.get_image_features(inputs.pixel_values).pooler_output
    assert features.shape == (3, NUM_CODES, model.config.text_config.hidden_size)
    settings = {"max_new_tokens": 6, "do_sample": False}
    new = model.generate(**inputs, **settings)[:, inputs.input_ids.shape[1] :]
    assert torch.equal(model.generate(inputs_embeds=embeddings, **rest, **settings), new)


def test_placeholders_in_labels_and_shift_labels_become_codes(any_model, pixel_inputs):
    model, processor = any_model
    inputs = pixel_inputs(processor)
    ids = model.replace_image_placeholders(inputs.pixel_values, inputs.input_ids)[0]
    expected = model(input_ids=ids, attention_mask=inputs.attention_mask, labels=ids).loss
    assert model(**inputs, labels=inputs.input_ids).loss == expected
    shifted = F.pad(inputs.input_ids, (0, 1), value=-100)[:, 1:].contiguous()
    assert model(**inputs, shift_labels=shifted).loss == expected


def test_trainer_with_label_smoothing_shifts_the_labels(tiny_model, tmp_path):
    model, processor = tiny_model
    inputs = processor(text="Report: <image> Normal.", image_codes=[list(range(16))], return_tensors="pt")
    inputs["labels"] = inputs["input_ids"]
    arguments = TrainingArguments(tmp_path, label_smoothing_factor=0.1, report_to="none", use_cpu=True)
    loss = Trainer(model, arguments).compute_loss(model, dict(inputs))
    assert loss == LabelSmoother(0.1)(model(**inputs), inputs["labels"], shift_labels=True)


def test_prompt_tuning_trains(tiny_model, pixel_inputs):
    model, processor = tiny_model
    tuned = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0)
    inputs, losses = pixel_inputs(processor), []
    for _ in range(3):
        loss = tuned(**inputs, labels=inputs.input_ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]


def test_lora_on_all_linear_layers_leaves_the_vq_gan_alone(llama, text_tokenizer):
    config = CXRVQTokenizerConfig(
        image_size=32, block_out_channels=(8, 16), attention_levels=(1,), norm_num_groups=4, latent_channels=8
    )
    model, _ = LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, CXRVQTokenizer(config))
    assert any("attentions" in name for name, _ in model.vq_tokenizer.named_parameters())
    lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora).targeted_module_names
    assert len(adapted) == 14 and all("language_model.layers" in name for name in adapted)


def test_a_call_with_an_image_is_exported(tiny_model, pixel_inputs):
    model, processor = tiny_model
    inputs = dict(pixel_inputs(processor), use_cache=False)
    program = torch.export.export(model, (), inputs, strict=False)
    torch.testing.assert_close(program.module()(**inputs).logits, model(**inputs).logits)


def test_generation_mode_image_gives_the_prompt_and_a_whole_image(any_model):
    model, processor = any_model
    inputs = processor(text=["Generate: Normal.", "x"], return_tensors="pt", padding=True)
    config, length = model.config, inputs.input_ids.shape[1]
    ids = model.generate(**inputs, generation_mode="image", num_return_sequences=2, seed=0)
    codes = model.generate_image(**inputs, num_images=2, seed=0)
    assert torch.equal(ids[:, :length], inputs.input_ids.repeat_interleave(2, dim=0))
    assert torch.equal(ids[:, length + 1 : -1], codes + config.image_token_offset)
    assert set(ids[:, length].tolist()) == {config.boi_token_id} and set(ids[:, -1].tolist()) == {config.eoi_token_id}
    assert torch.equal(model.decode_image_tokens(ids), model.vq_tokenizer.decode(codes))
    with pytest.raises(ValueError, match="must be None, 'text' or 'image', got 'audio'"):
        model.generate(**inputs, generation_mode="audio")
    # Each row has one begin-of-image token, also if only some prompts end with it.
    mixed = torch.tensor([[5, 6, 7], [5, 6, config.boi_token_id]])
    ids = model.generate(mixed, generation_mode="image", seed=0)
    assert ((ids == config.boi_token_id).sum(-1) == 1).all() and ids[1, :4].tolist() == [0, *mixed[1].tolist()]


def test_any_to_any_pipeline_reads_and_generates(checkpoint_dir, caplog):
    pipe = pipeline("any-to-any", model=str(checkpoint_dir))
    assert type(pipe.model) is LlmCxrForCausalLM
    image = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
    content = [{"type": "text", "text": "Report."}, {"type": "image", "image": image}]
    (text,) = pipe(text=[{"role": "user", "content": content}], return_full_text=False, max_new_tokens=5)
    assert isinstance(text["generated_text"], str)
    (output,) = pipe(text=[{"role": "user", "content": content}], generation_mode="image")
    image = output["generated_image"]
    assert image.size == (32, 32) and "Generated" in image.info["comment"]
    assert "not supported" not in caplog.text


def test_servers_learn_the_number_of_placeholders(tiny_model):
    _, processor = tiny_model
    data = processor._get_num_multimodal_tokens(image_sizes=[(40, 48), (100, 90)])
    rows = processor(text=["<image>"] * 2, images=[np.zeros((40, 48))] * 2)["input_ids"]
    counts = [row.count(processor.image_token_id) for row in rows]
    assert data.num_image_tokens == counts == [NUM_CODES] * 2 and data.num_image_patches == [1, 1]


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("config_class", "settings"),
    [
        (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}),  # `wte`
        (PhiConfig, {**SIZES, "intermediate_size": 64}),  # a head with a bias
        (OPTConfig, {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 16}),  # embeddings of fewer dimensions
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_backbone_of_any_kind_keeps_its_logits_and_ties(
    text_tokenizer, vq_tokenizer, tmp_path, config_class, settings
):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config_class(vocab_size=len(text_tokenizer), **settings)).eval()
    ids = torch.arange(5)[None]
    expected = copy.deepcopy(base)(ids).logits
    model, processor = LlmCxrForCausalLM.from_language_model(base, text_tokenizer, vq_tokenizer)
    torch.testing.assert_close(model(ids).logits[..., : len(text_tokenizer)], expected)
    model.save_pretrained(tmp_path)
    model.to_language_model().save_pretrained(tmp_path / "plain")
    loaded = LlmCxrForCausalLM.from_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert torch.equal(loaded(ids).logits, model(ids).logits) and torch.equal(plain(ids).logits, model(ids).logits)
    tied = model.config.tie_word_embeddings
    for each in (model, loaded):
        each.resize_token_embeddings(len(processor.tokenizer) + 3)
        assert (each.lm_head.weight is each.get_input_embeddings().weight) == tied


@pytest.mark.parametrize(
    ("config_class", "settings"),
    [(Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 0.05}), (CohereConfig, {})],
)
def test_a_head_that_is_more_than_a_linear_layer_is_refused(text_tokenizer, vq_tokenizer, config_class, settings):
    base = AutoModelForCausalLM.from_config(config_class(vocab_size=len(text_tokenizer), **SIZES, **settings))
    with pytest.raises(ValueError, match="Those of .*ForCausalLM are not"):
        LlmCxrForCausalLM.from_language_model(base, text_tokenizer, vq_tokenizer)
