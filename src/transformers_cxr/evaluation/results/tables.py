"""Results of an evaluation: JSON files, formats of numbers, and Markdown tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...files import atomic_write, read_json
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
        ValueError: it was not written by an evaluation.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"No results.json in '{folder}': expected the output folder of a finished evaluation.")
    run = read_json(path, {"results": list})
    try:
        for number, row in enumerate(run["results"]):
            names = [row.pop(name) for name in ("task", "group", "metric")]
            estimate = {name: math.nan if value is None else value for name, value in row.items()}
            run["results"][number] = Result(*names, Estimate(**estimate))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"Result {number} of '{path}' is not one of an evaluation: {row!r:.200}.") from error
    return run


def format_number(value: float) -> str:
    """Return three significant digits, more for numbers above 1,000, or "not defined" for NaN."""
    if math.isnan(value):
        return "not defined"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def format_interval(estimate: Estimate) -> str:
    """Return a value with its interval, such as "0.736 [0.701, 0.77]"."""
    value, low, high = map(format_number, (estimate.value, estimate.low, estimate.high))
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, with `|` in cells escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
