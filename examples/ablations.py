"""
Train small language models that differ in one setting, for the same number of steps, and compare them in a table.

    python examples/ablations.py --config examples/finetune/ablations.yaml --records records.parquet \
        --output_dir runs/ablations

`records.parquet` has labeled X-rays with codes (`docs/finetune.md`), and a validation split. Every variant is a
random Llama with a text tokenizer of its own:

- `full`: report, image and VQA at 30/30/20, the ratios of stage 1 of the paper without texts; both directions;
- `two stages`: half of the steps as `full`, half with impressions only at 21/21/53, as in stage 2 of the paper;
- `stage 2 alone`: all steps as in the second half of `two stages`;
- `without VQA`: report and image at 30/30;
- `one direction`: each X-ray is used for a report or for an image, not for both;
- `new embeddings mean`, `new embeddings codebook`: other initial embeddings of codes than the random ones of `full`.

The table has, on the validation split, the loss of each task in nats per response token on the same conversations; the
balanced accuracy of normal against pneumonia in greedy reports; and the area under the ROC curve of the logit of
"Yes." minus that of "No." after "Is there pneumonia?". It is written to `OUTPUT_DIR/ablations.md`. An interrupted run
resumes.
"""

import json
import random
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from datasets import Dataset
from new_llm_cxr import new_llm_cxr, train_text_tokenizer
from sklearn.metrics import roc_auc_score
from transformers import TrainingArguments, set_seed

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor, generate_text, training
from transformers_cxr.data import StudyRecord, load_records, open_records, select_records, stage_mixture
from transformers_cxr.evaluation.metrics import PneumoniaAccuracy
from transformers_cxr.evaluation.results.tables import markdown_table
from transformers_cxr.files import atomic_write, check_same_settings
from transformers_cxr.training.resuming import result_settings

FULL = {"ratios": {"report": 30, "image": 30, "vqa": 20}}
SECOND = {"ratios": {"report": 21, "image": 21, "vqa": 53}, "sections": "impression"}
# Stages of equal length.
VARIANTS = {
    "full": [FULL],
    "two stages": [FULL, SECOND],
    "stage 2 alone": [SECOND],
    "without VQA": [{"ratios": {"report": 30, "image": 30}}],
    "one direction": [FULL],
    "new embeddings mean": [FULL],
    "new embeddings codebook": [FULL],
}
QUESTION = "Is there pneumonia?"
COLUMNS = {
    "report loss": "eval_loss_report",
    "image loss": "eval_loss_image",
    "VQA loss": "eval_loss_vqa",
    "report accuracy": "finding_balanced_accuracy",
    "answer AUROC": "auroc",
}


@dataclass
class Arguments:
    records: str = field(metadata={"help": "Parquet file of labeled records with codes"})
    vq_tokenizer: str = field(default="", metadata={"help": "image tokenizer, or an LLM-CXR; default: embedded"})
    model: dict = field(default_factory=dict, metadata={"help": "fields of LlamaConfig"})
    text_vocab_size: int = field(default=1024, metadata={"help": "maximum size of the text vocabulary"})
    variants: list[str] = field(default_factory=lambda: list(VARIANTS), metadata={"help": "variants; default: all"})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "seeds of each variant"})
    label_weights: dict = field(
        default_factory=dict, metadata={"help": "sampling weights of records with a label; default: 1.0"}
    )
    eval_size: int = field(default=40, metadata={"help": "conversations to measure the loss of a task on"})
    num_reports: int = field(default=120, metadata={"help": "X-rays to report on and to ask about"})


def balanced_records(records: Dataset, number: int) -> list[StudyRecord]:
    """Return up to `number` records of the validation split, normal ones and then as many with pneumonia."""
    records = [StudyRecord.from_row(row) for row in select_records(records, splits=["validation"])]
    random.Random(0).shuffle(records)
    normal = [record for record in records if record.is_normal]
    pneumonia = [record for record in records if "Pneumonia" in record.present_labels]
    number = min(number // 2, len(normal), len(pneumonia))
    if not number:
        raise ValueError("Expected normal X-rays and X-rays with pneumonia in the validation split of `records`.")
    return normal[:number] + pneumonia[:number]


def make_trainer(model, processor: LlmCxrProcessor, training_args: TrainingArguments, **datasets):
    return training.InstructionTrainer(
        model=model,
        args=training_args,
        data_collator=training.InstructionCollator(processor.tokenizer.pad_token_id, return_tasks=True),
        processing_class=processor,
        **{name: training.InstructionDataset(rows, processor) for name, rows in datasets.items()},
    )


@torch.no_grad()
def evaluate(
    model: LlmCxrForCausalLM,
    processor: LlmCxrProcessor,
    records: Dataset,
    args: Arguments,
    training_args: TrainingArguments,
) -> dict[str, float]:
    conversations = [
        conversation
        for task in ("report", "image", "vqa")
        for conversation in stage_mixture(records, ratios={task: 1}, size=args.eval_size, split="validation")
    ]
    results = make_trainer(model, processor, training_args, eval_dataset=conversations).evaluate()
    selected = balanced_records(records, args.num_reports)
    model.eval()
    yes, no = (processor.tokenizer(answer).input_ids[0] for answer in ("Yes.", "No."))
    question = [{"role": "user", "content": [{"type": "text", "text": QUESTION}, {"type": "image"}]}]
    reports, margins = [], []
    for start in range(0, len(selected), training_args.eval_batch_size):
        codes = [record.codes for record in selected[start : start + training_args.eval_batch_size]]
        reports += generate_text(model, processor, image_codes=codes, max_new_tokens=100, do_sample=False)
        inputs = processor.encode_prompts([question] * len(codes), image_codes=codes).to(model.device)
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        margins += (logits[:, yes] - logits[:, no]).tolist()
    half = len(selected) // 2
    references = ["No pneumonia."] * half + ["Pneumonia."] * half
    results |= PneumoniaAccuracy().compute(predictions=reports, references=references)
    results["auroc"] = float(roc_auc_score([0] * half + [1] * half, margins))
    return {name: results[name] for name in COLUMNS.values()}


def run(
    folder: Path, variant: str, tokenizer, records: Dataset, args: Arguments, training_args: TrainingArguments
) -> dict[str, float]:
    """Train and evaluate a variant, or return the results of a finished run, `FOLDER/results.json`."""
    settings = {name: value for name, value in asdict(args).items() if name not in ("variants", "seeds")}
    path = folder / "results.json"
    check_same_settings(folder / "settings.json", settings | result_settings(training_args))
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    new_embeddings = variant.removeprefix("new embeddings ") if variant.startswith("new embeddings") else "random"
    model, processor = new_llm_cxr(tokenizer, args.model, args.vq_tokenizer, new_embeddings, training_args.seed)
    stages = VARIANTS[variant]
    for number, stage in enumerate(stages, start=1):
        stage_args = replace(
            training_args,
            output_dir=str(folder / f"stage_{number}"),
            max_steps=training_args.max_steps // len(stages),
            train_sampling_strategy="sequential",
        )
        set_seed(training_args.seed)
        conversations = stage_mixture(
            records,
            **stage,
            size=stage_args.max_steps * stage_args.train_batch_size * stage_args.gradient_accumulation_steps,
            both_directions=variant != "one direction",
            label_weights=args.label_weights,
            seed=training_args.seed,
        )
        trainer = make_trainer(model, processor, stage_args, train_dataset=conversations)
        trainer.train(resume_from_checkpoint=training.resume_checkpoint(stage_args, {"stage": number}))
    results = evaluate(model, processor, records, args, training_args)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def format_cell(values: list[float]) -> str:
    """Return the mean, and the values of several seeds."""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({', '.join(f'{value:.3f}' for value in values)})"


def main(args: Arguments, training_args: TrainingArguments):
    if unknown := sorted(set(args.variants) - set(VARIANTS)):
        raise ValueError(f"Unknown variants {unknown}; there are {list(VARIANTS)}.")
    output_dir, records = Path(training_args.output_dir), load_records(args.records)
    tokenizer = train_text_tokenizer(open_records(args.records, "train"), args.text_vocab_size)
    results = {variant: [] for variant in args.variants}
    for seed in args.seeds:
        for variant in args.variants:
            folder = output_dir / f"{variant.replace(' ', '_')}-{seed}"
            # The columns of the data are not arguments of the model.
            variant_args = replace(
                training_args, output_dir=str(folder / "evaluation"), seed=seed, remove_unused_columns=False
            )
            results[variant].append(run(folder, variant, tokenizer, records, args, variant_args))
            rows = [
                [name, str(len(runs)), *(format_cell([run[key] for run in runs]) for key in COLUMNS.values())]
                for name, runs in results.items()
                if runs
            ]
            table = markdown_table(["variant", "seeds", *COLUMNS], rows)
            (output_dir / "ablations.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    training.run_script(main, Arguments, TrainingArguments)
