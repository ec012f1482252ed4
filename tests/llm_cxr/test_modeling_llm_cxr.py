import copy
import os
import stat

import pytest
import torch
import torch.nn.functional as F
from accelerate import infer_auto_device_map
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from transformers_cxr import (
    CXRVQTokenizer,
    CXRVQTokenizerConfig,
    LlmCxrConfig,
    LlmCxrForCausalLM,
    LlmCxrImageProcessor,
    LlmCxrModel,
    LlmCxrProcessor,
    generate_image,
)


@torch.no_grad()
def logits_of(model, **inputs):
    return model(**inputs).logits


class TestCommon:
    """What Transformers' common suites check, over GPT-NeoX, Llama and Qwen2."""

    def test_save_and_load_keep_everything(self, any_model, tmp_path, pixel_inputs):
        model, processor = any_model
        inputs = pixel_inputs(processor)
        expected = logits_of(model, **inputs)
        model.generation_config.image_generation = {"top_p": 0.9}
        for name, size in (("one", "1GB"), ("shards", "50KB")):
            model.save_pretrained(tmp_path / name, max_shard_size=size)
            assert (len(list((tmp_path / name).glob("*.safetensors"))) > 1) == (name == "shards")
            loaded, info = LlmCxrForCausalLM.from_pretrained(tmp_path / name, output_loading_info=True)
            assert not info["missing_keys"] and not info["unexpected_keys"]
            assert torch.equal(logits_of(loaded, **inputs), expected)
            assert loaded.generation_config.image_generation == {"top_p": 0.9}
            for each in (model, loaded):
                tied = each.lm_head.weight is each.get_input_embeddings().weight
                assert tied == each.config.tie_word_embeddings == each.config.text_config.tie_word_embeddings
                assert {p.requires_grad for p in each.vq_tokenizer.parameters()} == {False}
                assert {p.requires_grad for p in each.get_decoder().parameters()} == {True}
        base = LlmCxrModel.from_pretrained(tmp_path / "one")
        assert torch.equal(base(**inputs).last_hidden_state, model.base_model(**inputs).last_hidden_state)

    def test_saved_files_have_the_permissions_of_the_umask(self, tiny_model, tmp_path):
        model, _ = tiny_model
        before = os.umask(0o027)
        try:
            model.save_pretrained(tmp_path / "model", max_shard_size="50KB")
            model.vq_tokenizer.save_pretrained(tmp_path / "vq")
        finally:
            os.umask(before)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("*/*")}
        assert "model.safetensors" in modes and set(modes.values()) == {0o640}

    def test_auto_classes(self, checkpoint_dir):
        for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
            assert type(auto_class.from_pretrained(checkpoint_dir)) is LlmCxrForCausalLM
        assert type(AutoConfig.from_pretrained(checkpoint_dir)) is LlmCxrConfig
        assert type(AutoProcessor.from_pretrained(checkpoint_dir)) is LlmCxrProcessor
        assert type(AutoImageProcessor.from_pretrained(checkpoint_dir)) is LlmCxrImageProcessor
        assert type(CXRVQTokenizer.from_pretrained(checkpoint_dir)) is CXRVQTokenizer

    def test_outputs(self, any_model, pixel_inputs):
        model, processor = any_model
        inputs = pixel_inputs(processor)
        model.set_attn_implementation("eager")
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        batch_size, length = inputs.input_ids.shape
        assert [tuple(each.shape) for each in output.hidden_states] == [(batch_size, length, 32)] * 3
        assert [tuple(each.shape) for each in output.attentions] == [(batch_size, 4, length, length)] * 2
        assert torch.equal(model(**inputs, return_dict=False)[0], output.logits)
        last = model(**inputs, logits_to_keep=2).logits
        torch.testing.assert_close(last, output.logits[:, -2:])

    def test_cache_and_padding_do_not_change_logits(self, any_model, pixel_inputs):
        model, processor = any_model
        ids = pixel_inputs(processor, ["Report: <image> and"])
        ids = model.replace_image_placeholders(ids.pixel_values, ids.input_ids)[0]
        expected = logits_of(model, input_ids=ids)
        first = model(input_ids=ids[:, :9], use_cache=True)
        rest = model(input_ids=ids[:, 9:], past_key_values=first.past_key_values)
        torch.testing.assert_close(torch.cat([first.logits, rest.logits], dim=1), expected, rtol=1e-4, atol=1e-4)
        mask = F.pad(torch.ones_like(ids), (3, 0))
        padded = model(input_ids=F.pad(ids, (3, 0)), attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(0))
        torch.testing.assert_close(padded.logits[:, 3:], expected, rtol=1e-4, atol=1e-4)

    def test_gradient_checkpointing_gives_the_same_loss_and_gradients(self, any_model, pixel_inputs):
        model, processor = any_model
        inputs = pixel_inputs(processor, ["Generate: <image>"])
        results = []
        for enabled in (False, True):
            model.zero_grad()
            model.train()
            if enabled:
                model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing == enabled
            loss = model(**inputs, labels=inputs.input_ids).loss
            loss.backward()
            assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
            results.append((loss.item(), model.get_input_embeddings().weight.grad.clone()))
        assert results[0][0] == results[1][0]
        torch.testing.assert_close(results[0][1], results[1][1])

    def test_bf16_keeps_the_vq_gan_in_fp32_and_its_codes(self, any_model, tmp_path, pixel_inputs):
        model, processor = any_model
        inputs = pixel_inputs(processor)
        expected = model.get_image_tokens(inputs.pixel_values)
        model.save_pretrained(tmp_path)
        loaded = LlmCxrForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        made = AutoModel.from_config(model.config, dtype=torch.bfloat16)
        for each in (loaded, made, model.to(torch.bfloat16)):
            assert {p.dtype for p in each.vq_tokenizer.parameters()} == {torch.float32}
            assert {p.dtype for p in (*each.get_decoder().parameters(), each.lm_head.weight)} == {torch.bfloat16}
            assert each.dtype == logits_of(each, **inputs).dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loaded.get_image_tokens(inputs.pixel_values), expected)

    def test_offloaded_layers_generate(self, any_model, tmp_path, pixel_inputs):
        model, processor = any_model
        model.save_pretrained(tmp_path)
        device_map = {"model.vq_tokenizer": "cpu", "model.language_model": "disk", "lm_head": "disk"}
        loaded = LlmCxrForCausalLM.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "disk")
        inputs = pixel_inputs(processor)
        for each in (logits_of, lambda model, **inputs: model.generate(**inputs, max_new_tokens=4, do_sample=False)):
            assert torch.equal(each(loaded, **inputs), each(model, **inputs))
        prompt = inputs.input_ids[:, :5]
        assert torch.equal(loaded.generate_image(prompt, seed=0), model.generate_image(prompt, seed=0))

    def test_the_vq_gan_is_the_last_to_be_offloaded(self, tiny_model):
        model, _ = tiny_model
        sizes = [sum(p.numel() for p in each.parameters()) * 4 for each in (model.vq_tokenizer, model)]
        memory = {"cpu": sum(sizes) // 2, "disk": 10**9}
        device_map = infer_auto_device_map(model, memory, no_split_module_classes=model._no_split_modules)
        assert device_map["model.vq_tokenizer"] == "cpu" and "disk" in device_map.values()


@pytest.mark.parametrize("new_embeddings", ["random", "mean", "codebook"])
def test_from_language_model_keeps_logits_of_the_old_tokens_and_initializes_new_rows(
    backbone, text_tokenizer, vq_tokenizer, new_embeddings
):
    ids, known, models = torch.arange(12).view(2, 6), len(text_tokenizer), []
    expected = logits_of(backbone, input_ids=ids)[..., :known]
    for seed in (0, 0, 1):
        base = copy.deepcopy(backbone)
        model, processor = LlmCxrForCausalLM.from_language_model(
            base, text_tokenizer, vq_tokenizer, new_embeddings, seed
        )
        models.append(model)
    torch.testing.assert_close(logits_of(model, input_ids=ids)[..., :known], expected, rtol=0, atol=1e-6)
    for name in ("lm_head", "model.language_model"):
        first, same, other = (
            (each.lm_head if name == "lm_head" else each.get_input_embeddings()).weight.detach() for each in models
        )
        assert len(first) == len(processor.tokenizer) == model.config.text_config.vocab_size
        assert torch.equal(first, same) and torch.equal(first, other) == (new_embeddings == "mean")
        old, new, codes = first[:known], first[known:], first[processor.image_token_offset :]
        if new_embeddings == "mean":
            torch.testing.assert_close(new, old.mean(0).expand_as(new))
        elif new_embeddings == "random":
            assert 0.7 < new.std() / old.std() < 1.3 and len(new.unique(dim=0)) == len(new)
        else:
            torch.testing.assert_close(codes.mean(0), old.mean(0))
            torch.testing.assert_close(codes.std(0), old.std(0))
            # An affine image of the codebook: the code vectors explain the rows up to rounding.
            features = F.pad(vq_tokenizer.codebook.detach(), (0, 1), value=1.0)
            fitted = features @ torch.linalg.lstsq(features, codes).solution
            torch.testing.assert_close(fitted, codes, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="must be 'random', 'mean' or 'codebook', got 'zero'"):
        LlmCxrForCausalLM.from_language_model(backbone, text_tokenizer, vq_tokenizer, "zero")


def test_from_language_model_records_the_tokens_of_the_tokenizer_and_no_paths(llama, text_tokenizer, vq_tokenizer):
    llama.config._name_or_path = vq_tokenizer.config._name_or_path = "runs/mine"
    model, processor = LlmCxrForCausalLM.from_language_model(llama.bfloat16(), text_tokenizer, vq_tokenizer)
    settings = model.config.to_dict()
    assert (settings["text_config"]["bos_token_id"], settings["text_config"]["eos_token_id"]) == (None, 0)
    assert model.generation_config.eos_token_id == processor.eos_token_ids
    assert "runs/mine" not in str(settings)
    assert model.config.dtype == model.dtype == torch.bfloat16 and model.vq_tokenizer.dtype == torch.float32


def test_an_extended_language_model_can_be_wrapped_again(tiny_model, vq_tokenizer):
    model, processor = tiny_model
    expected = copy.deepcopy(model.state_dict())
    again, again_processor = LlmCxrForCausalLM.from_language_model(
        model.to_language_model(), processor.tokenizer, vq_tokenizer
    )
    assert again.config.image_token_offset == model.config.image_token_offset
    assert again_processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_pixels_codes_and_the_vq_tokenizer_of_the_processor_give_the_same_ids_and_logits(any_model, pixel_inputs):
    model, processor = any_model
    pixels = pixel_inputs(processor)
    codes = model.vq_tokenizer.encode(pixels.pixel_values)
    texts = ["Report: <image> and", "Two <image> then <image> end."]
    by_codes = processor(text=texts, image_codes=codes, return_tensors="pt", padding=True)
    processor.vq_tokenizer = model.vq_tokenizer
    by_processor = pixel_inputs(processor)
    assert "pixel_values" not in by_codes and "pixel_values" not in by_processor
    ids, *_ = model.replace_image_placeholders(pixels.pixel_values, pixels.input_ids)
    assert torch.equal(ids, by_codes.input_ids) and torch.equal(ids, by_processor.input_ids)
    assert torch.equal(by_codes.attention_mask, pixels.attention_mask)
    assert torch.equal(logits_of(model, **pixels), logits_of(model, **by_codes))


def test_loss_over_text_and_codes_is_the_cross_entropy_of_the_next_token(any_model, pixel_inputs):
    model, processor = any_model
    inputs = pixel_inputs(processor, ["Generate: <image>"])
    labels = inputs.input_ids.clone()
    labels[:, :3] = -100
    output = model(**inputs, labels=labels)
    targets = model.replace_image_placeholders(inputs.pixel_values, inputs.input_ids)[0]
    targets[:, :3] = -100
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits[0, :-1].float(), targets[0, 1:]))
    assert (targets >= model.config.image_token_offset).sum() == 16


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks by the old name
def test_lora_trains_saves_loads_and_generates(any_model, tmp_path, pixel_inputs):
    model, processor = any_model
    targets = ["query_key_value"] if model.config.text_config.model_type == "gpt_neox" else ["q_proj", "v_proj"]
    model.save_pretrained(tmp_path / "base")
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    inputs = pixel_inputs(processor, ["Generate: <image>"])
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        peft_model(**inputs, labels=inputs.input_ids).loss.backward()
        optimizer.step()
    peft_model.eval().save_pretrained(tmp_path / "adapter")
    base = LlmCxrForCausalLM.from_pretrained(tmp_path / "base")
    before = logits_of(base, **inputs)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits_of(loaded, **inputs), logits_of(peft_model, **inputs))
    assert not torch.equal(logits_of(loaded, **inputs), before)
    prompt = processor(text="Generate: <|cxr_start|>", return_tensors="pt")
    codes = peft_model.generate_image(prompt.input_ids, do_sample=False)
    plain = peft_model.generate(**prompt, max_new_tokens=16, do_sample=False)[:, -16:]
    assert torch.equal(codes, plain - base.config.image_token_offset)


def test_images_and_placeholders_that_do_not_match_are_refused(tiny_model, pixel_inputs):
    model, processor = tiny_model
    inputs = pixel_inputs(processor)
    with pytest.raises(ValueError, match=r"Expected 32 placeholders \(id \d+\) for 2 images, got 48"):
        model(inputs.input_ids, pixel_values=inputs.pixel_values[:2])
    for call in (
        lambda: model.generate(inputs.input_ids),
        lambda: model.generate_image(inputs.input_ids),
        lambda: model(input_ids=inputs.input_ids, labels=inputs.input_ids),
    ):
        with pytest.raises(ValueError, match=r"image placeholders \(id \d+\), but `pixel_values` is missing"):
            call()


def test_training_on_codes_is_compiled_as_one_graph(tiny_model):
    model, processor = tiny_model
    inputs = processor(text="Report: <image> Normal.", image_codes=[list(range(16))], return_tensors="pt")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert compiled(**inputs, labels=inputs.input_ids).loss == model(**inputs, labels=inputs.input_ids).loss


def test_a_checkpoint_of_another_model_is_refused(tiny_model, tmp_path):
    model, _ = tiny_model
    for name, part in {"language_model": model.to_language_model(), "vq_tokenizer": model.vq_tokenizer}.items():
        part.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}' is a model of type '.*': expected an LLM-CXR checkpoint"):
            LlmCxrForCausalLM.from_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="is a model of type 'llama': expected an image tokenizer"):
        CXRVQTokenizer.from_pretrained(tmp_path / "language_model")


def test_parts_that_do_not_belong_together_are_refused(tiny_model, llama, text_tokenizer, vq_tokenizer):
    model, processor = tiny_model
    model.check_processor(processor)
    longer = copy.deepcopy(text_tokenizer)
    longer.add_tokens(["another"])
    offset = processor.image_token_offset
    with pytest.raises(ValueError, match=f"`image_token_offset` is {offset + 1} and not {offset}"):
        model.check_processor(LlmCxrProcessor.from_tokenizer(longer, vq_tokenizer.config))
    config = CXRVQTokenizerConfig(image_size=32, block_out_channels=(32, 32), attention_levels=())
    with pytest.raises(ValueError, match="does not belong to this model.*`codebook_size` is 1024 and not 32"):
        generate_image(model, LlmCxrProcessor.from_tokenizer(text_tokenizer, config), "Normal.")
    settings = model.config.to_dict()
    settings["vq_config"]["codebook_size"] = 64
    with pytest.raises(ValueError, match="beyond the backbone's vocabulary"):
        LlmCxrConfig(**settings)
    llama.resize_token_embeddings(100)
    with pytest.raises(ValueError, match="embedding for each of the .* tokens of the tokenizer, got 100"):
        LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, vq_tokenizer)
