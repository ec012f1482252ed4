"""LoRA and new-token embeddings."""

import pytest
import torch
from peft import PeftModel

from transformers_cxr import LlmCxrForCausalLM
from transformers_cxr.training import add_lora, new_token_ids, train_new_embeddings_only

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT reads a deprecated name


def tables(model):
    return [module.weight.detach().clone() for module in (model.get_input_embeddings(), model.get_output_embeddings())]


def train(model, processor):
    """Train for two steps and return the ids."""
    code = processor.image_token_offset
    ids = torch.tensor([[code + 3, 5, 9, processor.boi_token_id, 11, code]])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return ids


def test_new_tokens_are_those_that_the_text_tokenizer_lacks(any_model, text_tokenizer):
    model, processor = any_model
    expected = list(range(len(text_tokenizer), len(processor.tokenizer)))
    assert new_token_ids(model, processor) == expected
    # DeepSpeed ZeRO-3 leaves empty weights.
    model.get_input_embeddings().weight.data = torch.empty(0)
    assert new_token_ids(model, processor) == expected


def test_lora_trains_and_saves_new_embeddings_only_and_merges(any_model, text_tokenizer, tmp_path):
    model, processor = any_model
    model.save_pretrained(tmp_path / "base")
    before, known = tables(model), len(text_tokenizer)
    peft_model = add_lora(model, processor, r=2)
    trained = [name for name, p in peft_model.named_parameters() if p.requires_grad]
    assert not any("vq_tokenizer" in name for name in trained)
    assert all(any(kind in name for kind in ("lora_A", "lora_B", "trainable_tokens_delta")) for name in trained)
    # One set of new rows if embeddings and head are tied.
    assert sum("trainable_tokens_delta" in name for name in trained) == 2 - model.config.tie_word_embeddings
    ids = train(peft_model, processor)
    expected = peft_model.eval()(input_ids=ids).logits
    peft_model.save_pretrained(tmp_path / "adapter")

    merged = peft_model.merge_and_unload()
    assert type(merged) is LlmCxrForCausalLM
    for old, new in zip(before, tables(merged)):
        assert torch.equal(new[:known], old[:known])
        assert not torch.equal(new[known:], old[known:])
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = LlmCxrForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(loaded(input_ids=ids).logits, merged(input_ids=ids).logits)
    base = LlmCxrForCausalLM.from_pretrained(tmp_path / "base")
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(adapted(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_lora_with_all_embeddings_trains_old_rows_and_keeps_the_tie(any_model, text_tokenizer):
    model, processor = any_model
    before, known = tables(model), len(text_tokenizer)
    peft_model = add_lora(model, processor, train_new_embeddings_only=False, r=2)
    ids = train(peft_model, processor)
    expected = peft_model.eval()(input_ids=ids).logits
    merged = peft_model.merge_and_unload()
    assert all(not torch.equal(new[:known], old[:known]) for old, new in zip(before, tables(merged)))
    assert torch.equal(*tables(merged)) == merged.config.text_config.tie_word_embeddings
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_old_embeddings_keep_their_bits_while_other_weights_train(any_model, text_tokenizer):
    model, processor = any_model
    before, known, end = tables(model), len(text_tokenizer), len(processor.tokenizer)
    layer = next(p for name, p in model.named_parameters() if "layers.0" in name and p.ndim == 2)
    layer_before = layer.detach().clone()
    train_new_embeddings_only(model, processor)
    model.vq_tokenizer.requires_grad_(False)
    train(model, processor)
    for old, new in zip(before, tables(model)):
        assert torch.equal(new[:known], old[:known]) and torch.equal(new[end:], old[end:])
        assert not torch.equal(new[known:end], old[known:end])
    assert not torch.equal(layer, layer_before)
