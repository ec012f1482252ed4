"""A whole evaluation: the outputs of a checkpoint for each task, their metrics, and the files with the results."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from ..checkpoints import load_checkpoint
from ..data.records import StudyRecord
from ..data.store import open_records
from ..files import atomic_write
from .examples import Example, check_examples
from .generations import distributed_state, generate_outputs, model_fingerprint, read_generations
from .predictions import predictions_file, write_predictions
from .results.intervals import bootstrap
from .results.page import html_report
from .results.tables import Result, markdown_table, results_to_json, results_to_markdown
from .tasks import TASKS, EvaluationArguments, Task

if TYPE_CHECKING:
    from .metrics.metric import Measurement

_NUM_SAMPLES = 6


def run_evaluation(arguments: EvaluationArguments) -> list[Result] | None:
    """
    Evaluate a checkpoint and write to `arguments.output_dir`

    - `results.json`: all results with intervals, arguments and cost; `tables.md`: the same as tables;
    - `report.html`: a self-contained page with tables, plots and samples;
    - `predictions/TASK.parquet`: outputs beside their references; `images/`: generated images;
    - `generations/`: the cache of [`generate_outputs`], from which an interrupted run resumes. With all outputs in the
      cache only the metrics are computed again.

    Under `accelerate launch` all processes generate, and the main process computes the metrics.

    Args:
        arguments ([`EvaluationArguments`]):
            Model, data, tasks and metrics.

    Returns:
        `list[Result]`: the results; `None` in all processes but the main one.

    Raises:
        ImportError: a package of the extra `evaluate` is not installed.
        FileNotFoundError: there are no such records, texts or checkpoint.
        ValueError: a task is unknown or has no examples, the checkpoint is not an LLM-CXR, or the output folder has
            other files or other settings.
    """
    folder, state = Path(arguments.output_dir), distributed_state()
    # An evaluation of the task "language" generates nothing.
    is_resumed = any((folder / name).is_dir() for name in ("generations", "predictions"))
    if folder.is_dir() and any(folder.iterdir()) and not is_resumed:
        raise ValueError(f"'{folder}' has files that are not of an evaluation: choose another output folder.")
    tasks = _select_tasks(arguments)
    records = _read_records(arguments)
    examples = {task.name: task.examples(records) for task in tasks}
    # Without `--tasks` a task without examples is left out.
    tasks = [task for task in tasks if arguments.tasks or examples[task.name]]
    if not tasks:
        raise ValueError("Expected at least one example for any task, but the records have none.")
    for task in tasks:
        check_examples(examples[task.name], task.name)
    model, processor = load_checkpoint(arguments.model, state.device)

    fingerprint, outputs = model_fingerprint(model, processor), {}
    for task in tasks:
        settings = task.settings(model)
        if settings is not None:
            outputs[task.name] = generate_outputs(
                examples[task.name],
                lambda batch, task=task: task.generate(model, processor, batch),
                folder / "generations" / task.name,
                {"model": fingerprint, "data": _data_fingerprint(records)} | settings,
                task.batch_size,
                task.name,
            )
    if not state.is_main_process:
        return None

    processor.vq_tokenizer = model.vq_tokenizer
    started, results = time.perf_counter(), []
    for task in tasks:
        own = examples[task.name]
        if task.name in outputs:
            write_predictions(predictions_file(folder, task.name), own, outputs[task.name])
            outputs[task.name] = task.write_outputs(folder, outputs[task.name], processor)
        measurements = task.metrics(own, outputs.get(task.name), model, processor)
        results += _bootstrap_groups(task, own, measurements)
    cost = _cost(folder, examples) | {"metrics": {"seconds": time.perf_counter() - started}}
    name = arguments.model or "llm-cxr"
    run = {"model": name, "fingerprint": fingerprint, "arguments": asdict(arguments), "cost": cost}
    _write(folder / "results.json", json.dumps(run | {"results": results_to_json(results)}, indent=1, allow_nan=False))
    _write(folder / "tables.md", f"{results_to_markdown(results)}\n## cost\n\n{cost_summary(folder)}")
    facts = [
        ("model", f"{name} ({fingerprint})"),
        ("data", data_name(arguments)),
        ("split", ", ".join(arguments.split)),
    ]
    facts += _cost_rows(cost)
    plots = {task.name: task.plots([r for r in results if r.task == task.name]) for task in tasks}
    samples = []
    for task in tasks:
        shown = [some[:_NUM_SAMPLES] for some in (examples[task.name], outputs.get(task.name, []))]
        samples += task.samples(*shown, processor)
    _write(folder / "report.html", html_report("Evaluation", facts, results, plots, samples))
    return results


def data_name(arguments: EvaluationArguments) -> str:
    """Return how results name the data."""
    return ", ".join(Path(path).stem for path in (*arguments.records, arguments.texts) if path)


def cost_summary(output_dir: str | Path) -> str:
    """Return time and memory of a finished evaluation as a Markdown table."""
    run = json.loads((Path(output_dir) / "results.json").read_text(encoding="utf-8"))
    return markdown_table(["what", "time and memory"], _cost_rows(run["cost"]))


def _select_tasks(arguments: EvaluationArguments) -> list[Task]:
    if unknown := sorted(set(arguments.tasks) - set(TASKS)):
        raise ValueError(f"Unknown tasks {unknown}; expected some of {', '.join(TASKS)}.")
    tasks = [task(arguments) for name, task in TASKS.items() if not arguments.tasks or name in arguments.tasks]
    missing = [task for task in tasks if not getattr(arguments, task.needs)]
    if arguments.tasks and missing:
        raise ValueError(f"The task '{missing[0].name}' needs `--{missing[0].needs}`.")
    if len(missing) == len(tasks):
        raise ValueError("There is nothing to evaluate on: give `--records` or `--texts`.")
    if arguments.training_split and not (arguments.records and arguments.features):
        raise ValueError(
            "`--training-split` needs `--records` with the training images and `--features` to compare them in."
        )
    return [task for task in tasks if task not in missing]


def _read_records(arguments: EvaluationArguments) -> list[StudyRecord]:
    records = [
        record for path in arguments.records for split in arguments.split for record in open_records(path, split)
    ]
    return [record for record in records if not arguments.views or record.view in arguments.views]


def _data_fingerprint(records: Sequence[StudyRecord]) -> str:
    """Return a hash of everything but the place of the images and their codes."""
    digest = hashlib.sha256()
    for record in records:
        row = {name: value for name, value in record.to_row().items() if name not in ("image", "codes")}
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _bootstrap_groups(task: Task, examples: Sequence[Example], measurements: Sequence[Measurement]) -> list[Result]:
    results, arguments = [], task.arguments
    steps = [(group, rows, m) for group, rows in task.groups(examples).items() for m in measurements]
    for group, rows, measurement in tqdm(steps, desc=f"{task.name}: intervals", unit="table"):
        estimates = bootstrap(
            measurement.aggregate,
            [measurement.units[row] for row in rows],
            [examples[row].patient for row in rows],
            arguments.num_resamples,
            seed=arguments.seed,
            distinct=measurement.distinct,
        )
        results += [Result(task.name, group, measurement.prefix + name, e) for name, e in estimates.items()]
    return results


def _cost(folder: Path, examples: dict[str, list[Example]]) -> dict[str, dict[str, float]]:
    """Return the cost of the outputs of each task, which an earlier run may have generated."""
    cost = {}
    for task, own in examples.items():
        finished = read_generations(folder / "generations" / task)
        rows = [finished[example.id] for example in own if example.id in finished]
        if rows:
            seconds = float(np.sum([row["seconds"] for row in rows]))
            cost[task] = {"examples": len(rows), "seconds": seconds, "peak_mib": max(row["peak_mib"] for row in rows)}
    return cost


def _cost_rows(cost: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    rows = []
    for task, own in cost.items():
        text = f"{own['seconds']:.0f} s in all"
        if task != "metrics":
            per_100 = own["seconds"] / own["examples"] * 100
            text = f"{per_100:.1f} s per 100 examples, {text}, peak memory {own['peak_mib']:.0f} MiB"
        rows.append((f"cost of {task}", text))
    return rows


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
