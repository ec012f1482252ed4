"""
Trains a small convolutional classifier of the codes of chest X-rays: normal, bacterial or viral pneumonia.

    transformers-cxr encode DATA --split train --output runs/train_codes --model runs/vq
    transformers-cxr encode DATA --split validation --output runs/validation_codes --model runs/vq
    python examples/train_code_classifier.py --config examples/code_classifier_tiny.yaml --data_dir DATA \
        --vq_tokenizer runs/vq --codes runs/train_codes runs/validation_codes --output_dir runs/teacher

It sees what the language model sees, but knows from the start which codes are neighbours, and so learns from a few thousand
images what a language model needs many more for: `teach_reading.py --teacher runs/teacher/final` passes it on. `DATA` is a
Hugging Face imagefolder with a `metadata.csv` (columns in `transformers_cxr.data.readers.image_folder`). The train split is trained
on; balanced accuracies over the validation split are printed after each epoch and written to `OUTPUT_DIR/metrics.json`. Every
setting of `transformers.TrainingArguments` is an argument.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional as F
from train_classifier import CLASSES, ClassifierTrainer, balanced_accuracies, class_of, classified_studies
from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments, set_seed
from transformers.modeling_outputs import ImageClassifierOutput

from transformers_cxr import CXRVQTokenizer
from transformers_cxr.data.codes import load_codes
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.training.arguments import run_script
from transformers_cxr.training.resuming import resume_checkpoint

# Of six convolutions, the first three see 7x7 codes.
REACH = 3


@dataclass
class ScriptArguments:
    data_dir: str = field(metadata={"help": "imagefolder with a metadata.csv"})
    vq_tokenizer: str = field(metadata={"help": "image tokenizer of the codes"})
    codes: list[str] = field(
        metadata={"help": "codes of the train and of the validation split by `transformers-cxr encode`"}
    )


class CodeClassifierConfig(PreTrainedConfig):
    model_type = "code_classifier"
    codebook_size: int = 1024
    grid_size: int = 16
    num_directions: int = 3
    hidden_size: int = 64
    num_labels: int = len(CLASSES)


class CodeClassifier(PreTrainedModel):
    """A residual network on the grid of codes, each of which begins as where it lies in the main directions of the codebook."""

    config_class = CodeClassifierConfig
    main_input_name = "image_codes"

    def __init__(self, config: CodeClassifierConfig):
        super().__init__(config)
        width = config.hidden_size
        self.register_buffer("directions", torch.zeros(config.codebook_size, config.num_directions))
        self.projection = nn.Linear(config.num_directions, width)
        self.code_embedding = nn.Embedding(config.codebook_size, width)
        self.positions = nn.Parameter(torch.zeros(1, width, config.grid_size, config.grid_size))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2 * REACH))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2 * REACH))
        self.classifier = nn.Linear(2 * width, config.num_labels)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)

    def begin_from_codebook(self, vq_tokenizer: CXRVQTokenizer) -> None:
        directions = codebook_directions(vq_tokenizer, self.config.num_directions)
        self.directions.copy_(directions / directions.std())

    def features(self, image_codes: torch.LongTensor) -> tuple[torch.FloatTensor, torch.FloatTensor]:
        """
        Local features `(batch_size, hidden_size, grid_size, grid_size)`, each of the 7x7 codes around it, and features of the
        image `(batch_size, 2 * hidden_size)`, for codes `(batch_size, grid_size ** 2)`.
        """
        size = self.config.grid_size
        hidden = self.projection(self.directions[image_codes]) + self.code_embedding(image_codes)
        hidden = F.dropout(hidden.mT.unflatten(2, (size, size)) + self.positions, 0.1, self.training)
        for index, (norm, convolution) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            if index == REACH:
                local, hidden = hidden, F.avg_pool2d(hidden, 2)
            hidden = hidden + convolution(F.silu(norm(hidden)))
        return local, torch.cat([hidden.mean((2, 3)), hidden.amax((2, 3))], dim=1)

    def forward(self, image_codes: torch.LongTensor) -> ImageClassifierOutput:
        _, features = self.features(image_codes)
        return ImageClassifierOutput(logits=self.classifier(F.dropout(features, 0.2, self.training)))


def codebook_directions(vq_tokenizer: CXRVQTokenizer, number: int = 3) -> torch.FloatTensor:
    """Where each code lies in the `number` main directions of the codebook, `(codebook_size, number)`."""
    codebook = vq_tokenizer.codebook.detach().float()
    left, values, _ = torch.linalg.svd(codebook - codebook.mean(0), full_matrices=False)
    return left[:, :number] * values[:number]


class CodeAugmentation:
    """
    Moves the grid of codes by up to two cells, repeating its border, and puts one of its eight nearest in the codebook in the
    place of up to 30 % of the codes. Draws are from a `numpy.random.Generator`.
    """

    def __init__(self, vq_tokenizer: CXRVQTokenizer):
        directions = codebook_directions(vq_tokenizer)
        self.neighbours = torch.cdist(directions, directions).topk(9, largest=False).indices[:, 1:].numpy()

    def __call__(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = round(len(codes) ** 0.5)
        rows, columns = (np.clip(np.arange(size) + rng.integers(-2, 3), 0, size - 1) for _ in range(2))
        codes = codes.reshape(size, size)[np.ix_(rows, columns)].reshape(-1)
        neighbours = self.neighbours[codes, rng.integers(0, 8, len(codes))]
        return np.where(rng.random(len(codes)) < 0.3 * rng.random(), neighbours, codes)


def codes_of(studies: list[StudyRecord], store: Dataset) -> np.ndarray:
    """Codes of the studies' images, `np.uint16` of shape `(num_studies, num_image_tokens)`."""
    row_of = {name: row for row, name in enumerate(store["id"])}
    if missing := [study.id for study in studies if study.id not in row_of]:
        raise ValueError(f"The codes lack {len(missing)} of the {len(studies)} images; the first is '{missing[0]}'.")
    codes = np.asarray(store.with_format("numpy")["codes"][:], dtype=np.uint16)
    return codes[[row_of[study.id] for study in studies]]


def main(args: ScriptArguments, training_args: TrainingArguments):
    if len(args.codes) != 2:
        raise ValueError(f"`codes` must name the codes of the train and of the validation split, got {args.codes}.")
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)
    vq_tokenizer = CXRVQTokenizer.from_pretrained(args.vq_tokenizer).eval()
    examples = {}
    for split, store in zip(("train", "validation"), args.codes, strict=True):
        studies = classified_studies(args.data_dir, split)
        codes = codes_of(studies, load_codes(store, vq_tokenizer))
        examples[split] = [
            {"image_codes": row, "labels": CLASSES.index(class_of(study))}
            for study, row in zip(studies, codes, strict=True)
        ]
    augmentation = CodeAugmentation(vq_tokenizer)
    # As `teach_reading.py` draws them: half of the studies are normal, a quarter bacterial and a quarter viral.
    counts = torch.bincount(torch.tensor([row["labels"] for row in examples["train"]]))
    weights = torch.tensor([0.5, 0.25, 0.25]) * counts.sum() / counts

    def augment(image_codes: torch.LongTensor) -> torch.LongTensor:
        # Seeded by the random state that a resume restores.
        rng = np.random.default_rng(torch.randint(2**31, ()).item())
        codes = np.stack([augmentation(row, rng) for row in image_codes.cpu().numpy()])
        return torch.from_numpy(codes).to(image_codes)

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        return {
            "image_codes": torch.from_numpy(np.stack([row["image_codes"] for row in rows]).astype(np.int64)),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    config = CodeClassifierConfig(
        codebook_size=vq_tokenizer.config.codebook_size, grid_size=vq_tokenizer.config.grid_size
    )
    model = CodeClassifier(config)
    model.begin_from_codebook(vq_tokenizer)
    trainer = ClassifierTrainer(
        class_weights=weights,
        augment=augment,
        model=model,
        args=training_args,
        train_dataset=examples["train"],
        eval_dataset=examples["validation"],
        data_collator=collate,
        compute_metrics=balanced_accuracies,
    )
    trainer.train(resume_from_checkpoint=resume_checkpoint(training_args, asdict(args)))
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items() if "accuracy" in name}
    if trainer.is_world_process_zero():
        trainer.save_model(output_dir / "final")
        (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main, ScriptArguments, TrainingArguments)
