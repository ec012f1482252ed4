"""Padded and packed batches."""

import pytest
import torch
import torch.nn.functional as F

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
    for packing, attention in ((False, "sdpa"), (True, "sdpa"), (True, "packed_sdpa")):
        model.set_attn_implementation({"text_config": attention})
        packed = InstructionCollator(0, packing, return_tasks=True)(batch)
        example_ids = packed.pop("examples")
        inputs = {name: values for name, values in packed.items() if name not in ("tasks", "skipped")}
        assert len(inputs["input_ids"]) == (1 if packing else len(batch))
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        targets = F.pad(packed["labels"][:, 1:], (0, 1), value=-100)
        sums, tokens = example_losses(output.logits, targets, example_ids, len(batch))
        torch.testing.assert_close(sums, torch.tensor(expected, dtype=torch.double), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(output.loss.double(), sums.sum() / tokens.sum(), rtol=1e-5, atol=0)
    for name, gradient in gradients[0].items():
        for packed in gradients[1:]:
            torch.testing.assert_close(packed[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "packed_sdpa"])
def test_packed_conversations_do_not_attend_to_each_other(tiny_model, examples, attention):
    model, processor = tiny_model
    model.set_attn_implementation({"text_config": attention})
    batch = InstructionCollator(0, packing=True, return_tasks=True)(examples(processor)[:3])
    first = batch["examples"] == 0
    changed = batch["input_ids"].masked_fill(first, 7)
    logits = [
        model(ids, position_ids=batch["position_ids"], use_cache=batch["use_cache"]).logits
        for ids in (batch["input_ids"], changed)
    ]
    torch.testing.assert_close(logits[0][~first], logits[1][~first], rtol=0, atol=1e-5)
    assert not torch.allclose(logits[0][first], logits[1][first])


def test_a_packed_row_holds_each_conversation_once_and_no_padding(tiny_model, examples):
    batch = examples(tiny_model[1])
    packed = InstructionCollator(0, packing=True, return_tasks=True)(batch)
    for index, example in enumerate(batch):
        members = packed["examples"] == index
        assert torch.equal(packed["input_ids"][members], example["input_ids"])
        assert torch.equal(packed["position_ids"][members], torch.arange(len(example["input_ids"])))
    assert packed["input_ids"].shape == (1, sum(len(example["input_ids"]) for example in batch))


def test_padding_is_on_the_right_and_without_labels(tiny_model, examples):
    batch = InstructionCollator(5)(examples(tiny_model[1])[:4])
    padding = batch["attention_mask"] == 0
    assert padding.any() and not padding[:, 0].any() and (padding[:, 1:] >= padding[:, :-1]).all()
    assert (batch["input_ids"][padding] == 5).all() and (batch["labels"][padding] == -100).all()
