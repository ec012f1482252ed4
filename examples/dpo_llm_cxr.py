"""
Tune an LLM-CXR by preferences (DPO, arXiv 2305.18290) with TRL's `DPOTrainer`: pairs of reports, or pairs of images.

    pip install ".[rl,train]"
    python examples/dpo_llm_cxr.py --config examples/finetune/dpo.yaml --model llm-cxr --pairs pairs.jsonl \
        --output_dir runs/dpo

Each line of `pairs.jsonl` is a pair of completions of one prompt, with the codes of all images, in order
(`transformers-cxr encode`). Two reports of an X-ray (in one line each):

    {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Write a report."}, {"type": "image"}]}],
     "chosen": [{"role": "assistant", "content": "FINDINGS: ..."}],
     "rejected": [{"role": "assistant", "content": "FINDINGS: ..."}], "image_codes": [[7, 31, ...]]}

Two X-rays of a report:

    {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Draw it."}, {"type": "text", "text": "..."}]}],
     "chosen": [{"role": "assistant", "content": [{"type": "image"}]}],
     "rejected": [{"role": "assistant", "content": [{"type": "image"}]}], "image_codes": [[7, ...], [31, ...]]}

Instead of codes, `images` can hold the paths of images in prompts, but not those of images in completions.

Every setting of `trl.DPOConfig` is an argument. Training resumes from the last checkpoint in `OUTPUT_DIR` if data and
settings are the same. The model and its processor are saved in `OUTPUT_DIR/final`; with LoRA that is the merged model,
and the adapter is in `OUTPUT_DIR/adapter`. `docs/tune_by_preference.md` explains it.
"""

import sys
from dataclasses import asdict, dataclass, field

from transformers import set_seed

from transformers_cxr import training
from transformers_cxr.data.readers.rows import read_rows
from transformers_cxr.files import file_fingerprint

try:
    from trl import DPOConfig, DPOTrainer
except ImportError:
    sys.exit("Error: preference tuning needs TRL: `pip install transformers-cxr[rl]`.")


@dataclass
class DataArguments:
    pairs: str = field(metadata={"help": "pairs to train on, .jsonl or .parquet"})
    eval_pairs: str = field(default="", metadata={"help": "pairs to evaluate on"})


class ResumedDPOTrainer(training.ResumedTrainerMixin, DPOTrainer):
    pass


def main(
    model_args: training.PolicyArguments,
    data_args: DataArguments,
    saving_args: training.SavingArguments,
    training_args: DPOConfig,
):
    set_seed(training_args.seed)
    model, processor, peft_config = training.load_policy(model_args)
    settings = {"pairs_fingerprint": file_fingerprint(data_args.pairs)}
    resume_from = training.resume_checkpoint(training_args, asdict(model_args) | settings)
    datasets = {}
    for name, path in (("train_dataset", data_args.pairs), ("eval_dataset", data_args.eval_pairs)):
        if path:
            datasets[name] = training.preference_dataset(read_rows(path), processor)
            training.check_lengths(datasets[name], processor, training_args.max_length or sys.maxsize)
    # Checked above; TRL would cut pairs and drop some.
    training_args.max_length = None
    trainer = ResumedDPOTrainer(
        model=model, args=training_args, processing_class=processor, peft_config=peft_config, **datasets
    )
    trainer.train(resume_from_checkpoint=resume_from)
    if data_args.eval_pairs:
        trainer.save_metrics("eval", trainer.evaluate())
    training.save_trained_model(trainer, model_args.model, [data_args.pairs], saving_args.remote_code)


if __name__ == "__main__":
    training.run_script(main, training.PolicyArguments, DataArguments, training.SavingArguments, DPOConfig)
