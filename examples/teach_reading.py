"""
The second stage of the embedded checkpoint: a model that draws learns to read.

    transformers-cxr encode DATA --split train --output runs/train_codes --model runs/vq
    transformers-cxr encode DATA --split validation --output runs/validation_codes --model runs/vq
    python examples/teach_reading.py --config examples/teach_reading_1.yaml --data_dir DATA --codes runs/train_codes \
        --model runs/llm/final --output_dir runs/reading_1
    python examples/teach_reading.py --config examples/teach_reading_2.yaml --data_dir DATA --codes runs/train_codes \
        --model runs/reading_1/final --output_dir runs/reading_2
    python examples/train_code_classifier.py --config examples/code_classifier_tiny.yaml --data_dir DATA \
        --vq_tokenizer runs/vq --codes runs/train_codes runs/validation_codes --output_dir runs/teacher
    python examples/teach_reading.py --config examples/teach_reading_3.yaml --data_dir DATA --codes runs/train_codes \
        --model runs/reading_2/final --teacher runs/teacher/final --output_dir runs/reading_3
    python examples/teach_reading.py --config examples/teach_reading_4.yaml --data_dir DATA --codes runs/train_codes \
        --model runs/reading_3/final --teacher runs/teacher/final --student runs/reading_3/student.safetensors \
        --output_dir runs/reading_4

What differs from `finetune_llm_cxr.py`:

- The input embeddings of the codes begin anew (`codebook_embeddings`), as a linear map of the codebook's vectors, and stay:
  codes that look alike are then alike to the model from the start, where rows of their own learn from each code's few
  occurrences.
- An auxiliary loss (`finding_weight`) asks every code of the lower half of an image for the finding of its study, which a
  report tells in a few of its words only.
- A convolutional classifier of codes is the `teacher`: the model learns its features of the parts of an image, of the whole
  and its opinion of the finding, so that what convolutions know of neighbourhoods need not be learnt from the images alone
  (distillation, arXiv 2012.12877). The codes of an image that is read are then moved and changed as the teacher's were, what
  is not normal is bacterial as often as viral, and every turn weighs the same, be it a report or the one word of an answer.

`DATA` is a Hugging Face imagefolder with a `metadata.csv` (columns in `transformers_cxr.data.readers.image_folder`); only its train
split is trained on. Training resumes from the last checkpoint in `OUTPUT_DIR`, and only with the same settings. Every setting
of `transformers.TrainingArguments` is an argument.
"""

import copy
import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch.nn import functional as F
from torch.utils.data import Dataset
from train_classifier import CLASSES, class_of
from train_code_classifier import REACH, CodeAugmentation, CodeClassifier, codebook_directions, codes_of
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor
from transformers_cxr.data.codes import load_codes
from transformers_cxr.data.conversations import (
    about_one_image,
    image_conversation,
    question_answers,
    report_conversation,
    text_turn,
)
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import open_records
from transformers_cxr.training import InstructionCollator, encode_conversation
from transformers_cxr.training.arguments import run_script
from transformers_cxr.training.resuming import resume_checkpoint

# Of questions that decide what a report says.
DECIDING = ("finding", "etiology", "label")


@dataclass
class ScriptArguments:
    data_dir: str = field(metadata={"help": "imagefolder with a metadata.csv"})
    codes: str = field(metadata={"help": "codes of the train split by `transformers-cxr encode`"})
    model: str = field(metadata={"help": "LLM-CXR checkpoint to start from, a Llama"})
    codebook_embeddings: bool = field(
        default=False, metadata={"help": "begin the input rows of codes from the codebook"}
    )
    finding_weight: float = field(default=0.0, metadata={"help": "weight of the auxiliary loss"})
    teacher: str | None = field(default=None, metadata={"help": "classifier of codes by train_code_classifier.py"})
    student: str | None = field(default=None, metadata={"help": "student.safetensors of the stage before"})
    feature_weight: float = field(default=0.5, metadata={"help": "weight of the loss on the teacher's features"})
    drawing_ratio: float = field(default=0.12, metadata={"help": "share of the examples that draw"})
    questions: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "fewest and most a reading example"}
    )
    deciding_first: float = field(default=0.0, metadata={"help": "how often the finding is asked for before the view"})
    one_turn: float = field(default=0.0, metadata={"help": "how often only the first turn of a reading is kept"})
    source_weights: dict = field(default_factory=dict, metadata={"help": "how often studies of a source are drawn"})


def begin_from_codebook(model: LlmCxrForCausalLM, norm: float = 2.0) -> None:
    """
    Gives the model a head of its own, and input rows of the codes that are a linear map of the three main directions of the
    codebook's vectors: the map that comes closest to the rows that it has, scaled to a median Euclidean norm of `norm`, which
    is about that of the rows of text.
    """
    config = copy.deepcopy(model.config.text_config)
    config.tie_word_embeddings = False
    language_model = AutoModelForCausalLM.from_config(config)
    table = model.get_input_embeddings().weight.detach()
    language_model.load_state_dict({**model.to_language_model().state_dict(), "lm_head.weight": table.clone()})
    directions = codebook_directions(model.vq_tokenizer)
    inputs = torch.cat([directions, torch.ones(len(directions), 1)], dim=1)
    codes = slice(model.config.image_token_offset, model.config.image_token_offset + len(directions))
    rows = inputs @ torch.linalg.lstsq(inputs, table[codes]).solution
    with torch.no_grad():
        language_model.get_input_embeddings().weight[codes] = rows * (norm / rows.norm(dim=1).median())
    model.model.language_model, model.lm_head = language_model.base_model, language_model.lm_head
    model.config.text_config = config


class ReadingDataset(Dataset):
    """Examples about one study each, drawn anew for every index: reading, or drawing. An index always gives the same one."""

    def __init__(
        self,
        studies: list[StudyRecord],
        codes: np.ndarray,
        processor: LlmCxrProcessor,
        size: int,
        seed: int,
        args: ScriptArguments,
        augmentation: CodeAugmentation | None,
    ):
        self.augmentation = augmentation
        self.studies, self.codes, self.processor = studies, codes, processor
        self.size, self.seed, self.args = size, seed, args
        # The normal and the other studies of a source are drawn equally often.
        is_taught = augmentation is not None
        groups = [
            (study.source, study.present_labels == ("No Finding",), study.etiology if is_taught else "") for study in studies
        ]
        sizes, studies_of = Counter(groups), Counter(study.source for study in studies)
        halves_of = Counter(source for source, _ in {group[:2] for group in sizes})
        parts_of = Counter(group[:2] for group in sizes)

        weights = [
            args.source_weights.get(group[0], 1.0)
            * studies_of[group[0]]
            / (halves_of[group[0]] * parts_of[group[:2]] * sizes[group])
            for group in groups
        ]
        self.cumulative_weights = np.cumsum(weights).tolist()
        # The teacher knows the normal of the datasets that know bacterial from viral.
        self.asked_sources = {study.source for study in studies if study.etiology or not is_taught}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        rng = random.Random(f"{self.seed}-{index}")
        (position,) = rng.choices(range(len(self.studies)), cum_weights=self.cumulative_weights)
        study = self.studies[position]
        is_drawing = rng.random() < self.args.drawing_ratio
        messages = self._drawing(study, rng) if is_drawing else self._reading(study, rng)
        codes = self.codes[position]
        if self.augmentation is not None and not is_drawing:
            codes = self.augmentation(codes, np.random.default_rng((self.seed, index)))
        record = {"messages": messages, "task": "image" if is_drawing else "report", "image_codes": [codes.tolist()]}
        example = encode_conversation(self.processor, record)
        # The prompt of a drawing tells the finding: there is nothing to learn from it.
        is_asked = not is_drawing and study.source in self.asked_sources and class_of(study)
        example["finding"] = CLASSES.index(class_of(study)) if is_asked else -100
        return example

    @staticmethod
    def _drawing(study: StudyRecord, rng: random.Random) -> list[dict]:
        return image_conversation(study, rng, empty_prompt_ratio=0.1)["messages"]

    def _reading(self, study: StudyRecord, rng: random.Random) -> list[dict]:
        questions = question_answers(study, rng)
        if rng.random() < self.args.deciding_first:
            questions.sort(key=lambda question: question[0] not in DECIDING)
        turns = [report_conversation(study, rng)["messages"]]
        for _, question, answer in questions[: rng.randint(*self.args.questions)]:
            turns.append(text_turn(question, answer))
        rng.shuffle(turns)
        if rng.random() < self.args.one_turn:
            turns = turns[:1]
        return about_one_image(turns)


class Student(torch.nn.Module):
    """
    What is asked of the hidden states beside the text, by linear layers that train with the model: a third up the backbone
    the teacher's local features, two thirds up, on the codes of the lower half, the finding and the teacher's features of the
    image. A code has seen what is above and left of it: it is asked for the place whose 7x7 codes end with it.
    """

    def __init__(self, config, teacher: CodeClassifier | None):
        super().__init__()
        self.local_layer, self.layer = config.num_hidden_layers // 3, 2 * config.num_hidden_layers // 3
        self.finding = torch.nn.Linear(config.hidden_size, len(CLASSES))
        if teacher:
            width = teacher.config.hidden_size
            self.local_features = torch.nn.Linear(config.hidden_size, width)
            self.features = torch.nn.Linear(config.hidden_size, 2 * width)

    def forward(
        self,
        hidden_states: tuple[torch.FloatTensor],
        image_codes: torch.LongTensor,
        finding: torch.LongTensor,
        teacher: CodeClassifier | None,
    ) -> tuple[torch.FloatTensor, torch.FloatTensor]:
        """
        The loss of the finding and that of the features. `hidden_states` are of the codes alone, `(batch_size,
        num_image_tokens, hidden_size)` each, `image_codes` are `(batch_size, num_image_tokens)`, and `finding` `(batch_size,)`.
        """
        local, upper = (
            F.rms_norm(hidden_states[i], hidden_states[i].shape[-1:]) for i in (self.local_layer, self.layer)
        )
        lower_half = upper[:, image_codes.shape[1] // 2 :]
        logits = self.finding(lower_half).flatten(0, 1)
        targets = F.one_hot(finding, len(CLASSES)).float()
        feature_loss = logits.new_zeros(())
        if teacher:
            with torch.no_grad():
                local_features, features = teacher.features(image_codes)
                targets = (targets + teacher.classifier(features).softmax(-1)) / 2
            size = teacher.config.grid_size
            local = self.local_features(local).unflatten(1, (size, size))[:, 2 * REACH :, 2 * REACH :]
            local_features = local_features.movedim(1, -1)[:, REACH:-REACH, REACH:-REACH]
            feature_loss = F.mse_loss(local, F.layer_norm(local_features, local_features.shape[-1:]))
            features = F.layer_norm(features, features.shape[-1:])[:, None].expand(-1, lower_half.shape[1], -1)
            feature_loss = feature_loss + F.mse_loss(self.features(lower_half), features)
        targets = targets.repeat_interleave(lower_half.shape[1], dim=0)
        return F.cross_entropy(logits, targets), feature_loss


class ReadingTrainer(Trainer):
    """Trainer with the losses of the [`Student`]."""

    # It is the mean over a batch, and the Trainer takes that over accumulated ones.
    loss_is_scaled_for_ga = False

    def __init__(
        self, model: LlmCxrForCausalLM, script_args: ScriptArguments, teacher: CodeClassifier | None, **kwargs
    ):
        # It trains with the model, and is taken off when training ends.
        model.student = Student(model.config.text_config, teacher)
        if script_args.student:
            load_model(model.student, script_args.student)
        self.script_args, self.teacher = script_args, teacher
        super().__init__(model=model, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        finding = inputs.pop("finding")
        labels, ids = inputs["labels"], inputs["input_ids"]
        outputs = model(**{**inputs, "output_hidden_states": True})
        loss = turn_loss(outputs.logits, labels) if self.teacher else outputs.loss
        asked = finding >= 0
        if asked.any():
            unwrapped = self.accelerator.unwrap_model(model)
            offset, number = unwrapped.config.image_token_offset, unwrapped.config.vq_config.num_image_tokens
            is_code = (ids >= offset) & asked[:, None]
            hidden_states = [hidden[is_code].unflatten(0, (-1, number)) for hidden in outputs.hidden_states]
            image_codes = (ids[is_code] - offset).unflatten(0, (-1, number))
            finding_loss, feature_loss = unwrapped.student(hidden_states, image_codes, finding[asked], self.teacher)
            loss = (
                loss + self.script_args.finding_weight * finding_loss + self.script_args.feature_weight * feature_loss
            )
        return (loss, outputs) if return_outputs else loss


def turn_loss(logits: torch.FloatTensor, labels: torch.LongTensor) -> torch.FloatTensor:
    """Mean over the responses of a batch of the mean cross-entropy of a response's tokens: each run of labels is a response."""
    logits, targets = logits[:, :-1], labels[:, 1:]
    is_label = targets >= 0
    begins = is_label & (F.pad(targets[:, :-1], (1, 0), value=-100) < 0)
    turns = begins.flatten().cumsum(0)[is_label.flatten()] - 1
    losses = F.cross_entropy(logits[is_label], targets[is_label], reduction="none")
    return (losses / turns.bincount()[turns]).sum() / begins.sum()


def main(args: ScriptArguments, training_args: TrainingArguments):
    if args.student and not args.teacher:
        raise ValueError(f"`student` '{args.student}' needs the `teacher` that it learnt from.")
    if training_args.max_steps < 1:
        raise ValueError("Set `--max_steps`: examples are drawn without an end of their own.")
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)
    studies = open_records(args.data_dir, "train")
    model = LlmCxrForCausalLM.from_pretrained(args.model)
    processor = LlmCxrProcessor.from_pretrained(args.model)
    if args.codebook_embeddings:
        begin_from_codebook(model)
    model.get_input_embeddings().weight.requires_grad_(False)
    codes = codes_of(studies, load_codes(args.codes, model.vq_tokenizer))
    teacher = CodeClassifier.from_pretrained(args.teacher).eval().requires_grad_(False) if args.teacher else None
    augmentation = CodeAugmentation(model.vq_tokenizer) if teacher else None
    size = training_args.max_steps * training_args.train_batch_size * training_args.gradient_accumulation_steps
    size *= training_args.world_size
    pad = InstructionCollator(processor.tokenizer.pad_token_id)
    trainer = ReadingTrainer(
        model=model,
        script_args=args,
        teacher=teacher.to(training_args.device) if teacher else None,
        args=training_args,
        train_dataset=ReadingDataset(studies, codes, processor, size, training_args.seed, args, augmentation),
        data_collator=lambda examples: pad(examples) | {"finding": torch.tensor([e["finding"] for e in examples])},
    )
    trainer.train(resume_from_checkpoint=resume_checkpoint(training_args, asdict(args)))
    if trainer.is_world_process_zero():
        student = model.student
        del model.student
        model.save_pretrained(output_dir / "final")
        save_model(student, output_dir / "student.safetensors")
        processor.save_pretrained(output_dir / "final")


if __name__ == "__main__":
    run_script(main, ScriptArguments, TrainingArguments)
