"""
Train a classifier of chest X-rays: normal, bacterial or viral pneumonia.

    python examples/train_classifier.py --config examples/embedded_checkpoint/classifier.yaml --records DATA \
        --output_dir runs/classifier

`DATA` is a Parquet file of records or a folder with a `metadata.csv`. The records of the train split with one of the
classes are trained on, and balanced accuracies on the validation split are written to `OUTPUT_DIR/metrics.json`.
`OUTPUT_DIR/final` is an image classifier of Transformers, for the clinical loss of `train_vq_gan.py` and for
evaluation: `--clinical_classifier runs/classifier/final`. Training resumes from the last checkpoint in `OUTPUT_DIR`.
Every setting of `transformers.TrainingArguments` is an argument.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments, ViTImageProcessor, set_seed

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.data import open_records
from transformers_cxr.training import augment, resume_checkpoint, run_script
from transformers_cxr.training.classification import (
    PNEUMONIA_CLASSES,
    ClassificationTrainer,
    balanced_accuracies,
    pneumonia_class,
    select_pneumonia_records,
)


@dataclass
class ScriptArguments:
    records: str = field(metadata={"help": "Parquet file of records, or folder with a metadata.csv"})
    image_size: int = field(default=128, metadata={"help": "height and width of the images in pixels"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of ResNetConfig"})


def load_examples(path: str, split: str, image_size: int) -> list[dict[str, torch.Tensor]]:
    """Return `pixel_values` (`torch.uint8` of shape `(1, image_size, image_size)`) and `labels` of each record."""
    size = {"height": image_size, "width": image_size}
    processor = LlmCxrImageProcessor(size={"shortest_edge": image_size}, crop_size=size, do_convert_rgb=False)
    examples = []
    for record in tqdm(select_pneumonia_records(open_records(path, split)), desc=f"Reading the {split} split"):
        pixel_values = processor(record.image, return_tensors="pt").pixel_values[0]
        labels = torch.tensor(PNEUMONIA_CLASSES.index(pneumonia_class(record)))
        examples.append({"pixel_values": (pixel_values * 127.5 + 127.5).round().byte(), "labels": labels})
    return examples


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]).float() / 127.5 - 1,
        "labels": torch.stack([example["labels"] for example in examples]),
    }


def main(args: ScriptArguments, training_args: TrainingArguments):
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)
    train, validation = (load_examples(args.records, split, args.image_size) for split in ("train", "validation"))
    id2label = dict(enumerate(PNEUMONIA_CLASSES))
    label2id = {name: index for index, name in id2label.items()}
    counts = torch.bincount(torch.stack([example["labels"] for example in train]))
    trainer = ClassificationTrainer(
        class_weights=counts.sum() / (len(PNEUMONIA_CLASSES) * counts),
        augment=augment,
        model=ResNetForImageClassification(
            ResNetConfig(num_channels=1, id2label=id2label, label2id=label2id, **args.model)
        ),
        args=training_args,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        compute_metrics=balanced_accuracies,
    )
    trainer.train(resume_from_checkpoint=resume_checkpoint(training_args, asdict(args)))
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(output_dir / "final")
        size = {"height": args.image_size, "width": args.image_size}
        ViTImageProcessor(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(output_dir / "final")
        names = [name for name in metrics if name.endswith("balanced_accuracy")]
        content = json.dumps({name.removeprefix("eval_"): round(metrics[name], 4) for name in names}, indent=2)
        (output_dir / "metrics.json").write_text(content + "\n")
        print(content)


if __name__ == "__main__":
    run_script(main, ScriptArguments, TrainingArguments)
