"""
Teach an LLM-CXR that generates images to read them: the second half of the recipe of the embedded checkpoint.

    python examples/embedded_checkpoint/teach_reading.py --config examples/embedded_checkpoint/teach_reading_1.yaml \
        --records records.parquet --model runs/llm/final --output_dir runs/reading_1

`run.sh` has all four stages. This differs from `finetune_llm_cxr.py`:

- `codebook_embeddings`: the input embeddings of the codes are replaced by a linear map of the codebook and frozen.
  Similar codes are then similar to the model from the start, instead of being learned from a few occurrences.
- `finding_weight`: an auxiliary loss predicts the finding from every code of the lower half of an image, while a
  report states it in a few words only.
- `teacher`: the model learns the local and global features of a convolutional classifier of codes
  (`train_code_classifier.py`), and its prediction of the finding (distillation, arXiv 2012.12877). Codes are then
  augmented as for the teacher, bacterial and viral pneumonia are equally frequent, and every response has the same
  weight, be it a report or a single word.

`records.parquet` has codes, and only its train split is used. Training resumes from the last checkpoint in
`OUTPUT_DIR` if the settings are the same. Every setting of `transformers.TrainingArguments` is an argument.
"""

import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from code_classifier import CodeAugmentation, CodeClassifier, codebook_directions, load_coded_records
from distillation import Student, response_loss
from safetensors.torch import load_model, save_model
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor
from transformers_cxr.data import StudyRecord, image_conversation, question_answers, report_conversation
from transformers_cxr.data.conversations import turns_to_messages
from transformers_cxr.files import file_fingerprint
from transformers_cxr.training import InstructionCollator, encode_conversation, resume_checkpoint, run_script
from transformers_cxr.training.classification import PNEUMONIA_CLASSES, pneumonia_class

# Types of questions whose answers decide what a report says.
DECISIVE_QUESTIONS = ("finding", "etiology", "label")


@dataclass
class ScriptArguments:
    records: str = field(metadata={"help": "Parquet file of records with codes"})
    model: str = field(metadata={"help": "LLM-CXR checkpoint to start from"})
    codebook_embeddings: bool = field(
        default=False, metadata={"help": "initialize input embeddings from the codebook"}
    )
    finding_weight: float = field(default=0.0, metadata={"help": "weight of the auxiliary loss"})
    teacher: str | None = field(default=None, metadata={"help": "classifier of codes by train_code_classifier.py"})
    student: str | None = field(default=None, metadata={"help": "student.safetensors of the previous stage"})
    feature_weight: float = field(default=0.5, metadata={"help": "weight of the loss on the teacher's features"})
    image_ratio: float = field(default=0.12, metadata={"help": "share of examples that generate an image"})
    questions: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "minimum and maximum per example"})
    decisive_first: float = field(default=0.0, metadata={"help": "share of examples that ask for the finding first"})
    one_turn: float = field(default=0.0, metadata={"help": "share of examples that are cut after the first turn"})
    source_weights: dict = field(default_factory=dict, metadata={"help": "sampling weights of datasets"})


def initialize_from_codebook(model: LlmCxrForCausalLM, norm: float = 2.0) -> None:
    """
    Untie the head of a model, and replace the input embeddings of the codes by a linear map of the three main
    directions of the codebook: the least-squares fit to the old embeddings, scaled to the median norm `norm`, about
    that of text embeddings.
    """
    embeddings = model.get_input_embeddings().weight
    model.get_output_embeddings().weight = torch.nn.Parameter(embeddings.detach().clone())
    for config in (model.config, model.config.text_config):
        config.tie_word_embeddings = False
    directions = codebook_directions(model.vq_tokenizer)
    inputs = torch.cat([directions, torch.ones(len(directions), 1)], dim=1)
    codes = slice(model.config.image_token_offset, model.config.image_token_offset + len(directions))
    with torch.no_grad():
        rows = inputs @ torch.linalg.lstsq(inputs, embeddings[codes]).solution
        embeddings[codes] = rows * (norm / rows.norm(dim=1).median())


class ReadingDataset(Dataset):
    """Random conversations about one X-ray each. An index always returns the same example."""

    def __init__(
        self,
        records: list[StudyRecord],
        processor: LlmCxrProcessor,
        size: int,
        seed: int,
        args: ScriptArguments,
        augmentation: CodeAugmentation | None,
    ):
        self.augmentation = augmentation
        self.records, self.processor = records, processor
        self.size, self.seed, self.args = size, seed, args
        # Normal and other records of a dataset are equally frequent and, with a teacher, all etiologies of the latter.
        has_teacher = augmentation is not None
        groups = [
            (record.source, pneumonia_class(record) == "normal", record.etiology if has_teacher else "")
            for record in records
        ]
        sizes, records_of = Counter(groups), Counter(record.source for record in records)
        halves_of = Counter(source for source, _ in {group[:2] for group in sizes})
        parts_of = Counter(group[:2] for group in sizes)
        weights = [
            args.source_weights.get(group[0], 1.0)
            * records_of[group[0]]
            / (halves_of[group[0]] * parts_of[group[:2]] * sizes[group])
            for group in groups
        ]
        self.cumulative_weights = np.cumsum(weights).tolist()
        # The teacher knows normal X-rays of datasets with etiologies only.
        self.auxiliary_sources = {record.source for record in records if record.etiology or not has_teacher}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        rng = random.Random(f"{self.seed}-{index}")
        (record,) = rng.choices(self.records, cum_weights=self.cumulative_weights)
        is_image = rng.random() < self.args.image_ratio
        if is_image:
            conversation = image_conversation(record, rng, empty_prompt_ratio=0.1)
        else:
            conversation = {"messages": self._read(record, rng), "task": "report"}
        codes = np.asarray(record.codes)
        if self.augmentation is not None and not is_image:
            codes = self.augmentation(codes, np.random.default_rng((self.seed, index)))
        example = encode_conversation(self.processor, conversation | {"image_codes": [codes.tolist()]})
        # The prompt of an image states the finding.
        finding = None if is_image or record.source not in self.auxiliary_sources else pneumonia_class(record)
        example["finding"] = PNEUMONIA_CLASSES.index(finding) if finding else -100
        return example

    def _read(self, record: StudyRecord, rng: random.Random) -> list[dict]:
        questions = question_answers(record, rng)
        if rng.random() < self.args.decisive_first:
            questions.sort(key=lambda question: question[0] not in DECISIVE_QUESTIONS)
        turns = [tuple(m["content"][0]["text"] for m in report_conversation(record, rng)["messages"])]
        for _, question, answer in questions[: rng.randint(*self.args.questions)]:
            turns.append((question, answer))
        rng.shuffle(turns)
        return turns_to_messages(turns[:1] if rng.random() < self.args.one_turn else turns)


class ReadingTrainer(Trainer):
    """Trainer with the losses of the [`Student`]."""

    # The loss is a mean over the batch, so the Trainer must divide it by the number of accumulated batches.
    loss_is_scaled_for_ga = False

    def __init__(
        self, model: LlmCxrForCausalLM, script_args: ScriptArguments, teacher: CodeClassifier | None, **kwargs
    ):
        # A submodule, so that it is trained and saved in checkpoints. It is removed after training.
        model.student = Student(model.config.text_config, teacher)
        if script_args.student:
            load_model(model.student, script_args.student)
        self.script_args, self.teacher = script_args, teacher
        super().__init__(model=model, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        finding = inputs.pop("finding")
        labels, ids = inputs["labels"], inputs["input_ids"]
        outputs = model(**inputs, output_hidden_states=True)
        loss = response_loss(outputs.logits, labels) if self.teacher else outputs.loss
        has_finding = finding >= 0
        if has_finding.any():
            unwrapped = self.accelerator.unwrap_model(model)
            offset, number = unwrapped.config.image_token_offset, unwrapped.config.vq_config.num_image_tokens
            is_code = (ids >= offset) & has_finding[:, None]
            hidden_states = [hidden[is_code].unflatten(0, (-1, number)) for hidden in outputs.hidden_states]
            codes = (ids[is_code] - offset).unflatten(0, (-1, number))
            finding_loss, feature_loss = unwrapped.student(hidden_states, codes, finding[has_finding], self.teacher)
            weights = self.script_args
            loss = loss + weights.finding_weight * finding_loss + weights.feature_weight * feature_loss
        return (loss, outputs) if return_outputs else loss


def main(args: ScriptArguments, training_args: TrainingArguments):
    if args.student and not args.teacher:
        raise ValueError(f"`student` '{args.student}' needs the `teacher` that it was trained with.")
    if training_args.max_steps < 1:
        raise ValueError("Set `--max_steps`: the examples are endless.")
    set_seed(training_args.seed)
    output_dir = Path(training_args.output_dir)
    model = LlmCxrForCausalLM.from_pretrained(args.model)
    processor = LlmCxrProcessor.from_pretrained(args.model)
    if args.codebook_embeddings:
        initialize_from_codebook(model)
    model.get_input_embeddings().weight.requires_grad_(False)
    records = load_coded_records(args.records, "train", model.vq_tokenizer)
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
        train_dataset=ReadingDataset(records, processor, size, training_args.seed, args, augmentation),
        data_collator=lambda examples: pad(examples) | {"finding": torch.tensor([e["finding"] for e in examples])},
    )
    settings = {**asdict(args), "records_fingerprint": file_fingerprint(args.records)}
    trainer.train(resume_from_checkpoint=resume_checkpoint(training_args, settings))
    if trainer.is_world_process_zero():
        student = model.student
        del model.student
        model.save_pretrained(output_dir / "final")
        save_model(student, output_dir / "student.safetensors")
        processor.save_pretrained(output_dir / "final")


if __name__ == "__main__":
    run_script(main, ScriptArguments, TrainingArguments)
