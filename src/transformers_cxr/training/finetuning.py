"""Data and trainer of fine-tuning, from arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import concatenate_datasets
from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from ..data.codes import check_tokenizer
from ..data.mixture import STAGE_1, stage_mixture
from ..data.readers.rows import read_rows
from ..data.readers.text import read_texts
from ..data.store import load_records
from ..files import file_fingerprint
from ..llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ..llm_cxr.processing_llm_cxr import LlmCxrProcessor
from .collator import InstructionCollator
from .dataset import InstructionDataset
from .saving import save_trained_model
from .trainer import InstructionTrainer

_TRAIN_FILES = ("conversations", "records", "questions", "texts")


@dataclass
class DataArguments:
    """Arguments of [`load_data`] and [`build_trainer`]."""

    conversations: str = field(default="", metadata={"help": "conversations to train on, .jsonl or .parquet"})
    eval_conversations: str = field(default="", metadata={"help": "conversations to evaluate on"})

    records: str = field(default="", metadata={"help": "records, .parquet or folder with a metadata.csv"})
    questions: str = field(default="", metadata={"help": "records with questions; default: questions on labels"})
    texts: str = field(default="", metadata={"help": "conversations without images, .jsonl or .parquet"})
    eval_texts: str = field(default="", metadata={"help": "conversations without images to evaluate on"})
    ratios: dict = field(
        default_factory=lambda: dict(STAGE_1["ratios"]),
        metadata={"help": "shares of report, image, vqa and text"},
    )
    views: list[str] = field(default_factory=list, metadata={"help": "view positions to use; default: all"})
    first_study: bool = field(default=False, metadata={"help": "use only the first study of each patient"})
    sections: str = field(default="findings+impression", metadata={"help": "findings+impression, or impression"})
    both_directions: bool = field(default=True, metadata={"help": "use each record for reports and for images"})
    empty_prompt_ratio: float = field(default=0.0, metadata={"help": "share of images without a report, for guidance"})
    source_weights: dict = field(default_factory=dict, metadata={"help": "sampling weights of datasets; default: 1.0"})
    label_weights: dict = field(
        default_factory=dict, metadata={"help": "sampling weights of records with a label; default: 1.0"}
    )
    num_questions: int = field(
        default=0, metadata={"help": "questions on labels beside each report, and of each vqa example"}
    )
    unanswerable_ratio: float = field(
        default=0.0, metadata={"help": "share of reports with a question that the labels do not answer"}
    )
    augment: bool = field(default=False, metadata={"help": "augment images that are read; not for records with codes"})
    label_prompt_images: bool = field(default=False, metadata={"help": "train on the codes of prompts, too"})
    average_conversations: bool = field(
        default=False, metadata={"help": "weigh conversations, not response tokens, equally in the loss"}
    )
    eval_size: int = field(default=0, metadata={"help": "conversations of the validation split to evaluate on"})

    max_length: int = field(default=0, metadata={"help": "maximum number of tokens; default: the context"})
    skip_too_long: bool = field(default=False, metadata={"help": "skip longer conversations; default: an error"})
    packing: bool = field(default=False, metadata={"help": "pack the conversations of a batch into a row"})

    @property
    def train_files(self) -> list[str]:
        """Paths of the training data, "" for none."""
        return [getattr(self, name) for name in _TRAIN_FILES]

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that the trained weights depend on: the content of the files, not their paths."""
        paths = {name: getattr(self, name) for name in _TRAIN_FILES}
        free = {*paths, "eval_conversations", "eval_texts", "eval_size"}
        settings = {name: value for name, value in asdict(self).items() if name not in free}
        return settings | {f"{name}_fingerprint": file_fingerprint(path) for name, path in paths.items() if path}


def load_data(args: DataArguments, training_args: TrainingArguments) -> tuple[Sequence[dict], Sequence[dict] | None]:
    """
    Return the conversations to train on and those to evaluate on, if any.

    Raises:
        ValueError: arguments do not fit together, or the data lack a task, a split or a selected record.
    """
    if bool(args.conversations) == bool(args.records or args.questions or args.texts):
        raise ValueError("Give either `--conversations`, or one or more of `--records`, `--questions` and `--texts`.")
    if args.conversations:
        evaluation = _load_conversations(args.eval_conversations) if args.eval_conversations else None
        return _load_conversations(args.conversations), evaluation
    if training_args.max_steps < 1:
        raise ValueError("Set `--max_steps`: a mixture of tasks is endless.")
    if training_args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"`--train_sampling_strategy {training_args.train_sampling_strategy}` needs `--conversations`: a mixture "
            "keeps its ratios only in its own order."
        )
    paths = filter(None, (args.questions, args.records))
    records = concatenate_datasets([load_records(path) for path in paths]) if args.records or args.questions else None
    texts, eval_texts = (read_texts(path) if path else None for path in (args.texts, args.eval_texts))
    filters = {"views": args.views or None, "first_study": args.first_study, "sections": args.sections}
    names = "both_directions empty_prompt_ratio source_weights label_weights num_questions unanswerable_ratio".split()
    options = {name: getattr(args, name) for name in names}
    size = training_args.max_steps * training_args.train_batch_size * training_args.gradient_accumulation_steps
    size *= training_args.world_size
    seed = training_args.seed
    train = stage_mixture(records, texts, ratios=args.ratios, size=size, seed=seed, **filters, **options)
    # The mixture is in random order already.
    training_args.train_sampling_strategy = "sequential"
    if not args.eval_size:
        return train, None
    # Texts have no splits, so the training texts are not evaluated on.
    ratios = args.ratios if eval_texts is not None else args.ratios | {"text": 0}
    try:
        evaluation = stage_mixture(
            records, eval_texts, ratios=ratios, size=args.eval_size, split="validation", seed=seed, **filters
        )
    except ValueError as error:
        raise ValueError(
            f"There is no validation split to evaluate on: {error} Add such data for every task, or set `--eval_size "
            "0 --eval_strategy no`."
        ) from error
    return train, evaluation


def _load_conversations(path: str) -> Sequence[dict]:
    """Load conversations, memory-mapped from Parquet or into memory from JSON Lines."""
    return load_records(path) if path.endswith(".parquet") or Path(path).is_dir() else list(read_rows(path))


def build_trainer(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    train: Sequence[dict],
    evaluation: Sequence[dict] | None,
    data_args: DataArguments,
    training_args: TrainingArguments,
) -> InstructionTrainer:
    """
    Return the trainer of a model, with or without LoRA, on the conversations of [`load_data`].

    Raises:
        ValueError: the codes of the records are from another image tokenizer, or the devices cannot do FSDP.
    """
    if not (training_args.fsdp or is_deepspeed_zero3_enabled()):
        for path in filter(None, (data_args.records, data_args.questions)):
            check_tokenizer(load_records(path), model.vq_tokenizer)
    # Not every backbone has a maximum.
    max_length = data_args.max_length or getattr(model.config.text_config, "max_position_embeddings", None)
    train_dataset = InstructionDataset(
        train,
        processor,
        max_length,
        data_args.skip_too_long,
        augment=data_args.augment,
        label_prompt_images=data_args.label_prompt_images,
    )
    eval_dataset = None
    if evaluation is not None:
        eval_dataset = InstructionDataset(evaluation, processor, max_length, data_args.skip_too_long)
        if data_args.skip_too_long:
            eval_dataset = eval_dataset.drop_too_long()
    # The columns are not arguments of the model.
    training_args.remove_unused_columns = False
    trainer = InstructionTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        data_collator=InstructionCollator(processor.tokenizer.pad_token_id, data_args.packing, return_tasks=True),
        processing_class=processor,
        average_conversations=data_args.average_conversations,
    )
    if training_args.fsdp and not trainer.is_fsdp_enabled:
        raise ValueError("`fsdp` needs several GPUs or other accelerators. Train without it on CPUs.")
    return trainer


def train_and_save(
    trainer: InstructionTrainer, resume_from: str | None, base: str, data: Sequence[str], remote_code: bool = True
) -> None:
    """
    Train, evaluate and save the model.

    Args:
        trainer ([`InstructionTrainer`]):
            Trainer of [`build_trainer`].
        resume_from (`str`, *optional*):
            Checkpoint of [`resume_checkpoint`].
        base (`str`), data (`Sequence[str]`), remote_code (`bool`, *optional*, defaults to `True`):
            As in [`save_trained_model`].
    """
    trainer.train(resume_from_checkpoint=resume_from)
    if trainer.eval_dataset is not None:
        trainer.save_metrics("eval", trainer.evaluate())
    save_trained_model(trainer, base, data, remote_code)
