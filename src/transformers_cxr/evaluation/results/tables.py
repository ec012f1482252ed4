"""Results of an evaluation as JSON and as Markdown tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...files import atomic_write
from .intervals import Estimate


@dataclass(frozen=True)
class Result:
    """
    One result of an evaluation.

    task (`str`): name of the task, or "cost".
    group (`str`): "all", a source, or a group of the task, such as "type: view", "finding: Pneumonia" or "blur 3"; the
        task for "cost".
    metric (`str`): name of the metric.
    estimate ([`Estimate`]): value and interval.
    """

    task: str
    group: str
    metric: str
    estimate: Estimate


def write_run(folder: str | Path, run: dict, results: Iterable[Result]) -> None:
    """Write `results.json`: the entries of `run`, and one flat row per result, with `null` for NaN."""
    rows = []
    for result in results:
        row = {"task": result.task, "group": result.group, "metric": result.metric} | asdict(result.estimate)
        rows.append({name: None if value != value else value for name, value in row.items()})
    with atomic_write(Path(folder) / "results.json") as partial:
        partial.write_text(json.dumps(run | {"results": rows}, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_run(folder: str | Path) -> dict:
    """
    Read the `results.json` of an output folder; its `results` are a `list[Result]`.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"No results.json in '{folder}': expected the output folder of a finished evaluation.")
    run = json.loads(path.read_text(encoding="utf-8"))
    for number, row in enumerate(run["results"]):
        names = [row.pop(name) for name in ("task", "group", "metric")]
        estimate = {name: math.nan if value is None else value for name, value in row.items()}
        run["results"][number] = Result(*names, Estimate(**estimate))
    return run


def defined_results(results: Iterable[Result]) -> list[Result]:
    """Return the results without metrics that no group of their task defines."""
    defined = {(result.task, result.metric) for result in results if not math.isnan(result.estimate.value)}
    return [result for result in results if (result.task, result.metric) in defined]


def format_number(value: float) -> str:
    """Return four significant digits, or "not defined" for NaN."""
    return "not defined" if math.isnan(value) else f"{value:.4g}"


def format_interval(estimate: Estimate) -> str:
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
        rows = [[group, n, *(cells.get((group, metric), "") for metric in metrics)] for group, n in counts.items()]
        return ["group", "n (patients)", *metrics], rows
    rows = [[metric, *(cells.get((group, metric), "") for group in counts)] for metric in metrics]
    return ["metric", *(f"{group}, n = {n}" for group, n in counts.items())], rows


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, with `|` in cells escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def results_to_markdown(results: Sequence[Result], heading: str = "##") -> str:
    """Return one table per task, under its heading."""
    tasks = dict.fromkeys(result.task for result in results)
    return "\n".join(f"{heading} {task}\n\n{markdown_table(*table_of(results, task))}\n" for task in tasks)
