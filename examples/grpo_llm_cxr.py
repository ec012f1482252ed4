"""
Tune an LLM-CXR by rewards (GRPO, arXiv 2402.03300) with TRL's `GRPOTrainer`: reports or images.

    pip install ".[rl,train]"
    python examples/grpo_llm_cxr.py --config examples/finetune/grpo_report.yaml --model llm-cxr \
        --records records.parquet --output_dir runs/grpo
    python examples/grpo_llm_cxr.py --config examples/finetune/grpo_image.yaml --model llm-cxr \
        --records records.parquet --classifier xray-classifier-0 --output_dir runs/grpo_images

Reports are rewarded for the CheXpert labels of the reference report, and for their format. Images are rewarded for the
probability that a classifier (`examples/train_classifier.py`) gives to the labels of the record, and for being one
whole image without text. `transformers_cxr/training/rewards.py` has the rewards, `reward_weights` their weights.

Every setting of `trl.GRPOConfig` is an argument. Training resumes from the last checkpoint in `OUTPUT_DIR` if data and
settings are the same. The model and its processor are saved in `OUTPUT_DIR/final`; with LoRA that is the merged model,
and the adapter is in `OUTPUT_DIR/adapter`. `docs/tune_by_preference.md` explains it.
"""

import random
import sys
from dataclasses import asdict, dataclass, field

import datasets
from transformers import set_seed

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor, training
from transformers_cxr.classifiers import XrayClassifier, load_classifier
from transformers_cxr.data import StudyRecord, check_tokenizer, load_records, open_records, select_records
from transformers_cxr.data.conversations import image_conversation, report_conversation
from transformers_cxr.files import file_fingerprint
from transformers_cxr.training.rewards import asked_findings

try:
    from trl import GRPOConfig, GRPOTrainer
except ImportError:
    sys.exit("Error: reward tuning needs TRL: `pip install transformers-cxr[rl]`.")


@dataclass
class DataArguments:
    records: str = field(metadata={"help": "records, .parquet or folder with a metadata.csv; the train split is used"})
    task: str = field(default="report", metadata={"help": "what to generate: report or image"})
    sections: str = field(default="findings+impression", metadata={"help": "findings+impression, or impression"})


@dataclass
class RewardArguments:
    min_words: int = field(default=5, metadata={"help": "minimum number of words of a report"})
    max_words: int = field(default=150, metadata={"help": "maximum number of words of a report"})
    classifier: str = field(default="", metadata={"help": "classifier of images: folder or torchxrayvision's name"})


class ResumedGRPOTrainer(training.ResumedTrainerMixin, GRPOTrainer):
    pass


def load_prompts(
    args: DataArguments, processor: LlmCxrProcessor, classifier: XrayClassifier | None, seed: int
) -> datasets.Dataset:
    """Return a prompt for each record of the train split, and the columns of the rewards."""
    compose = {"report": report_conversation, "image": image_conversation}[args.task]
    # It raises an error for a patient in two splits.
    open_records(args.records, "train")
    rows = select_records(load_records(args.records), splits=["train"], sections=args.sections)
    records = [record for record in map(StudyRecord.from_row, rows) if not record.question]
    if classifier is not None:
        known = set(classifier.label_names)
        records = [record for record in records if known & asked_findings(record.labels).keys()]
    if not records:
        labels = f" with one of the labels {classifier.label_names}" if classifier else ""
        raise ValueError(f"Expected at least one record{labels} in the train split of '{args.records}', got none.")
    print(f"{len(records)} records of {len(rows)} to train on")
    rows = (
        {**compose(record, random.Random(f"{seed}-{record.id}"), args.sections), "labels": record.labels}
        for record in records
    )
    return training.prompt_dataset(rows, processor)


def load_rewards(
    args: RewardArguments, task: str, processor: LlmCxrProcessor, classifier: XrayClassifier | None
) -> list:
    """Return the rewards of a task."""
    if task == "report":
        return [training.label_f1(), training.report_format(args.min_words, args.max_words)]
    return [training.finding_probability(processor, classifier), training.whole_image(processor)]


def check_arguments(
    data_args: DataArguments, reward_args: RewardArguments, training_args: GRPOConfig, model: LlmCxrForCausalLM
):
    """Raise an error for arguments that do not fit together."""
    if data_args.task not in ("report", "image"):
        raise ValueError(f"Expected the `--task` report or image, got '{data_args.task}'.")
    if (data_args.task == "image") != bool(reward_args.classifier):
        raise ValueError("`--task image` needs a `--classifier`, and reports have none.")
    # Begin and end of the image, and a blank line, the end of a response and the end of text.
    needed = model.config.vq_config.num_image_tokens + 5
    if data_args.task == "image" and training_args.max_completion_length < needed:
        raise ValueError(
            f"An image needs a `--max_completion_length` of {needed}, got {training_args.max_completion_length}."
        )


def main(
    model_args: training.PolicyArguments,
    data_args: DataArguments,
    reward_args: RewardArguments,
    saving_args: training.SavingArguments,
    training_args: GRPOConfig,
):
    set_seed(training_args.seed)
    model, processor, peft_config = training.load_policy(model_args)
    check_arguments(data_args, reward_args, training_args, model)
    check_tokenizer(load_records(data_args.records), model.vq_tokenizer)
    settings = asdict(model_args) | asdict(data_args) | asdict(reward_args)
    settings |= {"records": "", "records_fingerprint": file_fingerprint(data_args.records)}
    resume_from = training.resume_checkpoint(training_args, settings)
    classifier = load_classifier(reward_args.classifier).to(training_args.device) if reward_args.classifier else None
    trainer = ResumedGRPOTrainer(
        model=model,
        args=training_args,
        train_dataset=load_prompts(data_args, processor, classifier, training_args.seed),
        processing_class=processor,
        reward_funcs=load_rewards(reward_args, data_args.task, processor, classifier),
        peft_config=peft_config,
    )
    trainer.train(resume_from_checkpoint=resume_from)
    training.save_trained_model(trainer, model_args.model, [data_args.records], saving_args.remote_code)


if __name__ == "__main__":
    training.run_script(
        main, training.PolicyArguments, DataArguments, RewardArguments, training.SavingArguments, GRPOConfig
    )
