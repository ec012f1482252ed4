"""What trains and what does not, with LoRA and without."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from transformers_cxr import LlmCxrForCausalLM
from transformers_cxr.training.lora import add_lora, freeze_old_rows, new_token_ids

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks by the old name


def tables(model):
    return [module.weight.detach().clone() for module in (model.get_input_embeddings(), model.get_output_embeddings())]


def train(model, processor, steps=2):
    ids = torch.tensor(
        [[processor.image_token_offset + 3, 5, 9, processor.boi_token_id, 11, processor.image_token_offset]]
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return ids


def test_new_tokens_are_all_that_the_text_tokenizer_did_not_have(any_model, text_tokenizer):
    model, processor = any_model
    assert new_token_ids(model, processor) == list(range(len(text_tokenizer), len(processor.tokenizer)))


def test_a_placeholder_without_a_row_is_no_new_token(any_model):
    model, processor = any_model
    model.language_model.resize_token_embeddings(processor.image_token_offset + 30)
    assert new_token_ids(model, processor)[-1] == processor.image_token_offset + 29


def test_new_tokens_of_a_sharded_model_are_those_of_the_whole_one(tiny_model):
    model, processor = tiny_model
    expected = new_token_ids(model, processor)
    model.get_input_embeddings().weight.data = torch.empty(0)
    assert expected and new_token_ids(model, processor) == expected


def test_lora_with_new_rows_leaves_all_else_and_merges(any_model, text_tokenizer, tmp_path):
    model, processor = any_model
    model.save_pretrained(tmp_path / "base")
    new_ids, before, known = new_token_ids(model, processor), tables(model), len(text_tokenizer)
    peft_model = add_lora(model, new_ids, r=2)
    trained = [name for name, p in peft_model.named_parameters() if p.requires_grad]
    assert not any("vq_tokenizer" in name for name in trained)
    kinds = {"lora_A", "lora_B", "trainable_tokens_delta"}
    assert all(any(kind in name for kind in kinds) for name in trained)
    # One set of new rows where vocabulary and head are one table.
    assert sum("trainable_tokens_delta" in name for name in trained) == 2 - model.config.tie_word_embeddings
    ids = train(peft_model, processor)
    expected = peft_model.eval()(input_ids=ids).logits
    peft_model.save_pretrained(tmp_path / "adapter")

    merged = peft_model.merge_and_unload()
    assert type(merged) is LlmCxrForCausalLM
    for old, new in zip(before, tables(merged)):
        assert torch.equal(new[:known], old[:known])
        assert not torch.equal(new[known:], old[known:])
    head_is_vocabulary = merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    assert head_is_vocabulary == merged.config.text_config.tie_word_embeddings
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = LlmCxrForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(loaded(input_ids=ids).logits, merged(input_ids=ids).logits)
    # The adapter holds the new rows, so that it fits on any base with these tokens.
    base = LlmCxrForCausalLM.from_pretrained(tmp_path / "base")
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(adapted(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_lora_with_the_whole_vocabulary_trains_old_rows_too_and_keeps_the_tie(any_model, text_tokenizer):
    model, processor = any_model
    before, known = tables(model), len(text_tokenizer)
    peft_model = add_lora(model, new_token_ids(model, processor), freeze_old_rows=False, r=2)
    ids = train(peft_model, processor)
    expected = peft_model.eval()(input_ids=ids).logits
    merged = peft_model.merge_and_unload()
    for old, new in zip(before, tables(merged)):
        assert not torch.equal(new[:known], old[:known])
    same = torch.equal(*tables(merged))
    assert same == merged.config.text_config.tie_word_embeddings
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_old_rows_stay_to_the_bit_where_all_other_weights_train(any_model, text_tokenizer):
    model, processor = any_model
    before, known = tables(model), len(text_tokenizer)
    layer = next(p for name, p in model.language_model.named_parameters() if "layers.0" in name and p.ndim == 2)
    layer_before = layer.detach().clone()
    freeze_old_rows(model, new_token_ids(model, processor))
    model.vq_tokenizer.requires_grad_(False)
    train(model, processor)
    for old, new in zip(before, tables(model)):
        assert torch.equal(new[:known], old[:known])
        assert torch.equal(new[len(processor.tokenizer) :], old[len(processor.tokenizer) :])
        assert not torch.equal(new[known : len(processor.tokenizer)], old[known : len(processor.tokenizer)])
    assert not torch.equal(layer, layer_before)


def test_a_setting_that_lora_does_not_have_is_an_error(tiny_model):
    with pytest.raises(ValueError, match=r"LoRA has no settings \['rank'\]; .* has .*lora_alpha"):
        add_lora(tiny_model[0], [1], rank=4)


def test_a_merged_backbone_is_a_plain_language_model(tiny_model, tmp_path):
    model, processor = tiny_model
    peft_model = add_lora(model, new_token_ids(model, processor), r=2)
    ids = train(peft_model, processor)
    merged = peft_model.merge_and_unload().eval()
    merged.language_model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain(ids).logits, merged(input_ids=ids).logits)
