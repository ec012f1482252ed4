"""
Train a classifier of the codes of chest X-rays: normal, bacterial or viral pneumonia.

    python examples/embedded_checkpoint/train_code_classifier.py --records records.parquet --vq_tokenizer runs/vq \
        --config examples/embedded_checkpoint/code_classifier.yaml --output_dir runs/teacher

Its input is that of the language model, but its convolutions know which codes are neighbors, so it learns from a few
thousand images. `teach_reading.py --teacher runs/teacher/final` distills it. `records.parquet` has codes; the train
split is trained on, and balanced accuracies on the validation split are written to `OUTPUT_DIR/metrics.json`. Every
setting of `transformers.TrainingArguments` is an argument.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from code_classifier import CodeAugmentation, CodeClassifier, load_coded_records
from transformers import TrainingArguments, set_seed

from transformers_cxr import CXRVQTokenizer
from transformers_cxr.files import file_fingerprint
from transformers_cxr.training import resume_checkpoint, run_script
from transformers_cxr.training.classification import (
    PNEUMONIA_CLASSES,
    ClassificationTrainer,
    balanced_accuracies,
    pneumonia_class,
    select_pneumonia_records,
)


@dataclass
class ScriptArguments:
    records: str = field(metadata={"help": "Parquet file of records with codes"})
    vq_tokenizer: str = field(metadata={"help": "image tokenizer of the codes"})


def main(args: ScriptArguments, training_args: TrainingArguments):
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)
    vq_tokenizer = CXRVQTokenizer.from_pretrained(args.vq_tokenizer).eval()
    examples = {}
    for split in ("train", "validation"):
        records = select_pneumonia_records(load_coded_records(args.records, split, vq_tokenizer))
        examples[split] = [
            {"image_codes": record.codes, "labels": PNEUMONIA_CLASSES.index(pneumonia_class(record))}
            for record in records
        ]
    # The class distribution of `teach_reading.py`: a half is normal, a quarter bacterial, a quarter viral.
    counts = torch.bincount(torch.tensor([example["labels"] for example in examples["train"]]))
    class_weights = torch.tensor([0.5, 0.25, 0.25]) * counts.sum() / counts
    augmentation = CodeAugmentation(vq_tokenizer)

    def augment(image_codes: torch.LongTensor) -> torch.LongTensor:
        # The seed comes from the random state that resuming restores.
        rng = np.random.default_rng(torch.randint(2**31, ()).item())
        codes = np.stack([augmentation(row, rng) for row in image_codes.cpu().numpy()])
        return torch.from_numpy(codes).to(image_codes)

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([row[name] for row in rows]) for name in ("image_codes", "labels")}

    trainer = ClassificationTrainer(
        class_weights=class_weights,
        augment=augment,
        model=CodeClassifier.from_codebook(vq_tokenizer),
        args=training_args,
        train_dataset=examples["train"],
        eval_dataset=examples["validation"],
        data_collator=collate,
        compute_metrics=balanced_accuracies,
    )
    settings = {**asdict(args), "records_fingerprint": file_fingerprint(args.records)}
    trainer.train(resume_from_checkpoint=resume_checkpoint(training_args, settings))
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items() if "accuracy" in name}
    if trainer.is_world_process_zero():
        trainer.save_model(output_dir / "final")
        (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main, ScriptArguments, TrainingArguments)
