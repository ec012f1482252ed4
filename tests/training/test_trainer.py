"""The losses of the tasks, of training and of evaluation."""

import copy

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainingArguments
from transformers.integrations import TensorBoardCallback

from transformers_cxr.training.dataset import TASKS, InstructionCollator, InstructionDataset
from transformers_cxr.training.trainer import InstructionTrainer


def record(task, answer, seed=0):
    codes = np.random.default_rng(seed).integers(0, 32, (1, 16)).tolist()
    question = [{"type": "text", "text": "Report."}] + [{"type": "image"}] * (task != "text")
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "task": task, "image_codes": [] if task == "text" else codes}


RECORDS = [
    record(task, answer, seed=i)
    for i, (task, answer) in enumerate(
        [
            ("report", "FINDINGS: The lungs are clear."),
            ("vqa", "No."),
            ("text", "Yes, a normal child."),
            ("vqa", "Yes."),
        ]
        * 2
        + [("report", "IMPRESSION: Normal chest X-ray of a child.")]
    )
]


def smoothed_loss(outputs, labels, num_items_in_batch):
    logits, targets = outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum") / num_items_in_batch


@pytest.fixture
def trainer_of(tiny_model, tmp_path):
    tiny, processor = tiny_model

    def make(records=RECORDS, model=tiny, packing=None, dataset_options=None, compute_loss_func=None, **settings):
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=settings.pop("max_steps", 2),
            per_device_train_batch_size=2,
            per_device_eval_batch_size=4,
            gradient_accumulation_steps=2,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            use_cpu=True,
            **settings,
        )
        dataset = InstructionDataset(records, processor, **(dataset_options or {}))
        collator = InstructionCollator(0, packing, return_tasks=True)
        return InstructionTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=dataset,
            data_collator=collator,
            compute_loss_func=compute_loss_func,
        )

    return make


def losses_alone(model, processor, records):
    """Task, nats and tokens of each record by itself."""
    dataset = InstructionDataset(records, processor)
    rows = []
    for example in (dataset[i] for i in range(len(dataset))):
        with torch.no_grad():
            loss = model(input_ids=example["input_ids"][None], labels=example["labels"][None]).loss.item()
        tokens = int((example["labels"] != -100).sum())
        rows.append((TASKS[example["task"]], loss * tokens, tokens))
    return rows


def mean_losses(rows, name):
    means = {name: sum(row[1] for row in rows) / sum(row[2] for row in rows)}
    for task in {row[0] for row in rows}:
        mine = [row for row in rows if row[0] == task]
        means[f"{name}_{task}"] = sum(row[1] for row in mine) / sum(row[2] for row in mine)
    return means


@pytest.mark.parametrize("packing", [None, "rows", "one_row"])
def test_losses_of_training_are_the_means_over_the_tokens_of_each_task(trainer_of, tiny_model, packing):
    expected = losses_alone(*tiny_model, RECORDS)
    trainer = trainer_of(packing=packing, learning_rate=0.0)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(logged):
        means = mean_losses(expected[4 * step : 4 * step + 4], "loss")
        assert {name for name in entry if name.startswith("loss")} == set(means)
        for name, value in means.items():
            assert float(entry[name]) == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("packing", [None, "rows"])
def test_an_evaluation_counts_each_conversation_once(trainer_of, tiny_model, packing):
    means = mean_losses(losses_alone(*tiny_model, RECORDS), "eval_loss")
    metrics = trainer_of(packing=packing).evaluate()
    for name, value in means.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
    assert "eval_loss_image" not in metrics


def test_training_packed_gives_the_weights_of_training_padded(trainer_of, tiny_model):
    model, _ = tiny_model
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = []
    for packing in (None, "rows"):
        model.load_state_dict(start)
        trainer_of(packing=packing, learning_rate=1e-2, optim="sgd").train()
        trained.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=1e-4, atol=1e-5)
    assert not torch.equal(
        trained[0]["language_model.model.embed_tokens.weight"], start["language_model.lm_head.weight"]
    )


def test_bf16_gives_the_losses_of_fp32(trainer_of, tiny_model):
    losses = []
    for bf16 in (False, True):
        # Accelerate keeps the precision of the first Trainer of a process and of a model.
        AcceleratorState._reset_state(reset_partial_state=True)
        trainer = trainer_of(model=copy.deepcopy(tiny_model[0]), bf16=bf16, learning_rate=0.0)
        trainer.train()
        losses.append([float(entry["loss_report"]) for entry in trainer.state.log_history if "loss" in entry])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]


def test_images_have_the_losses_of_their_codes(trainer_of, tiny_model):
    model, processor = tiny_model
    rng = np.random.default_rng(0)
    images = [PIL.Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)) for _ in range(4)]
    codes = model.vq_tokenizer.encode(processor.image_processor(images, return_tensors="pt").pixel_values).tolist()
    drawing = [
        {"role": "user", "content": [{"type": "text", "text": "Draw."}]},
        {"role": "assistant", "content": [{"type": "image"}]},
    ]
    by_codes = [{"messages": drawing, "task": "image", "image_codes": [row]} for row in codes]
    by_images = [{"messages": drawing, "task": "image", "images": [image]} for image in images]
    first, second = (
        trainer_of(records, packing="rows").evaluate()["eval_loss_image"] for records in (by_codes, by_images)
    )
    assert first == pytest.approx(second, rel=1e-6)


def test_skipped_conversations_are_counted(trainer_of):
    long = record("text", "Yes. " * 60)
    records = [long, RECORDS[0], long, RECORDS[1]]
    trainer = trainer_of(records, dataset_options={"max_length": 120, "skip_too_long": True})
    trainer.train()
    assert [entry["skipped_conversations"] for entry in trainer.state.log_history if "loss" in entry] == [2, 4]


@pytest.mark.parametrize("own", [{"label_smoothing_factor": 0.1}, {"compute_loss_func": smoothed_loss}], ids=str)
def test_smoothed_labels_and_a_loss_of_the_caller_leave_the_losses_of_the_tasks(trainer_of, tiny_model, own):
    model, processor = tiny_model
    trainer = trainer_of(packing="rows", learning_rate=0.0, max_steps=1, **own)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    dataset = InstructionDataset(RECORDS, processor)
    examples = [dataset[i] for i in range(4)]
    outputs = [model(input_ids=example["input_ids"][None]) for example in examples]
    tokens = sum(int((example["labels"] != -100).sum()) for example in examples)
    expected = sum(
        smoothed_loss(output, example["labels"][None], tokens) for output, example in zip(outputs, examples)
    ).item()
    assert float(logged["loss"]) == pytest.approx(expected, rel=1e-5)
    means = mean_losses(losses_alone(model, processor, RECORDS[:4]), "loss")
    assert float(logged["loss_vqa"]) == pytest.approx(means["loss_vqa"], rel=1e-5)


def test_packing_in_rows_with_flash_attention_is_refused(trainer_of, tiny_model):
    tiny_model[0].config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'flash_attention_2' tells packed conversations apart in one row only"):
        trainer_of(packing="rows")


def test_losses_reach_tensorboard(trainer_of, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = trainer_of(max_steps=1)
    trainer.add_callback(TensorBoardCallback())
    trainer.train()
    trainer.evaluate()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert {"train/loss_report", "train/loss_vqa", "eval/loss_report", "eval/loss_text"} <= set(
        events.Tags()["scalars"]
    )
