"""
Train a multi-label classifier of chest X-rays: pneumonia, bacterial (against viral) pneumonia, PA view, adult.

    python examples/train_classifier.py --config examples/embedded_checkpoint/classifier.yaml --records DATA \
        --output_dir runs/classifier

`DATA` is a Parquet file of records or a folder with a `metadata.csv`. EfficientNet-Lite0 is fine-tuned from ImageNet
on the records of the train split with a known label; labels that have one value only are left out. Balanced accuracies
on the validation split are written to `OUTPUT_DIR/metrics.json`. `OUTPUT_DIR/final` is an image classifier of
Transformers, for the clinical loss of `train_vq_gan.py` and for evaluation: `--clinical_classifier
runs/classifier/final`. Training resumes from the last checkpoint in `OUTPUT_DIR`. Every setting of
`transformers.TrainingArguments` is an argument.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import (
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TrainingArguments,
    ViTImageProcessor,
    set_seed,
)

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.classifiers import load_efficientnet_lite0
from transformers_cxr.data import StudyRecord, open_records
from transformers_cxr.data.records import images_of
from transformers_cxr.files import file_fingerprint
from transformers_cxr.training import augment, resume_checkpoint, run_script
from transformers_cxr.training.classification import (
    XRAY_LABELS,
    ClassificationTrainer,
    balanced_accuracies,
    label_targets,
    label_weights,
)


@dataclass
class ScriptArguments:
    records: str = field(metadata={"help": "Parquet file of records, or folder with a metadata.csv"})
    image_size: int = field(default=192, metadata={"help": "height and width of the images in pixels"})


def load_examples(
    records: Sequence[StudyRecord], targets: torch.FloatTensor, image_size: int
) -> list[dict[str, torch.Tensor]]:
    """
    Return `pixel_values` (`torch.uint8` of shape `(1, image_size, image_size)`) and `labels` (a row of `targets`) of
    each record with a known target.
    """
    size = {"height": image_size, "width": image_size}
    processor = LlmCxrImageProcessor(size={"shortest_edge": image_size}, crop_size=size, do_convert_rgb=False)
    examples = []
    for record, labels in zip(tqdm(records, desc="Reading the images"), targets):
        if not labels.isnan().all():
            pixel_values = processor(record.image, return_tensors="pt").pixel_values[0]
            examples.append({"pixel_values": (pixel_values * 127.5 + 127.5).round().byte(), "labels": labels})
    return examples


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]).float() / 127.5 - 1,
        "labels": torch.stack([example["labels"] for example in examples]),
    }


def create_model(names: Sequence[str]) -> TimmWrapperForImageClassification:
    """Return an EfficientNet-Lite0 with the weights of ImageNet and a random head for the labels `names`."""
    model = TimmWrapperForImageClassification(
        TimmWrapperConfig(
            architecture="tf_efficientnet_lite0",
            model_args={"drop_rate": 0.2},
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
            problem_type="multi_label_classification",
        )
    )
    network = load_efficientnet_lite0()
    network.classifier = model.timm_model.classifier
    model.timm_model.load_state_dict(network.state_dict())
    # Convolutions on CPUs are much faster so.
    return model.to(memory_format=torch.channels_last)


def main(args: ScriptArguments, training_args: TrainingArguments):
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)
    records = [images_of(open_records(args.records, split)) for split in ("train", "validation")]
    targets = [label_targets(own) for own in records]
    columns = [i for i, column in enumerate(targets[0].T) if {0.0, 1.0} <= set(column.tolist())]
    names = [XRAY_LABELS[column] for column in columns]
    if not names:
        raise ValueError(f"Expected X-rays with and without one of {XRAY_LABELS} in the train split, got none.")
    train, validation = (
        load_examples(own, target[:, columns], args.image_size) for own, target in zip(records, targets)
    )
    trainer = ClassificationTrainer(
        label_weights=label_weights(targets[0][:, columns]),
        augment=augment,
        model=create_model(names),
        args=training_args,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        compute_metrics=lambda prediction: balanced_accuracies(
            torch.from_numpy(prediction.predictions > 0), torch.from_numpy(prediction.label_ids), names
        ),
    )
    settings = asdict(args) | {"records": "", "records_fingerprint": file_fingerprint(args.records)}
    trainer.train(resume_from_checkpoint=resume_checkpoint(training_args, settings))
    # What is measured is what is saved: weights that are rounded to bf16.
    trainer.model.to(torch.bfloat16).float()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        trainer.model.to(torch.bfloat16).save_pretrained(output_dir / "final")
        size = {"height": args.image_size, "width": args.image_size}
        ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(output_dir / "final")
        scores = {name: round(value, 4) for name, value in metrics.items() if name.endswith("balanced_accuracy")}
        content = json.dumps({name.removeprefix("eval_"): value for name, value in scores.items()}, indent=2)
        (output_dir / "metrics.json").write_text(content + "\n")
        print(content)


if __name__ == "__main__":
    run_script(main, ScriptArguments, TrainingArguments)
