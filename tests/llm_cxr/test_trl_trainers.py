"""Trainers of TRL run the model as it is. The losses are those of this package on the same conversations."""

import copy

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from transformers_cxr.training import InstructionCollator, encode_conversation, lora_config, write_images_as_text


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [PIL.Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)) for _ in range(2)]


@pytest.fixture
def conversations(images):
    """Two conversations of one image each, with answers of different lengths."""
    question, image = {"type": "text", "text": "Report."}, {"type": "image"}
    users = [question, image], [image, question]
    answers = ("The lungs are clear. No pleural effusion or pneumothorax.", "Yes.")
    return [
        {
            "messages": [
                {"role": "user", "content": user},
                {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            ],
            "images": [image],
        }
        for user, answer, image in zip(users, answers, images)
    ]


@pytest.fixture
def train(tiny_model, tmp_path):
    """`train(rows, peft_config, **settings)`: the trainer and its logs after two steps on the same batch."""

    def train(rows, peft_config=None, **settings):
        args = SFTConfig(
            str(tmp_path), max_steps=2, per_device_train_batch_size=len(rows), logging_steps=1, learning_rate=0.01,
            lr_scheduler_type="constant", save_strategy="no", report_to="none", use_cpu=True, bf16=False,
            disable_tqdm=True, max_length=200, **settings,
        )  # fmt: skip
        model, processor = tiny_model
        trainer = SFTTrainer(
            model, args, train_dataset=Dataset.from_list(rows), processing_class=processor, peft_config=peft_config
        )
        trainer.train()
        return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    return train


def expected_loss(model, processor, conversations):
    examples = [encode_conversation(processor, {**row, "task": "vqa"}) for row in conversations]
    with torch.no_grad():
        return model(**InstructionCollator(0)(examples)).loss.item()


@pytest.mark.parametrize("data", ["assistant_only_loss", "prompt and completion", "LoRA", "packing"])
def test_the_loss_of_answers_is_that_of_this_package_and_falls(tiny_model, conversations, train, data):
    model, processor = tiny_model
    expected, before = expected_loss(*tiny_model, conversations), copy.deepcopy(model.state_dict())
    settings, rows = {"assistant_only_loss": True}, conversations
    if data == "prompt and completion":
        settings = {}
        rows = [
            {"prompt": row["messages"][:1], "completion": row["messages"][1:], "images": row["images"]} for row in rows
        ]
    elif data == "LoRA":
        settings |= {"peft_config": lora_config(r=4)}
    elif data == "packing":
        # TRL packs no pixels.
        settings |= {"packing": True}
        pixel_values = [processor.image_processor(row["images"], return_tensors="pt").pixel_values for row in rows]
        codes = map(model.vq_tokenizer.encode, pixel_values)
        rows = [{"messages": write_images_as_text(processor, r["messages"], c)} for r, c in zip(rows, codes)]
    trainer, losses = train(rows, **settings)
    assert losses[0] == pytest.approx(expected, rel=1e-4) and losses[1] < losses[0]
    trained = trainer.model.merge_and_unload() if data == "LoRA" else trainer.model
    changed = [name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])]
    assert changed and not any("vq_tokenizer" in name for name in changed)


def test_with_an_image_tokenizer_the_processor_gives_labels_that_are_codes(tiny_model, conversations, train):
    model, processor = tiny_model
    processor.vq_tokenizer = model.vq_tokenizer
    for row in conversations:
        # The image of the answer, too.
        row["messages"][1]["content"].append({"type": "image"})
        row["images"] *= 2
    trainer, losses = train(conversations)
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    labels = batch["labels"]
    codes = (labels >= processor.image_token_offset) & (labels < processor.image_token_offset + 32)
    assert codes.sum(1).tolist() == [32, 32] and not (labels == processor.image_token_id).any()
    assert "pixel_values" not in batch and losses[1] < losses[0]
