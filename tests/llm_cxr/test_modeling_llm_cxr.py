"""One suite over GPT-NeoX, Llama and Qwen2 backbones."""

import copy

import numpy as np
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
    Trainer,
    TrainingArguments,
)

from transformers_cxr import (
    CXRVQTokenizer,
    CXRVQTokenizerConfig,
    LlmCxrConfig,
    LlmCxrForCausalLM,
    LlmCxrImageProcessor,
    LlmCxrProcessor,
    generate_image,
)
from transformers_cxr.training import InstructionCollator, InstructionDataset


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (40, 48), dtype=np.uint8)


def pixel_inputs(processor, texts=("Report: <image> and", "Two <image> then <image> end."), **kwargs):
    images = [image(i) for i in range(sum(text.count("<image>") for text in texts))]
    return processor(text=list(texts), images=images, return_tensors="pt", padding=True, **kwargs)


@pytest.mark.parametrize("new_embeddings", ["random", "mean", "codebook"])
def test_text_logits_of_the_base_are_unchanged_by_the_extension(
    backbone, text_tokenizer, vq_tokenizer, new_embeddings
):
    ids, known = torch.arange(12).view(2, 6), len(text_tokenizer)
    with torch.no_grad():
        before = backbone(ids, output_hidden_states=True)
        rows_before = backbone.get_output_embeddings().weight[:known].clone()
        model, _ = LlmCxrForCausalLM.from_language_model(backbone, text_tokenizer, vq_tokenizer, new_embeddings)
        after = model(ids, output_hidden_states=True)
    # All that the logits are made of is equal to the bit; the product with a longer head may round its last bit otherwise.
    assert torch.equal(after.hidden_states[-1], before.hidden_states[-1])
    assert torch.equal(model.get_output_embeddings().weight[:known], rows_before)
    torch.testing.assert_close(after.logits[..., :known], before.logits[..., :known], rtol=0, atol=1e-6)


def test_new_rows_follow_the_old_table_and_are_seeded(any_model, text_tokenizer):
    model, processor = any_model
    table = model.get_input_embeddings().weight.detach()
    assert len(table) == len(processor.tokenizer) == model.config.text_config.vocab_size
    old, new = table[: len(text_tokenizer)], table[len(text_tokenizer) :]
    assert 0.7 < new.std() / old.std() < 1.3
    assert len(new.unique(dim=0)) == len(new)


def tables(model):
    return [module.weight.detach() for module in (model.get_input_embeddings(), model.get_output_embeddings())]


def test_new_rows_are_the_mean_of_the_old_table_where_that_is_asked_for(backbone, text_tokenizer, vq_tokenizer):
    model, _ = LlmCxrForCausalLM.from_language_model(backbone, text_tokenizer, vq_tokenizer, new_embeddings="mean")
    for table in tables(model):
        old, new = table[: len(text_tokenizer)], table[len(text_tokenizer) :]
        torch.testing.assert_close(new, old.mean(0).expand_as(new))


def test_rows_of_codes_are_laid_out_as_the_codebook_where_that_is_asked_for(backbone, text_tokenizer, vq_tokenizer):
    model, processor = LlmCxrForCausalLM.from_language_model(
        backbone, text_tokenizer, vq_tokenizer, new_embeddings="codebook"
    )
    for table in tables(model):
        old, codes = table[: len(text_tokenizer)], table[processor.image_token_offset :]
        torch.testing.assert_close(codes.mean(0), old.mean(0))
        torch.testing.assert_close(codes.std(0), old.std(0))
        # An affine image of the codebook: the code vectors explain the rows up to rounding.
        features = F.pad(vq_tokenizer.codebook.detach(), (0, 1), value=1.0)
        fitted = features @ torch.linalg.lstsq(features, codes).solution
        torch.testing.assert_close(fitted, codes, rtol=1e-3, atol=1e-4)
        assert len(codes.unique(dim=0)) == len(codes)


def test_rows_of_codes_are_seeded(llama, text_tokenizer, vq_tokenizer):
    rows = []
    for seed in (0, 0, 1):
        base = copy.deepcopy(llama)
        model, _ = LlmCxrForCausalLM.from_language_model(base, text_tokenizer, vq_tokenizer, "codebook", seed)
        rows.append(model.get_input_embeddings().weight)
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_an_unknown_kind_of_new_rows_is_refused(llama, text_tokenizer, vq_tokenizer):
    with pytest.raises(ValueError, match="must be 'random', 'mean' or 'codebook', got 'zero'"):
        LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, vq_tokenizer, new_embeddings="zero")


def test_tied_heads_stay_tied_and_untied_stay_untied_through_save_and_load(any_model, tmp_path):
    model, _ = any_model
    model.save_pretrained(tmp_path)
    for each in (model, LlmCxrForCausalLM.from_pretrained(tmp_path)):
        tied = each.get_output_embeddings().weight is each.get_input_embeddings().weight
        assert tied == each.config.text_config.tie_word_embeddings


def test_save_and_load_is_bit_equal_in_one_file_and_in_shards(any_model, tmp_path):
    model, processor = any_model
    inputs = pixel_inputs(processor)
    expected = model(**inputs).logits
    for name, size in (("one", "1GB"), ("shards", "50KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=size)
        assert (len(list((tmp_path / name).glob("*.safetensors"))) > 1) == (name == "shards")
        assert torch.equal(LlmCxrForCausalLM.from_pretrained(tmp_path / name)(**inputs).logits, expected)


def test_auto_classes_find_model_processor_and_configs(any_model, tmp_path):
    model, processor = any_model
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
        assert type(auto_class.from_pretrained(tmp_path)) is LlmCxrForCausalLM
    assert type(AutoConfig.from_pretrained(tmp_path)) is LlmCxrConfig
    assert type(AutoProcessor.from_pretrained(tmp_path)) is LlmCxrProcessor
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is LlmCxrImageProcessor
    model.vq_tokenizer.save_pretrained(tmp_path / "vq")
    assert type(AutoModel.from_pretrained(tmp_path / "vq")) is CXRVQTokenizer


def test_language_model_alone_is_a_plain_checkpoint_with_equal_logits(any_model, tmp_path):
    model, processor = any_model
    model.to_language_model().save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    inputs = pixel_inputs(processor)
    ids, _ = model.replace_image_placeholders(inputs.pixel_values, inputs.input_ids)[:2]
    assert type(plain.base_model) is type(model.get_decoder())
    expected = model(input_ids=ids, attention_mask=inputs.attention_mask).logits
    assert torch.equal(plain(input_ids=ids, attention_mask=inputs.attention_mask).logits, expected)


def test_pixels_codes_and_vq_tokenizer_give_the_same_ids_and_logits(any_model):
    model, processor = any_model
    texts = ("Report: <image> and", "Two <image> then <image> end.")
    pixels = pixel_inputs(processor, texts)
    codes = model.vq_tokenizer.encode(pixels.pixel_values)
    by_codes = processor(text=list(texts), image_codes=codes, return_tensors="pt", padding=True)
    processor.vq_tokenizer = model.vq_tokenizer
    by_vq_tokenizer = pixel_inputs(processor, texts)
    assert "pixel_values" not in by_codes and "pixel_values" not in by_vq_tokenizer
    assert torch.equal(
        model.replace_image_placeholders(pixels.pixel_values, pixels.input_ids)[:2][0], by_codes.input_ids
    )
    assert torch.equal(by_codes.input_ids, by_vq_tokenizer.input_ids)
    assert torch.equal(by_codes.attention_mask, pixels.attention_mask)
    assert torch.equal(model(**pixels).logits, model(**by_codes).logits)


def test_loss_over_text_and_codes_is_the_cross_entropy_of_the_next_token(any_model):
    model, processor = any_model
    inputs = pixel_inputs(processor, ["Draw: <image>"])
    labels = inputs.input_ids.clone()
    labels[:, :3] = -100
    output = model(**inputs, labels=labels)
    ids, _ = model.replace_image_placeholders(inputs.pixel_values, inputs.input_ids)[:2]
    targets = ids.clone()
    targets[:, :3] = -100
    expected = F.cross_entropy(output.logits[0, :-1].float(), targets[0, 1:])
    torch.testing.assert_close(output.loss, expected)
    assert (targets >= model.config.image_token_offset).sum() == 16


def test_gradient_checkpointing_gives_the_same_loss_and_gradients(any_model):
    model, processor = any_model
    inputs = pixel_inputs(processor, ["Draw: <image>"])
    results = []
    for enabled in (False, True):
        model.zero_grad()
        model.train()
        if enabled:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        loss = model(**inputs, labels=inputs.input_ids, use_cache=False).loss
        loss.backward()
        results.append((loss.item(), model.get_input_embeddings().weight.grad.clone()))
    assert results[0][0] == results[1][0]
    torch.testing.assert_close(results[0][1], results[1][1])


def test_a_model_that_is_made_in_bf16_has_a_vq_tokenizer_in_fp32(tiny_model):
    made = AutoModel.from_config(tiny_model[0].config, dtype=torch.bfloat16)
    assert (made.dtype, made.vq_tokenizer.dtype) == (torch.bfloat16, torch.float32)
    assert made(**pixel_inputs(tiny_model[1])).logits.dtype == torch.bfloat16


def test_bf16_keeps_the_vq_tokenizer_in_fp32_and_its_codes(any_model, tmp_path):
    model, processor = any_model
    inputs = pixel_inputs(processor)
    expected = model.vq_tokenizer.encode(inputs.pixel_values)
    model.save_pretrained(tmp_path)
    loaded = LlmCxrForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for each in (loaded, model.to(torch.bfloat16)):
        assert {p.dtype for p in each.vq_tokenizer.parameters()} == {torch.float32}
        assert {p.dtype for p in each.get_decoder().parameters()} == {torch.bfloat16}
        assert torch.equal(each.vq_tokenizer.encode(inputs.pixel_values), expected)
        assert each(**inputs).logits.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loaded.get_image_tokens(inputs.pixel_values) - loaded.config.image_token_offset, expected)


@pytest.mark.parametrize(
    "device_map",
    ["cpu", "auto", {"model.vq_tokenizer": "cpu", "model.language_model": "disk", "lm_head": "disk"}],
    ids=["cpu", "auto", "offloaded"],
)
def test_device_map_loads_and_generates(any_model, tmp_path, device_map):
    model, processor = any_model
    model.save_pretrained(tmp_path)
    loaded = LlmCxrForCausalLM.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "offloaded")
    inputs = pixel_inputs(processor).to(loaded.device)
    prompt = processor.encode_prompts([[{"role": "user", "content": "Draw."}]]).to(loaded.device)
    for each in (model.to(loaded.device), loaded):
        results = [
            each(**inputs).logits,
            each.generate(**inputs, max_new_tokens=4, do_sample=False),
            each.generate_image(prompt.input_ids, num_images=2, seed=0),
        ]
        expected = results if each is model else expected  # noqa: F821
    assert all(torch.equal(result, other) for result, other in zip(results, expected))


def test_the_small_image_tokenizer_is_the_last_to_be_offloaded(any_model):
    sizes = [sum(p.numel() for p in each.parameters()) * 4 for each in (any_model[0].vq_tokenizer, any_model[0])]
    memory = {"cpu": (sizes[0] + sizes[1]) // 2, "disk": 10**9}
    device_map = infer_auto_device_map(any_model[0], memory, no_split_module_classes=any_model[0]._no_split_modules)
    assert device_map["model.vq_tokenizer"] == "cpu" and "disk" in device_map.values()


def test_the_image_tokenizer_is_not_trained(any_model, tmp_path):
    model, _ = any_model
    model.save_pretrained(tmp_path)
    for each in (model, LlmCxrForCausalLM.from_pretrained(tmp_path)):
        assert {p.requires_grad for p in each.vq_tokenizer.parameters()} == {False}
        assert {p.requires_grad for p in each.get_decoder().parameters()} == {True}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks by the old name
def test_lora_on_the_wrapper_trains_saves_loads_and_draws(any_model, tmp_path):
    model, processor = any_model
    targets = ["query_key_value"] if model.config.text_config.model_type == "gpt_neox" else ["q_proj", "v_proj"]
    model.save_pretrained(tmp_path / "base")
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    inputs = pixel_inputs(processor, ["Draw: <image>"])
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        peft_model(**inputs, labels=inputs.input_ids).loss.backward()
        optimizer.step()
    peft_model.eval().save_pretrained(tmp_path / "adapter")
    base = LlmCxrForCausalLM.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**inputs).logits, peft_model(**inputs).logits)
    assert peft_model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] > inputs.input_ids.shape[1]
    prompt = processor(text="Draw: " + processor.boi_token, return_tensors="pt")
    drawn = peft_model.generate_image(prompt.input_ids, do_sample=False)
    plain = peft_model.generate(**prompt, max_new_tokens=16, do_sample=False)[:, -16:]
    assert torch.equal(drawn, plain - base.config.image_token_offset)


def test_trainer_overfits_a_few_conversations(tiny_model, tmp_path):
    model, processor = tiny_model
    codes = np.random.default_rng(0).integers(0, 32, (8, 1, 16)).tolist()
    question, answers = [{"type": "text", "text": "Is there pneumonia?"}, {"type": "image"}], ["Yes.", "No."]
    conversations = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answers[i % 2]}]}
        | {"task": "vqa", "image_codes": codes[i]}
        for i in range(8)
    ]
    dataset = InstructionDataset(conversations, processor)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        use_cpu=True,
    )
    collator = InstructionCollator(processor.tokenizer.pad_token_id)
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert float(losses[-1]) < 0.6 * float(losses[0])


def test_images_and_placeholders_that_do_not_match_are_refused(tiny_model):
    model, processor = tiny_model
    inputs = pixel_inputs(processor)
    with pytest.raises(ValueError, match=r"Expected 32 placeholders \(id \d+\) for 2 images, got 48"):
        model(inputs.input_ids, pixel_values=inputs.pixel_values[:2])
    with pytest.raises(ValueError, match=r"holds image placeholders \(id \d+\), but `pixel_values` is missing"):
        model.generate(inputs.input_ids)


def test_training_on_placeholders_is_refused(tiny_model):
    model, processor = tiny_model
    inputs = pixel_inputs(processor)
    with pytest.raises(ValueError, match=r"holds image placeholders \(id \d+\), but `pixel_values` is missing"):
        model(input_ids=inputs.input_ids, labels=inputs.input_ids)


def test_training_on_codes_is_compiled_as_one_graph(tiny_model):
    model, processor = tiny_model
    inputs = processor(text="Report: <image> Normal.", image_codes=[list(range(16))], return_tensors="pt")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert compiled(**inputs, labels=inputs.input_ids).loss == model(**inputs, labels=inputs.input_ids).loss


def test_a_checkpoint_of_another_model_is_refused(tiny_model, tmp_path):
    model, _ = tiny_model
    for name, part in {"language_model": model.to_language_model(), "vq_tokenizer": model.vq_tokenizer}.items():
        part.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}' is a model of type '.*': expected a whole LLM-CXR"):
            LlmCxrForCausalLM.from_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="is a model of type 'llama': expected an image tokenizer"):
        CXRVQTokenizer.from_pretrained(tmp_path / "language_model")


def test_prompt_longer_than_the_context_is_refused(tiny_model):
    model, _ = tiny_model
    with pytest.raises(ValueError, match="at least 301 tokens.*context of 256"):
        model.generate(torch.ones((1, 300), dtype=torch.long))


def test_processor_of_another_model_is_refused(tiny_model, text_tokenizer):
    model, _ = tiny_model
    other = LlmCxrProcessor.from_tokenizer(
        text_tokenizer, CXRVQTokenizerConfig(image_size=32, block_out_channels=(32, 32), attention_levels=())
    )
    with pytest.raises(
        ValueError, match="processor does not belong to this model.*`codebook_size` is 1024 and not 32"
    ):
        model.check_processor(other)
    with pytest.raises(ValueError, match="`num_image_tokens` is 256 and not 16"):
        generate_image(model, other, "Normal.")


def test_processor_of_as_many_codes_in_another_layout_is_refused(tiny_model, text_tokenizer, vq_tokenizer):
    model, processor = tiny_model
    model.check_processor(processor)
    longer = copy.deepcopy(text_tokenizer)
    longer.add_tokens(["another"])
    other = LlmCxrProcessor.from_tokenizer(longer, vq_tokenizer.config)
    offset = processor.image_token_offset
    with pytest.raises(ValueError, match=f"`image_token_offset` is {offset + 1} and not {offset}"):
        model.check_processor(other)


def test_codebook_beyond_the_vocabulary_is_refused(tiny_model):
    model, _ = tiny_model
    config = model.config.to_dict()
    config["vq_config"]["codebook_size"] = 64
    with pytest.raises(ValueError, match="beyond the backbone's vocabulary"):
        LlmCxrConfig(**config)


def test_tokenizer_larger_than_the_embeddings_is_refused(llama, text_tokenizer, vq_tokenizer):
    llama.resize_token_embeddings(100)
    with pytest.raises(ValueError, match="embedding for each of the .* tokens of the tokenizer, got 100"):
        LlmCxrForCausalLM.from_language_model(llama, text_tokenizer, vq_tokenizer)


def test_vq_checkpoint_of_another_codebook_size_is_refused(vq_tokenizer, tmp_path):
    vq_tokenizer.save_pretrained(tmp_path)
    config = CXRVQTokenizerConfig.from_pretrained(tmp_path, codebook_size=64)
    with pytest.raises(RuntimeError, match="size mismatch|mismatched|ignore_mismatched_sizes"):
        CXRVQTokenizer.from_pretrained(tmp_path, config=config)


def test_turns_with_images_give_the_same_ids_as_pixels_codes_and_vq_tokenizer(tiny_model):
    model, processor = tiny_model
    content = [{"type": "text", "text": "Report."}, {"type": "image", "image": image(0)}]
    turns = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "Clear."},
        {"role": "user", "content": [{"type": "text", "text": "Compare."}, {"type": "image", "image": image(1)}]},
    ]
    batch = [turns, [{"role": "user", "content": "No image."}], turns[:1]]
    kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    pixels = processor.apply_chat_template(batch, processor_kwargs={"padding": True}, **kwargs)
    ids, _ = model.replace_image_placeholders(pixels.pixel_values, pixels.input_ids)[:2]
    processor.vq_tokenizer = model.vq_tokenizer
    by_vq_tokenizer = processor.apply_chat_template(batch, processor_kwargs={"padding": True}, **kwargs)
    assert torch.equal(by_vq_tokenizer.input_ids, ids)
    bare = [[{**m, "content": m["content"] if isinstance(m["content"], str) else [
        {k: v for k, v in part.items() if k != "image"} for part in m["content"]]} for m in c] for c in batch]  # fmt: skip
    codes = model.vq_tokenizer.encode(pixels.pixel_values)
    by_codes = processor.apply_chat_template(bare, processor_kwargs={"padding": True, "image_codes": codes}, **kwargs)
    assert torch.equal(by_codes.input_ids, ids)
    assert torch.equal(model(**pixels).logits, model(**by_codes).logits)


def test_an_extended_backbone_can_be_wrapped_again(any_model, vq_tokenizer, tmp_path):
    model, processor = any_model
    model.to_language_model().save_pretrained(tmp_path)
    again, again_processor = LlmCxrForCausalLM.from_language_model(
        tmp_path, processor.tokenizer, vq_tokenizer, new_embeddings="random"
    )
    assert again.config.image_token_offset == model.config.image_token_offset
    assert again_processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    inputs = pixel_inputs(processor)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("name", ["sdpa", "flex_attention"])
def test_attention_implementations_load(tiny_model, tmp_path, name):
    tiny_model[0].save_pretrained(tmp_path)
    loaded = LlmCxrForCausalLM.from_pretrained(tmp_path, attn_implementation=name)
    assert loaded.get_decoder().config._attn_implementation == name


def test_attention_implementation_reaches_the_backbone(tiny_model, tmp_path):
    model, processor = tiny_model
    model.save_pretrained(tmp_path)
    eager = LlmCxrForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.get_decoder().config._attn_implementation == "eager"
    inputs = pixel_inputs(processor)
    kept = inputs.attention_mask.bool()  # padding attends to nothing, each implementation in its own way
    torch.testing.assert_close(eager(**inputs).logits[kept], model(**inputs).logits[kept], rtol=1e-4, atol=1e-4)


def test_bf16_backbone_is_extended_in_bf16(llama, text_tokenizer, vq_tokenizer):
    model, processor = LlmCxrForCausalLM.from_language_model(
        llama.to(torch.bfloat16), text_tokenizer, vq_tokenizer, new_embeddings="random"
    )
    assert model.config.dtype == torch.bfloat16 and model.dtype == torch.bfloat16
    assert model.vq_tokenizer.dtype == torch.float32
    assert torch.isfinite(model(**pixel_inputs(processor)).logits).all()
