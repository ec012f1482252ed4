"""
Trains small language models that differ in one thing, for the same number of steps, and writes what came out as one table.

    python examples/ablations.py --config examples/finetune/ablations.yaml --records records.parquet --output_dir runs/ablations

`records.parquet` has labelled X-rays with codes (`docs/finetune.md`), some of them of split "validation". Every variant is a
random Llama with a text tokenizer of its own (`examples/new_llm_cxr.py`), which `examples/finetune_llm_cxr.py` trains:

- `full`: report, image and VQA at 30/30/20, the ratios of the paper's stage 1 without its texts; both directions of a pair;
- `two stages`: half of the steps as `full`, the other half with impressions alone at 21/21/53, as the paper's stage 2;
- `stage 2 alone`: all steps as the second half of `two stages`;
- `without VQA`: report and image at 30/30;
- `one direction`: an X-ray is either read or drawn, never both;
- `rows mean`, `rows codebook`: other first values of the new rows (`new_embeddings`), which in `full` are random.

Of each the table has, on validation, the loss of every task in nats a response token, over the same conversations for all; the
balanced accuracy of "normal" or "pneumonia" in greedy reports of as many normal X-rays as others; and for these the area under
the ROC curve of how much likelier "Yes." is than "No." after "Is there pneumonia?". It is `OUTPUT_DIR/ablations.md`, and the
numbers of each run are in a folder of its own there: the same command goes on after an interruption.
"""

import json
import random
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import finetune_llm_cxr
import torch
from datasets import Dataset
from new_llm_cxr import train_text_tokenizer
from sklearn.metrics import roc_auc_score
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments, set_seed

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor
from transformers_cxr.data.mixture import Stage, stage_mixture
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import load_records, select_records
from transformers_cxr.evaluation.metrics import ReportPneumoniaAccuracy
from transformers_cxr.evaluation.results.tables import markdown_table
from transformers_cxr.files import atomic_write, check_same_settings
from transformers_cxr.llm_cxr.processing_llm_cxr import REPORT_INSTRUCTION
from transformers_cxr.training import InstructionCollator, InstructionDataset
from transformers_cxr.training.arguments import run_script
from transformers_cxr.training.resuming import result_settings
from transformers_cxr.training.trainer import InstructionTrainer

FULL = {"ratios": {"report": 30, "image": 30, "vqa": 20}}
SECOND = {"ratios": {"report": 21, "image": 21, "vqa": 53}, "sections": "impression"}
# The stages of each, of equal length, by what they set in `finetune_llm_cxr.DataArguments`.
VARIANTS = {
    "full": [FULL],
    "two stages": [FULL, SECOND],
    "stage 2 alone": [SECOND],
    "without VQA": [{"ratios": {"report": 30, "image": 30}}],
    "one direction": [FULL | {"both_directions": False}],
    "rows mean": [FULL],
    "rows codebook": [FULL],
}
NEW_EMBEDDINGS = {"rows mean": "mean", "rows codebook": "codebook"}
QUESTION = "Is there pneumonia?"
COLUMNS = {
    "report loss": "eval_loss_report",
    "image loss": "eval_loss_image",
    "VQA loss": "eval_loss_vqa",
    "report accuracy": "finding_balanced_accuracy",
    "AUROC of the answer": "auroc",
}


@dataclass
class Arguments:
    records: str = field(metadata={"help": "labelled X-rays, .parquet with codes"})
    vq_tokenizer: str = field(
        default="", metadata={"help": "image tokenizer of the codes: folder of one or of an LLM-CXR; the embedded one"}
    )
    model: dict = field(default_factory=dict, metadata={"help": "fields of LlamaConfig"})
    text_vocab_size: int = field(default=1024, metadata={"help": "largest size of the text vocabulary"})
    variants: list[str] = field(default_factory=lambda: list(VARIANTS), metadata={"help": "by default all"})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "a run of each variant with each of them"})
    balanced: bool = field(default=False, metadata={"help": "draw normal and other studies of a source equally often"})
    eval_size: int = field(default=40, metadata={"help": "conversations that the loss of a task is measured on"})
    num_read: int = field(default=120, metadata={"help": "X-rays that are reported and asked about"})


def balanced_rows(records: Dataset, number: int) -> list[dict]:
    """Normal X-rays and such with pneumonia of the validation split, equally many, `number` in all if there are."""
    rows = list(select_records(records, splits=["validation"]))
    random.Random(0).shuffle(rows)
    groups = [
        [row for row in rows if {"name": name, "value": 1} in row["labels"]] for name in ("No Finding", "Pneumonia")
    ]
    number = min(number // 2, *map(len, groups))
    if not number:
        raise ValueError("Expected normal X-rays and X-rays with pneumonia in the validation split of `records`.")
    return groups[0][:number] + groups[1][:number]


def prompts(processor: LlmCxrProcessor, rows: list[dict], instruction: str):
    message = {"role": "user", "content": [{"type": "text", "text": instruction}, {"type": "image"}]}
    return processor.apply_chat_template(
        [[message]] * len(rows),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"image_codes": [row["codes"] for row in rows]},
    )


@torch.no_grad()
def measure(folder: Path, records: Dataset, args: Arguments, training_args: TrainingArguments) -> dict[str, float]:
    model, processor = LlmCxrForCausalLM.from_pretrained(folder), LlmCxrProcessor.from_pretrained(folder)
    conversations = [
        conversation
        for task in ("report", "image", "vqa")
        for conversation in stage_mixture(Stage({task: 1}), records, size=args.eval_size, split="validation")
    ]
    trainer = InstructionTrainer(
        model=model,
        args=training_args,
        eval_dataset=InstructionDataset(conversations, processor),
        data_collator=InstructionCollator(processor.tokenizer.pad_token_id, return_tasks=True),
        processing_class=processor,
    )
    numbers = trainer.evaluate()
    rows = balanced_rows(records, args.num_read)
    model.eval()
    yes, no = (processor.tokenizer(answer).input_ids[0] for answer in ("Yes.", "No."))
    reports, margins = [], []
    for start in range(0, len(rows), training_args.eval_batch_size):
        batch = rows[start : start + training_args.eval_batch_size]
        inputs = prompts(processor, batch, REPORT_INSTRUCTION).to(model.device)
        output = model.generate(**inputs, generation_mode="text", do_sample=False, max_new_tokens=100)
        reports += processor.post_process_multimodal_output(
            output[:, inputs.input_ids.shape[1] :], generation_mode="text"
        )
        logits = model(**prompts(processor, batch, QUESTION).to(model.device), logits_to_keep=1).logits[:, -1]
        margins += (logits[:, yes] - logits[:, no]).tolist()
    half = len(rows) // 2
    references = ["No pneumonia."] * half + ["Pneumonia."] * half
    numbers |= ReportPneumoniaAccuracy().compute(predictions=reports, references=references)
    numbers["auroc"] = float(roc_auc_score([0] * half + [1] * half, margins))
    return {name: numbers[name] for name in COLUMNS.values()}


def run(
    folder: Path,
    variant: str,
    language_model: Path,
    records: Dataset,
    args: Arguments,
    training_args: TrainingArguments,
) -> dict[str, float]:
    """The numbers of a variant, from `FOLDER/result.json` where it is finished."""
    settings = {name: value for name, value in asdict(args).items() if name not in ("variants", "seeds")}
    settings |= result_settings(training_args)
    path = folder / "result.json"
    check_same_settings(folder / "settings.json", settings)
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    stages = VARIANTS[variant]
    model = {
        "language_model": str(language_model),
        "vq_tokenizer": args.vq_tokenizer,
        "new_embeddings": NEW_EMBEDDINGS.get(variant, "random"),
    }
    for number, data in enumerate(stages, start=1):
        output_dir = folder / f"stage_{number}"
        finetune_llm_cxr.main(
            finetune_llm_cxr.ModelArguments(**model),
            finetune_llm_cxr.DataArguments(records=args.records, balanced=args.balanced, **data),
            finetune_llm_cxr.SampleArguments(),
            replace(training_args, output_dir=str(output_dir), max_steps=training_args.max_steps // len(stages)),
        )
        model = {"model": str(output_dir / "final")}
    numbers = measure(output_dir / "final", records, args, training_args)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return numbers


def cell(values: list[float]) -> str:
    """The mean, and the single values where there are several."""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({', '.join(f'{value:.3f}' for value in values)})"


def main(args: Arguments, training_args: TrainingArguments):
    if unknown := sorted(set(args.variants) - set(VARIANTS)):
        raise ValueError(f"Unknown variants {unknown}; there are {list(VARIANTS)}.")
    output_dir, records = Path(training_args.output_dir), load_records(args.records)
    studies = [StudyRecord.from_row(row) for row in select_records(records, splits=["train"])]
    tokenizer = train_text_tokenizer(studies, args.text_vocab_size, seed=0)
    results = {variant: [] for variant in args.variants}
    for seed in args.seeds:
        language_model = output_dir / f"language_model-{seed}"
        set_seed(seed)
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **args.model)).save_pretrained(language_model)
        tokenizer.save_pretrained(language_model)
        for variant in args.variants:
            folder = output_dir / f"{variant.replace(' ', '_')}-{seed}"
            # The columns are those of conversations, and no argument of the model.
            own = replace(training_args, output_dir=str(folder / "evaluation"), seed=seed, remove_unused_columns=False)
            results[variant].append(run(folder, variant, language_model, records, args, own))
            rows = [
                [name, str(len(numbers)), *(cell([n[key] for n in numbers]) for key in COLUMNS.values())]
                for name, numbers in results.items()
                if numbers
            ]
            table = markdown_table(["variant", "seeds", *COLUMNS], rows)
            (output_dir / "ablations.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    run_script(main, Arguments, TrainingArguments)
