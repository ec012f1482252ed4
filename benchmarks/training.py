"""
Training of the language model: packing against padding, bf16 against fp32, and the speed of the data pipeline.

    python benchmarks/training.py
    python benchmarks/training.py --models embedded --dtypes fp32 --steps 4 --repeats 3 --output training.json

`embedded` is the embedded checkpoint, `random` a Llama of the shape of SmolLM2-135M with random weights. The data are
conversations with the ratios of stage 1 of the paper (30/30/20/20): label-derived reports, images and questions on
random codes, and texts of 20 to 400 words, read from Parquet files.

Padding is trained by Transformers' `Trainer`, packing by `InstructionTrainer`, both with AdamW. For each setting, a
process loads the model and trains `--steps` steps while its memory is measured. Then the settings alternate for
`--repeats` rounds of `--steps` steps on the same conversations. The table has medians. "Real tokens" excludes
padding, "loss" is the mean of the first round, which starts at the same weights, and "difference" is the largest
difference of a step from padding in fp32. "Peak memory" is what training needs beside the loaded model.

The data pipeline reads, tokenizes and packs in one process, as a worker of a DataLoader does.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import transformers
from alternating import PeakMemory, measure
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoProcessor, LlamaConfig, PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging

import transformers_cxr
from transformers_cxr import LlmCxrConfig, LlmCxrForCausalLM
from transformers_cxr.data.mixture import STAGE_1, stage_mixture
from transformers_cxr.data.records import StudyRecord
from transformers_cxr.data.store import load_records, write_records
from transformers_cxr.training import InstructionCollator, InstructionDataset, InstructionTrainer

WORDS = "the lungs are clear and there is no pleural effusion or pneumothorax seen on this view".split()
NUM_RECORDS = 500


@dataclass(frozen=True)
class Setting:
    model: str
    packing: bool
    dtype: str

    @property
    def name(self) -> str:
        return f"{'packing' if self.packing else 'padding'}, {self.dtype}"


@dataclass
class Round:
    """
    seconds (`float`): wall time of the steps.
    losses (`list[float]`): loss of each step.
    """

    seconds: float
    losses: list[float] = field(default_factory=list)


def write_data(folder: Path, codes_per_image: int, codebook_size: int) -> None:
    rng = random.Random(0)
    records = [
        StudyRecord(
            id=str(i), patient=str(i), image="", source="benchmark", split="train", view=rng.choice(["AP", "PA"]),
            study_order=1, sex=rng.choice("MF"), labels={rng.choice(["No Finding", "Pneumonia", "Effusion"]): 1},
            age_group="adult", codes=[rng.randrange(codebook_size) for _ in range(codes_per_image)],
        )
        for i in range(NUM_RECORDS)
    ]  # fmt: skip
    texts = []
    for i in range(NUM_RECORDS):
        answer = " ".join(rng.choice(WORDS) for _ in range(rng.randint(20, 400)))
        messages = [{"role": "user", "content": [{"type": "text", "text": "Write something."}]}]
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        texts.append({"id": str(i), "messages": messages})
    write_records(records, folder / "records.parquet")
    Dataset.from_list(texts).to_parquet(folder / "texts.parquet")


def load_dataset(args: argparse.Namespace, size: int) -> InstructionDataset:
    records, texts = (
        load_records(Path(args.data) / f"{name}.parquet", cache_dir=Path(args.data) / "cache")
        for name in ("records", "texts")
    )
    processor = AutoProcessor.from_pretrained(args.checkpoint)
    return InstructionDataset(stage_mixture(records, texts, **STAGE_1, size=size), processor)


def load_model(args: argparse.Namespace, name: str) -> LlmCxrForCausalLM:
    if name == "embedded":
        return LlmCxrForCausalLM.from_pretrained(args.checkpoint)
    embedded = LlmCxrConfig.from_pretrained(args.checkpoint)
    text_config = LlamaConfig(
        vocab_size=49152 + 6 + embedded.vq_config.codebook_size,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=args.random_layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlmCxrForCausalLM(LlmCxrConfig(**{**embedded.to_dict(), "text_config": text_config}))


def work(connection: Connection, args: argparse.Namespace, setting: Setting) -> None:
    """Send the peak memory of training in bytes, then a [`Round`] for each message that is not `None`."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = load_model(args, setting.model).to(args.device)
    dataset = load_dataset(args, args.steps * args.batch_size)
    collator = InstructionCollator(dataset.processor.tokenizer.pad_token_id, setting.packing, setting.packing)
    settings = TrainingArguments(
        output_dir=args.data, max_steps=args.steps, per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate, lr_scheduler_type="constant", bf16=setting.dtype == "bf16",
        train_sampling_strategy="sequential", remove_unused_columns=False, save_strategy="no", logging_steps=1,
        report_to="none", disable_tqdm=True, use_cpu=args.device == "cpu",
    )  # fmt: skip
    trainer_class = InstructionTrainer if setting.packing else Trainer

    def train() -> Round:
        trainer = trainer_class(model, settings, collator, dataset)
        trainer.remove_callback(PrinterCallback)
        seconds = trainer.train().metrics["train_runtime"]
        return Round(seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry])

    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with PeakMemory(torch.device(args.device)) as memory:
        train()
    model.load_state_dict(start)
    connection.send(memory.bytes)
    while connection.recv() is not None:
        connection.send(train())


def pipeline_rate(args: argparse.Namespace) -> float:
    """Return the conversations per second that one process reads, tokenizes and packs, the median of the rounds."""
    number = args.pipeline_batches * args.batch_size
    dataset = load_dataset(args, number * args.repeats + args.batch_size)
    collator = InstructionCollator(dataset.processor.tokenizer.pad_token_id, packing=True)
    batches = iter(DataLoader(dataset, args.batch_size, collate_fn=collator))
    next(batches)
    rates = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        for _ in islice(batches, args.pipeline_batches):
            pass
        rates.append(number / (time.perf_counter() - start))
    return statistics.median(rates)


def main(args: argparse.Namespace) -> None:
    vq_config = LlmCxrConfig.from_pretrained(args.checkpoint).vq_config
    write_data(Path(args.data), vq_config.num_image_tokens, vq_config.codebook_size)
    dataset = load_dataset(args, args.steps * args.batch_size)
    examples = [dataset[i] for i in range(len(dataset))]
    real_tokens = sum(len(example["input_ids"]) for example in examples)
    batches = [examples[i : i + args.batch_size] for i in range(0, len(examples), args.batch_size)]
    padded_tokens = sum(InstructionCollator(0)(batch)["input_ids"].numel() for batch in batches)
    rate = pipeline_rate(args)

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(
        f"{versions}, {args.device}, {torch.get_num_threads()} threads, "
        f"{args.steps} steps of {args.batch_size} conversations, {real_tokens} real tokens\n"
    )
    base = f"/ padding, {args.dtypes[0]}"
    print(
        f"| model | setting | real tokens/s | {base} | padding | peak memory | {base} | loss | "
        "difference | data pipeline / need |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    results = []
    for model in args.models:
        settings = [Setting(model, packing, dtype) for dtype in args.dtypes for packing in (False, True)]
        measured = measure(work, args, settings)
        (_, base_peak, base_rounds) = measured[0]
        seconds = {setting: statistics.median(r.seconds for r in rounds) for setting, _, rounds in measured}
        for setting, peak, rounds in measured:
            difference = max(abs(a - b) for a, b in zip(rounds[0].losses, base_rounds[0].losses))
            need = len(examples) / seconds[setting]
            padding = 0 if setting.packing else 1 - real_tokens / padded_tokens
            print(
                f"| {model} | {setting.name} | {real_tokens / seconds[setting]:.0f} | "
                f"{seconds[settings[0]] / seconds[setting]:.2f} | "
                f"{padding:.0%} | {peak / 2**20:.0f} MiB | {peak / base_peak:.2f} | "
                f"{statistics.mean(rounds[0].losses):.4f} | {difference:.1e} | {rate / need:.1f} |",
                flush=True,
            )
            results.append({**asdict(setting), "peak_memory_bytes": peak, "rounds": [asdict(r) for r in rounds]})
    print(f"\nThe data pipeline reads {rate:.0f} conversations/s in one process.")
    if args.output:
        content = {
            "torch": torch.__version__, "transformers": transformers.__version__, "device": args.device,
            "threads": torch.get_num_threads(), "real_tokens": real_tokens, "conversations": len(examples),
            "pipeline_conversations_per_second": rate, "results": results,
        }  # fmt: skip
        with open(args.output, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["embedded", "random"], default=["embedded", "random"])
    parser.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--batch_size", type=int, default=8, help="conversations per step")
    parser.add_argument("--steps", type=int, default=4, help="steps per round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the table gives medians")
    parser.add_argument("--learning_rate", type=float, default=1e-4, help="learning rate of AdamW")
    parser.add_argument("--pipeline_batches", type=int, default=20, help="batches per round of the data pipeline")
    parser.add_argument("--random_layers", type=int, default=30, help="layers of the random Llama, 30 in SmolLM2-135M")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpoint", help="folder instead of the embedded checkpoint")
    parser.add_argument("--output", help="JSON file of all rounds")
    args = parser.parse_args()
    args.checkpoint = args.checkpoint or str(transformers_cxr.checkpoint("llm-cxr"))
    return args


if __name__ == "__main__":
    arguments = parse_args()
    with tempfile.TemporaryDirectory() as arguments.data:
        main(arguments)
