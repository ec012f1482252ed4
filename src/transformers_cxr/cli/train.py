"""The command `train`: from a table of X-rays to a fine-tuned checkpoint and its evaluation."""

from __future__ import annotations

import math
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoints import checkpoint_name, find_checkpoint, load_vq_tokenizer
from . import options

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ..data import SkipReport, StudyRecord
    from ..training import DataArguments, PolicyArguments

_VALIDATION_SHARE = 0.2
# Evaluations without a lower validation loss until training stops.
_PATIENCE = 3
# Conversations of an evaluation of the validation loss.
_MAX_EVALUATED = 1000


@dataclass(frozen=True)
class DataOptions:
    """The X-rays to train on."""

    table: Annotated[
        Path | None,
        typer.Option(
            help="Table, one row per X-ray: CSV, TSV, JSON or Parquet. Columns: file, patient, report or labels, and "
            "optionally split, view, sex and age_group.",
        ),
    ] = None
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images of --table. Default: its folder."),
    ] = None
    records: Annotated[
        Path | None,
        typer.Option(help="Instead of --table: Parquet file of records, or folder with a metadata.csv."),
    ] = None
    mimic: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --table: folder with the folders mimic-cxr-jpg and mimic-cxr-reports.",
        ),
    ] = None

    def __post_init__(self):
        if sum(path is not None for path in (self.table, self.records, self.mimic)) != 1:
            raise typer.BadParameter("Give one of --table, --records and --mimic.")
        if self.images is not None and self.table is None:
            raise typer.BadParameter("--images needs --table.")

    def read(self, skip_report: SkipReport) -> list[StudyRecord]:
        """Read all X-rays that can be used."""
        from ..data import open_records, read_mimic_cxr, read_table

        if self.records is not None:
            return open_records(self.records)
        if self.mimic is not None:
            folders = self.mimic / "mimic-cxr-jpg", self.mimic / "mimic-cxr-reports"
            return list(read_mimic_cxr(*folders, skip_report))
        if self.images is not None and not self.images.is_dir():
            raise FileNotFoundError(f"There is no folder '{self.images}'.")
        return list(read_table(self.table, images_dir=self.images, skip_report=skip_report))


def train(
    *,
    data: DataOptions,
    output_dir: Annotated[Path, typer.Option(help="Folder to write. An interrupted run resumes.", file_okay=False)],
    model: options.Model = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train LoRA instead of all weights, for large models.")] = False,
    config: Annotated[list[Path] | None, typer.Option(help="YAML file of training settings.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random choices, also of the split.")] = 0,
    num_resamples: Annotated[int, typer.Option(min=1, help="Resamples of the intervals and p-values.")] = 1000,
    no_remote_code: Annotated[
        bool,
        typer.Option(
            "--no-remote-code", help="Save no code of the model, which lets others load it without this package."
        ),
    ] = False,
):
    """
    Fine-tune a checkpoint on own X-rays, and evaluate it before and after.

    The X-rays are encoded, and split by patient. Training ends when the validation loss falls no more; the model with
    the lowest one is saved in OUTPUT_DIR/final, with a model card. The same command again resumes.

    ```
    transformers-cxr train --table reports.csv --images images/ \\
        --output-dir runs/own
    transformers-cxr train --model my-checkpoint --lora \\
        --records records.parquet --output-dir runs/own
    accelerate launch -m transformers_cxr.train \\
        --mimic physionet/ --output-dir runs/mimic
    ```
    """
    from ..evaluation import EvaluationArguments, run_evaluation, update_model_card
    from ..evaluation.predictions import distributed_state
    from ..files import locked_output

    state = distributed_state()
    path, before, after = (output_dir / name for name in ("records.parquet", "evaluation_before", "evaluation_after"))
    # The Trainer prints its logs.
    with locked_output(output_dir), redirect_stdout(sys.stderr):
        arguments = _training_arguments(model, lora, config or [], seed, output_dir)
        sizes = _prepare_records(data, path, model, seed)
        tasks = [task for task in ("report", "vqa") if arguments[1].ratios.get(task)] or ["report"]
        evaluation = {"records": [str(path)], "tasks": tasks, "seed": seed, "num_resamples": num_resamples}
        evaluation |= {"sections": arguments[1].sections, "views": arguments[1].views}
        run_evaluation(EvaluationArguments(str(before), model=model or "", **evaluation))
        losses = _finetune(*arguments, checkpoint_name(model), sizes, not no_remote_code)
        state.wait_for_everyone()
        run_evaluation(EvaluationArguments(str(after), model=str(output_dir / "final"), **evaluation))
    if state.is_main_process:
        for folder in filter(Path.is_dir, (output_dir / "final", output_dir / "adapter")):
            update_model_card(folder / "README.md", after)
        typer.echo(_comparison(losses, before, after, num_resamples))
        typer.echo(f"\nThe model is {output_dir / 'final'}. All results: report.html in {before} and {after}.")
    state.destroy_process_group()


def _note(message: str) -> None:
    """Print a notice, in the main process."""
    from accelerate import PartialState

    if PartialState().is_main_process:
        typer.echo(message, err=True)


def _training_arguments(model: str | None, lora: bool, config: list[Path], seed: int, output_dir: Path) -> tuple:
    """Return model, data and training arguments: the settings for small data, and those of the user's files."""
    from transformers import TrainingArguments

    from .. import training

    folder = Path(training.__file__).parent
    files = [folder / "small_data.yaml", *([folder / "small_data_lora.yaml"] if lora else []), *config]
    path, _ = find_checkpoint(model)
    given = {"model": path, "seed": seed, "output_dir": output_dir, "records": output_dir / "records.parquet"}
    command_line = ["--config", *files, *(part for name, value in given.items() for part in (f"--{name}", value))]
    return training.parse_arguments(
        training.PolicyArguments,
        training.DataArguments,
        TrainingArguments,
        arguments=[str(part) for part in command_line],
    )


def _prepare_records(data: DataOptions, path: Path, model: str | None, seed: int) -> dict[str, int]:
    """Write all X-rays, with split and codes, and return the number of those of each split."""
    from accelerate import PartialState

    from ..data import SkipReport, load_codes, load_records, open_records, write_records
    from ..data.readers.rows import read_rows
    from ..data.records import images_by_id, records_fingerprint
    from ..data.store import is_records
    from ..files import check_same_settings

    state, report, folder = PartialState(), SkipReport(), path.parent
    records = data.read(report)
    if not records:
        raise ValueError(f"No X-ray can be used; skipped, by reason: {report.counts}.")
    content = {"num_records": len(records), "fingerprint": records_fingerprint(records), "seed": seed}
    images_by_id(records)
    records, reason = _assign_splits(records, seed)
    with state.main_process_first():
        check_same_settings(folder / "data.json", content)
    if not path.exists():
        codes = None
        if data.records is not None and is_records(data.records):
            rows = load_records(data.records)
            codes = rows if rows[0]["codes"] else None
        if codes is None:
            _encode(records, model, folder / "codes")
            codes = load_codes(folder / "codes")
            unreadable = {row["id"] for row in read_rows(folder / "codes/skipped.jsonl")}
            for name in unreadable:
                report.skip(name, "an image that cannot be read")
            records = [record for record in records if record.id not in unreadable]
        if state.is_main_process:
            write_records(records, path, codes, report)
            report.write(folder / "skipped.jsonl")
            _note(str(report) + (f"\nSkipped X-rays: {folder / 'skipped.jsonl'}." if report.skipped else ""))
        state.wait_for_everyone()
    written = open_records(path)
    sizes, lines = {}, []
    for split in sorted({record.split for record in written}):
        own = [record for record in written if record.split == split]
        sizes[split] = len({(record.source, record.id) for record in own})
        lines.append(f"{split}: {_num_patients(own)} patients, {sizes[split]} X-rays")
    _note("\n".join([*lines, reason]))
    return sizes


def _num_patients(records: list[StudyRecord]) -> int:
    return len({(record.source, record.patient) for record in records})


def _assign_splits(records: list[StudyRecord], seed: int) -> tuple[list[StudyRecord], str]:
    """Assign splits to patients that have none, and say why each patient is in its split."""
    from ..data import assign_split
    from ..data.records import check_patients

    for _ in check_patients(records):
        pass
    unassigned = any(not record.split for record in records)
    records = list(assign_split(records, validation=_VALIDATION_SHARE, test=0.0, seed=seed))
    known = {record.split for record in records}
    if missing := {"train", "validation"} - known:
        raise ValueError(
            f"No patient of {_num_patients(records)} is in the split {' or '.join(sorted(missing))}; the splits are "
            f"{sorted(known)}. "
            + (
                "Try another `--seed`, or name the splits in a column `split`."
                if unassigned
                else "Correct the column `split`, or leave it out for a random split."
            )
        )
    if not unassigned:
        return records, "The splits are those of the data."
    return records, (
        f"Each patient without a split in the data is in validation with a probability of {_VALIDATION_SHARE:.0%} "
        f"(seed {seed}), else in train."
    )


def _encode(records: list[StudyRecord], model: str | None, folder: Path) -> None:
    import pyarrow as pa
    from accelerate import PartialState

    from ..data.encoding import encode_images
    from ..data.image_source import ImageSource
    from ..data.records import images_by_id, records_fingerprint

    rows = [(name, image, {}) for name, image in images_by_id(records).items()]
    source = ImageSource(
        lambda start: iter(rows[start:]), pa.schema([]), {"records": records_fingerprint(records)}, len(rows)
    )
    encode_images(source, *load_vq_tokenizer(model, PartialState().device), folder)


def _finetune(
    model_args: PolicyArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    name: str,
    sizes: dict[str, int],
    remote_code: bool,
) -> dict[str, tuple[float, float]]:
    """Train and save the model, and return the validation losses before and after."""
    from transformers import EarlyStoppingCallback, set_seed

    from .. import training

    batch_size = training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
    if training_args.max_steps < 1:
        epoch = math.ceil(sizes["train"] / batch_size)
        training_args.max_steps = math.ceil(epoch * training_args.num_train_epochs)
        training_args.eval_steps = training_args.save_steps = training_args.logging_steps = epoch
    _note(
        f"Training: at most {training_args.max_steps} steps of {batch_size} conversations, with an evaluation every "
        f"{training_args.eval_steps:g} steps."
    )
    data_args.eval_size = data_args.eval_size or min(2 * sizes["validation"], _MAX_EVALUATED)
    set_seed(training_args.seed)
    conversations = training.load_data(data_args, training_args)
    model, processor, peft_config = training.load_policy(model_args)
    if peft_config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    # The place of the checkpoint does not matter.
    settings = asdict(replace(model_args, model=name)) | data_args.result_settings()
    resume_from = training.resume_checkpoint(training_args, settings)
    training_args.eval_on_start = resume_from is None
    trainer = training.build_trainer(model, processor, *conversations, data_args, training_args)
    if training_args.load_best_model_at_end:
        trainer.add_callback(EarlyStoppingCallback(_PATIENCE))
    training.train_and_save(trainer, resume_from, model_args.model, data_args.train_files, remote_code)
    first, *_, last = (entry for entry in trainer.state.log_history if "eval_loss" in entry)
    return {metric: (first[metric], last[metric]) for metric in last if metric.startswith("eval_loss")}


def _comparison(losses: dict[str, tuple[float, float]], before: Path, after: Path, num_resamples: int) -> str:
    """Return the validation losses and main metrics before and after as a Markdown table."""
    from ..evaluation import compare_runs
    from ..evaluation.results.comparison import main_changes
    from ..evaluation.results.tables import format_number, markdown_table

    rows = [
        [name, *map(format_number, values), format_number(values[1] - values[0]), ""]
        for name, values in losses.items()
    ]
    for change in main_changes(compare_runs(before, after, num_resamples)):
        rows.append([change.title, *change.cells[1:]])
    return markdown_table(["validation", "before", "after", "difference", "p"], rows)
