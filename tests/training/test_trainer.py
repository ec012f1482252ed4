"""Per-task losses of training and evaluation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import TrainingArguments

from transformers_cxr.data.mixture import TASKS
from transformers_cxr.training import InstructionCollator, InstructionDataset, InstructionTrainer


@pytest.fixture
def records(conversation):
    answers = [("report", "The lungs are clear."), ("vqa", "No."), ("text", "Yes, a normal child."), ("vqa", "Yes.")]
    answers = [*answers * 2, ("report", "Normal chest X-ray of a child.")]
    return [conversation(task, answer, seed=i) for i, (task, answer) in enumerate(answers)]


def smoothed_loss(outputs, labels, num_items_in_batch):
    logits, targets = outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum") / num_items_in_batch


@pytest.fixture
def make_trainer(tiny_model, records, tmp_path):
    def make_trainer(
        records=records,
        model=tiny_model[0],
        packing=False,
        compute_loss_func=None,
        max_length=None,
        average_conversations=False,
        **settings,
    ):
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=settings.pop("max_steps", 2), per_device_train_batch_size=2,
            per_device_eval_batch_size=4, gradient_accumulation_steps=2, train_sampling_strategy="sequential",
            logging_steps=1, save_strategy="no", report_to="none", remove_unused_columns=False, use_cpu=True,
            **settings,
        )  # fmt: skip
        dataset = InstructionDataset(records, tiny_model[1], max_length, skip_too_long=True)
        return InstructionTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=dataset,
            data_collator=InstructionCollator(0, packing, return_tasks=True),
            compute_loss_func=compute_loss_func,
            average_conversations=average_conversations,
        )

    return make_trainer


def logged_losses(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def losses_alone(model, processor, records):
    """Task, summed loss and tokens of each record by itself."""
    rows = []
    for example in InstructionDataset(records, processor):
        with torch.no_grad():
            loss = model(input_ids=example["input_ids"][None], labels=example["labels"][None]).loss.item()
        tokens = int((example["labels"] != -100).sum())
        rows.append((TASKS[example["task"]], loss * tokens, tokens))
    return rows


def mean_losses(rows, name):
    means = {name: sum(row[1] for row in rows) / sum(row[2] for row in rows)}
    for task in {row[0] for row in rows}:
        of_task = [row for row in rows if row[0] == task]
        means[f"{name}_{task}"] = sum(row[1] for row in of_task) / sum(row[2] for row in of_task)
    return means


@pytest.mark.parametrize("packing", [False, True])
def test_losses_are_means_over_the_response_tokens_of_each_task(make_trainer, tiny_model, records, packing):
    alone = losses_alone(*tiny_model, records)
    trainer = make_trainer(packing=packing, learning_rate=0.0)
    trainer.train()
    for step, entry in enumerate(logged_losses(trainer)):
        expected = mean_losses(alone[4 * step : 4 * step + 4], "loss")
        assert {name: float(entry[name]) for name in entry if name.startswith("loss")} == pytest.approx(
            expected, rel=1e-5
        )
    # Nine conversations fill no whole number of batches.
    expected, metrics = mean_losses(alone, "eval_loss"), trainer.evaluate()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert "eval_loss_image" not in metrics


def test_packed_training_gives_the_weights_of_padded_training(make_trainer, tiny_model):
    start = copy.deepcopy(tiny_model[0].state_dict())
    trained = []
    for packing in (False, True):
        tiny_model[0].load_state_dict(start)
        make_trainer(packing=packing, learning_rate=1e-2, optim="sgd").train()
        trained.append(copy.deepcopy(tiny_model[0].state_dict()))
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(tensor, start[name]) for name, tensor in trained[0].items())


@pytest.mark.parametrize("packing", [False, True])
def test_each_conversation_weighs_the_same_by_average_conversations(make_trainer, tiny_model, records, packing):
    embeddings = tiny_model[0].get_input_embeddings().weight
    before = embeddings.clone()
    alone = losses_alone(*tiny_model, records[:4])
    trainer = make_trainer(packing=packing, average_conversations=True, max_steps=1)
    trainer.train()
    (logged,) = logged_losses(trainer)
    expected = sum(loss / tokens for _, loss, tokens in alone) / 4
    assert float(logged["loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(logged["loss_vqa"]) == pytest.approx(mean_losses(alone, "loss")["loss_vqa"], rel=1e-5)
    assert not torch.equal(embeddings, before)


def test_skipped_conversations_are_counted(make_trainer, records, conversation):
    long = conversation("text", "Yes. " * 60)
    trainer = make_trainer([long, records[0], long, records[1]], max_length=120)
    trainer.train()
    assert [entry["skipped_conversations"] for entry in logged_losses(trainer)] == [2, 4]


@pytest.mark.parametrize("custom", [{"label_smoothing_factor": 0.1}, {"compute_loss_func": smoothed_loss}], ids=str)
def test_label_smoothing_and_a_custom_loss_keep_the_losses_of_the_tasks(make_trainer, tiny_model, records, custom):
    model, processor = tiny_model
    trainer = make_trainer(packing=True, learning_rate=0.0, max_steps=1, **custom)
    trainer.train()
    (logged,) = logged_losses(trainer)
    examples = list(InstructionDataset(records[:4], processor))
    tokens = sum(int((example["labels"] != -100).sum()) for example in examples)
    expected = sum(
        smoothed_loss(model(input_ids=example["input_ids"][None]), example["labels"][None], tokens).item()
        for example in examples
    )
    assert float(logged["loss"]) == pytest.approx(expected, rel=1e-5)
    means = mean_losses(losses_alone(model, processor, records[:4]), "loss")
    assert float(logged["loss_vqa"]) == pytest.approx(means["loss_vqa"], rel=1e-5)


@pytest.mark.parametrize("custom", [{"label_smoothing_factor": 0.1}, {"compute_loss_func": smoothed_loss}], ids=str)
def test_average_conversations_refuses_another_loss(make_trainer, custom):
    with pytest.raises(ValueError, match="own loss: set `label_smoothing_factor` to 0, got 0"):
        make_trainer(average_conversations=True, **custom)


def test_packed_training_computes_the_logits_of_the_responses_alone(make_trainer, tiny_model, records):
    shapes = []
    head = tiny_model[0].lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[:2]))
    with head:
        make_trainer(packing=True, max_steps=1).train()
    lengths = [tokens for _, _, tokens in losses_alone(*tiny_model, records[:4])]
    assert shapes[:2] == [(1, lengths[0] + lengths[1]), (1, lengths[2] + lengths[3])]
    assert tiny_model[0].config.text_config._attn_implementation == "packed_sdpa"
