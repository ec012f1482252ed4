"""Results of an evaluation as JSON and as Markdown tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .intervals import Difference, Estimate


@dataclass(frozen=True)
class Result:
    """
    One result of an evaluation.

    task (`str`): name of the task.
    group (`str`): "all", a source, or a group of the task, such as "type: view", "finding: Pneumonia" or "blur 3".
    metric (`str`): name of the metric.
    estimate ([`Estimate`]): value and interval.
    """

    task: str
    group: str
    metric: str
    estimate: Estimate


def results_to_json(results: Iterable[Result]) -> list[dict]:
    """Return one flat record per result, with `None` for NaN, which JSON does not know."""
    records = []
    for result in results:
        numbers = {name: None if math.isnan(value) else value for name, value in asdict(result.estimate).items()}
        records.append({"task": result.task, "group": result.group, "metric": result.metric, **numbers})
    return records


def read_run(folder: str | Path) -> dict:
    """
    Read the `results.json` of an output folder.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"No results.json in '{folder}': expected the output folder of a finished evaluation.")
    return json.loads(path.read_text(encoding="utf-8"))


def format_number(value: float) -> str:
    """Return four significant digits, or "not defined" for NaN."""
    return "not defined" if math.isnan(value) else f"{value:.4g}"


def format_interval(estimate: Estimate | Difference) -> str:
    """Return a value with its interval, such as "0.7363 [0.701, 0.77]"."""
    value, low, high = map(format_number, (estimate.value, estimate.low, estimate.high))
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"


def table_of(results: Sequence[Result], task: str) -> tuple[list[str], list[list[str]]]:
    """
    Return header and rows of the table of a task: one row per metric and one column per group. A task with more groups
    than metrics has one row per group.
    """
    own = [result for result in results if result.task == task]
    cells = {(result.group, result.metric): format_interval(result.estimate) for result in own}
    counts = {r.group: f"{r.estimate.units} ({r.estimate.patients})" for r in own}
    metrics = list(dict.fromkeys(result.metric for result in own))
    if len(counts) > len(metrics):
        rows = [
            [group, count, *(cells.get((group, metric), "") for metric in metrics)] for group, count in counts.items()
        ]
        return ["group", "n (patients)", *metrics], rows
    rows = [[metric, *(cells.get((group, metric), "") for group in counts)] for metric in metrics]
    return ["metric", *(f"{group}, n = {count}" for group, count in counts.items())], rows


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, with `|` in cells escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def results_to_markdown(results: Sequence[Result], heading: str = "##") -> str:
    """Return one table per task, under its heading."""
    tasks = dict.fromkeys(result.task for result in results)
    return "\n".join(f"{heading} {task}\n\n{markdown_table(*table_of(results, task))}\n" for task in tasks)


def differences_to_markdown(differences: Iterable[tuple[str, str, Difference]]) -> str:
    """Return a table of the differences between two runs: tuples of task, metric and [`Difference`]."""
    rows = [[task, metric, format_interval(d), format_number(d.p_value)] for task, metric, d in differences]
    return markdown_table(["task", "metric", "difference, second minus first", "p"], rows)
