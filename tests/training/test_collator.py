"""Padded and packed batches."""

import pytest
import torch

from transformers_cxr.data.mixture import TASKS
from transformers_cxr.training import InstructionCollator, InstructionDataset
from transformers_cxr.training.trainer import example_losses


@pytest.fixture
def examples(conversation):
    """`examples(processor)`: of all tasks, of different lengths."""
    answers = ["No.", "The lungs are clear and there is no effusion. " * 3, "Yes. " * 12]
    records = [conversation(task, answer, seed=i) for i, answer in enumerate(answers) for task in TASKS]
    return lambda processor: list(InstructionDataset(records, processor))


def test_packing_keeps_losses_and_gradients(any_model, examples):
    model, processor = any_model
    batch = examples(processor)
    expected, gradients = [], []
    for example in batch:
        alone = model(input_ids=example["input_ids"][None], labels=example["labels"][None])
        expected.append(alone.loss.item() * int((example["labels"] != -100).sum()))
    for packing in (None, "rows", "one_row"):
        packed = InstructionCollator(0, packing, return_tasks=True)(batch)
        example_ids = packed.pop("examples")
        inputs = {name: values for name, values in packed.items() if name not in ("tasks", "skipped")}
        assert len(inputs["input_ids"]) <= len(batch)
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        sums, tokens = example_losses(output.logits, packed["labels"], example_ids, len(batch))
        torch.testing.assert_close(sums, torch.tensor(expected, dtype=torch.double), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(output.loss.double(), sums.sum() / tokens.sum(), rtol=1e-5, atol=0)
    for name, gradient in gradients[0].items():
        for packed in gradients[1:]:
            torch.testing.assert_close(packed[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_conversations_do_not_attend_to_each_other(tiny_model, examples, attention):
    model, processor = tiny_model
    model.set_attn_implementation({"text_config": attention})
    batch = InstructionCollator(0, "one_row", return_tasks=True)(examples(processor)[:3])
    first = batch["examples"] == 0
    changed = batch["input_ids"].masked_fill(first, 7)
    logits = [
        model(ids, position_ids=batch["position_ids"], use_cache=False).logits for ids in (batch["input_ids"], changed)
    ]
    torch.testing.assert_close(logits[0][~first], logits[1][~first], rtol=0, atol=1e-5)
    assert not torch.allclose(logits[0][first], logits[1][first])


def test_rows_are_not_longer_than_the_longest_conversation_and_hold_each_once(tiny_model, examples):
    _, processor = tiny_model
    batch = examples(processor)
    padded, packed = (InstructionCollator(0, p, return_tasks=True)(batch) for p in (None, "rows"))
    assert packed["input_ids"].shape[1] <= padded["input_ids"].shape[1]
    assert packed["input_ids"].numel() < padded["input_ids"].numel()
    for index, example in enumerate(batch):
        members = packed["examples"] == index
        assert torch.equal(packed["input_ids"][members], example["input_ids"])
        assert torch.equal(packed["position_ids"][members], torch.arange(len(example["input_ids"])))
        assert len(members.any(1).nonzero()) == 1
    assert torch.equal((packed["examples"] >= 0).sum(), padded["attention_mask"].sum())


def test_padding_is_on_the_right_and_without_labels(tiny_model, examples):
    batch = InstructionCollator(5)(examples(tiny_model[1])[:4])
    padding = batch["attention_mask"] == 0
    assert padding.any() and not padding[:, 0].any() and (padding[:, 1:] >= padding[:, :-1]).all()
    assert (batch["input_ids"][padding] == 5).all() and (batch["labels"][padding] == -100).all()
