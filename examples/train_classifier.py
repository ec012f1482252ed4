"""
Trains a small classifier of chest X-rays: normal, bacterial or viral pneumonia.

    python examples/train_classifier.py --config examples/classifier_tiny.yaml --data_dir DATA --output_dir runs/classifier

`DATA` is a Hugging Face imagefolder with a `metadata.csv` (columns in `transformers_cxr.data.readers.image_folder`). The studies of
the train split that are labelled with one of the classes are trained on, and the balanced accuracy over those of the
validation split is written to `OUTPUT_DIR/metrics.json`. The classifier in `OUTPUT_DIR/final` is an image classifier of
Transformers. It serves as the clinical network of `train_vq_gan.py`, and to ask whether reconstructed or generated images show
what they should: `--clinical_classifier runs/classifier/final`. Training resumes from the last checkpoint in `OUTPUT_DIR`.
Every setting of `transformers.TrainingArguments` is an argument.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm
from transformers import (
    EvalPrediction,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
    set_seed,
)

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import open_records
from transformers_cxr.training.arguments import run_script
from transformers_cxr.training.resuming import resume_checkpoint

CLASSES = ("normal", "bacterial", "viral")


@dataclass
class ScriptArguments:
    data_dir: str = field(metadata={"help": "imagefolder with a metadata.csv"})
    image_size: int = field(default=128, metadata={"help": "height and width in pixels that the classifier sees"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of ResNetConfig"})


def class_of(study: StudyRecord) -> str | None:
    """One of `CLASSES`, or `None` for a study that is labelled with none of them."""
    return "normal" if study.present_labels == ("No Finding",) else study.etiology or None


def classified_studies(data_dir: str, split: str) -> list[StudyRecord]:
    """
    The studies of a split that are of one of the `CLASSES`. Of the datasets only those are read that know bacterial from
    viral, where "normal" is of the same kind of patients.

    Raises:
        ValueError: there is none of one of the classes.
    """
    studies = open_records(data_dir, split)
    sources = {study.source for study in studies if study.etiology}
    studies = [study for study in studies if study.source in sources and class_of(study)]
    if missing := sorted(set(CLASSES) - set(map(class_of, studies))):
        raise ValueError(
            f"The split '{split}' of '{data_dir}' has no study of {missing}: expected the label 'No Finding' alone, and "
            "'bacterial' and 'viral' in the column `etiology`, of one `source`."
        )
    return studies


def load(data_dir: str, split: str, image_size: int) -> list[dict[str, torch.Tensor]]:
    """
    The [`classified_studies`] of a split: `pixel_values`, `torch.uint8` of shape `(1, image_size, image_size)`, and `labels`.
    """
    studies = classified_studies(data_dir, split)
    processor = LlmCxrImageProcessor(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        do_convert_rgb=False,
    )
    examples = []
    for study in tqdm(studies, desc=f"Reading the {split} split"):
        pixel_values = processor(study.image, return_tensors="pt").pixel_values[0]
        labels = torch.tensor(CLASSES.index(class_of(study)))
        examples.append({"pixel_values": (pixel_values * 127.5 + 127.5).round().byte(), "labels": labels})
    return examples


def augment(pixel_values: torch.FloatTensor) -> torch.FloatTensor:
    """
    Rotates by up to 10 degrees, scales and shifts by up to 10 %, and changes contrast and brightness by up to 20 %, each
    image of `pixel_values`, `(batch_size, 1, height, width)` in [-1, 1], by draws of its own. What comes in from outside
    repeats the border.
    """
    size = len(pixel_values)

    def uniform(limit: float) -> torch.FloatTensor:
        return (torch.rand(size) * 2 - 1) * limit

    angle, scale = uniform(math.radians(10)), 1 + uniform(0.1)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cosine, -sine, uniform(0.1)], -1), torch.stack([sine, cosine, uniform(0.1)], -1)]
    grid = F.affine_grid(torch.stack(rows, 1).to(pixel_values), pixel_values.shape, align_corners=False)
    moved = F.grid_sample(pixel_values, grid, padding_mode="border", align_corners=False)
    contrast, brightness = ((mean + uniform(0.2)).to(pixel_values).view(-1, 1, 1, 1) for mean in (1, 0))
    return (moved * contrast + brightness).clamp(-1, 1)


class ClassifierTrainer(Trainer):
    """
    Trainer with a loss in which every class weighs as it should, and an input that `augment` changes in training. A batch
    holds the model's one input and `labels`.
    """

    def __init__(self, class_weights: torch.FloatTensor, augment: Callable[[torch.Tensor], torch.Tensor], **kwargs):
        super().__init__(**kwargs)
        self.class_weights, self.augment = class_weights, augment

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        if model.training:
            # Not where batches are made: workers do not know whether the model is trained or evaluated.
            inputs = {name: self.augment(values) for name, values in inputs.items()}
        outputs = model(**inputs)
        weights = self.class_weights.to(outputs.logits.device)
        loss = F.cross_entropy(outputs.logits, labels, weights, label_smoothing=0.05)
        return (loss, outputs) if return_outputs else loss


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]).float() / 127.5 - 1,
        "labels": torch.stack([example["labels"] for example in examples]),
    }


def balanced_accuracies(prediction: EvalPrediction) -> dict[str, float]:
    """
    Mean recall over the three classes (`classes`), over normal and pneumonia (`finding`), and over bacterial and viral among
    the pneumonias, the more probable of the two taken (`etiology`). Each in [0, 1].
    """
    labels, logits = prediction.label_ids, prediction.predictions
    predicted, cause = logits.argmax(-1), logits[:, 1:].argmax(-1) + 1

    def mean_recall(of: np.ndarray, right: np.ndarray) -> float:
        return float(np.mean([right[of == label].mean() for label in np.unique(of)]))

    ill = labels > 0
    return {
        "classes_balanced_accuracy": mean_recall(labels, predicted == labels),
        "finding_balanced_accuracy": mean_recall(ill, (predicted > 0) == ill),
        "etiology_balanced_accuracy": mean_recall(labels[ill], (cause == labels)[ill]),
    }


def main(args: ScriptArguments, training_args: TrainingArguments):
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)
    train = load(args.data_dir, "train", args.image_size)
    validation = load(args.data_dir, "validation", args.image_size)
    names = dict(enumerate(CLASSES))
    config = ResNetConfig(
        num_channels=1, id2label=names, label2id={name: index for index, name in names.items()}, **args.model
    )
    counts = torch.bincount(torch.stack([example["labels"] for example in train]), minlength=len(CLASSES))
    trainer = ClassifierTrainer(
        class_weights=counts.sum() / (len(CLASSES) * counts),
        augment=augment,
        model=ResNetForImageClassification(config),
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
        rows = {name.removeprefix("eval_"): round(metrics[name], 4) for name in names}
        (output_dir / "metrics.json").write_text(json.dumps(rows, indent=2) + "\n")
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    run_script(main, ScriptArguments, TrainingArguments)
