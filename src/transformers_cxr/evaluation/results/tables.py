"""The results of an evaluation as JSON and as Markdown tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .intervals import Difference, Estimate


@dataclass(frozen=True)
class Result:
    """
    One number of an evaluation.

    task (`str`): one of `TASKS` of [`run_evaluation`].
    group (`str`): "all", a source, "type: ..." (questions), "finding: ..." (drawings) or "blur 3" (a corruption and its level).
    metric (`str`): name of the number.
    estimate ([`Estimate`]): the number and its interval.
    """

    task: str
    group: str
    metric: str
    estimate: Estimate


def results_to_json(results: Iterable[Result]) -> list[dict]:
    """A flat record a result; what is not defined is `None`, which JSON can say and NaN it cannot."""
    records = []
    for result in results:
        record = {"task": result.task, "group": result.group, "metric": result.metric, **asdict(result.estimate)}
        records.append({name: None if _is_nan(value) else value for name, value in record.items()})
    return records


def results_from_json(records: Iterable[dict]) -> list[Result]:
    """The inverse of [`results_to_json`]."""
    names = [field.name for field in fields(Estimate)]
    return [
        Result(
            record["task"],
            record["group"],
            record["metric"],
            Estimate(**{name: math.nan if record[name] is None else record[name] for name in names}),
        )
        for record in records
    ]


def read_run(folder: str | Path) -> dict:
    """
    The `results.json` of an output folder.

    Raises:
        FileNotFoundError: the folder has none.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"No results.json in '{folder}': expected the output folder of a finished evaluation.")
    return json.loads(path.read_text(encoding="utf-8"))


def format_number(value: float) -> str:
    """Four significant digits; "not defined" for NaN."""
    return "not defined" if math.isnan(value) else f"{value:.4g}"


def format_estimate(estimate: Estimate) -> str:
    """A value with its interval, as "0.7363 [0.701, 0.77]"."""
    value = format_number(estimate.value)
    if math.isnan(estimate.low):
        return value
    return f"{value} [{estimate.low:.4g}, {estimate.high:.4g}]"


def groups_of(results: Sequence[Result], task: str) -> list[str]:
    """The groups of a task in their order."""
    return list(dict.fromkeys(result.group for result in results if result.task == task))


def table_of(results: Sequence[Result], task: str) -> tuple[list[str], list[list[str]]]:
    """
    Header and rows of the table of a task: a row a metric, a column a group, with what the group is over. Questions and
    corruptions, which have many groups and few metrics, have a row a group.
    """
    own = [result for result in results if result.task == task]
    groups, metrics = groups_of(results, task), list(dict.fromkeys(result.metric for result in own))
    cells = {(result.group, result.metric): format_estimate(result.estimate) for result in own}
    over = {result.group: result.estimate for result in own}
    if len(groups) > len(metrics):
        header = ["group", "n (patients)", *metrics]
        rows = [
            [group, f"{over[group].units} ({over[group].patients})"] + [cells.get((group, m), "") for m in metrics]
            for group in groups
        ]
        return header, rows
    header = ["metric"] + [f"{group}, n = {over[group].units} ({over[group].patients})" for group in groups]
    return header, [[metric] + [cells.get((group, metric), "") for group in groups] for metric in metrics]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, with a bar in a cell escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def results_to_markdown(results: Sequence[Result], heading: str = "##") -> str:
    """A table a task under a heading of its own."""
    parts = []
    for task in dict.fromkeys(result.task for result in results):
        parts.append(f"{heading} {task}\n\n{markdown_table(*table_of(results, task))}\n")
    return "\n".join(parts)


def differences_to_markdown(differences: Iterable[tuple[str, str, Difference]]) -> str:
    """The differences of two runs: tuples of a task, a metric and a [`Difference`]."""
    rows = [
        [
            task,
            metric,
            f"{format_number(d.value)} [{format_number(d.low)}, {format_number(d.high)}]",
            format_number(d.p_value),
        ]
        for task, metric, d in differences
    ]
    return markdown_table(["task", "metric", "difference, second less first", "p"], rows)


def _is_nan(value) -> bool:
    return isinstance(value, float) and math.isnan(value)
