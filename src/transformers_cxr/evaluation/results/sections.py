"""The tables of an evaluation with explanations of their metrics."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .headlines import explain, headlines, metric_title, task_title, verdict_sentence
from .tables import Result, format_interval, format_number, markdown_table


@dataclass(frozen=True)
class Table:
    """
    A table of results of a task.

    title (`str`), header (`list[str]`), rows (`list[list[str]]`): what it shows; the first cell of a row is its name.
    meanings (`list[tuple[str, str, str]]`): title, name and explanation of each metric.
    """

    title: str
    meanings: list[tuple[str, str, str]]
    header: list[str]
    rows: list[list[str]]


def shown_results(results: Iterable[Result]) -> list[Result]:
    """
    Return the results without metrics that no group of their task defines, and without those that equal in all groups
    the metric whose name theirs begins with, as "f1_pneumonia_uncertain_negative" without uncertain labels.
    """
    values: dict[tuple[str, str], dict[str, str]] = {}
    defined = set()
    for result in results:
        key = result.task, result.metric
        values.setdefault(key, {})[result.group] = repr(result.estimate)
        if not math.isnan(result.estimate.value):
            defined.add(key)
    shown = {
        (task, metric)
        for task, metric in defined
        if not any(
            metric.startswith(f"{other}_") and values[task, metric] == values[task, other]
            for own, other in defined
            if own == task
        )
    }
    return [result for result in results if (result.task, result.metric) in shown]


def task_tables(results: Sequence[Result], task: str) -> list[Table]:
    """
    Return the tables of a task: one of all metrics that stand alone, and one for each family of metrics, such as the
    F1 of each finding. A table has a row per metric and a column per group, or the reverse with more groups.
    """
    own = [result for result in results if result.task == task]
    families: dict[str, list[str]] = {}
    for metric in dict.fromkeys(result.metric for result in own):
        families.setdefault(explain(task, metric)[0], []).append(metric)
    alone = {metrics[0]: metric_title(task, metrics[0]) for metrics in families.values() if len(metrics) == 1}
    overview = f"{task_title(task)}: overview"
    tables = [_table(own, task, overview, alone, {name: name for name in alone})] if alone else []
    for pattern, metrics in families.items():
        if len(metrics) > 1:
            names = {metric: explain(task, metric)[2] or "model" for metric in metrics}
            title = explain(task, metrics[0])[1].title
            tables.append(_table(own, task, title, names, {metrics[0]: pattern}))
    return tables


def _table(
    results: Sequence[Result], task: str, title: str, names: dict[str, str], explained: dict[str, str]
) -> Table:
    """Return a table of metrics by their names in it; `explained` has the names of metrics to explain."""
    own = [result for result in results if result.metric in names]
    cells = {(result.group, result.metric): format_interval(result.estimate) for result in own}
    # A group without any of these numbers has no row.
    defined = [result for result in own if not math.isnan(result.estimate.value)]
    counts = {r.group: f"{r.estimate.units} ({r.estimate.patients})" for r in defined}
    scores = {name: explain(task, metric)[1] for metric, name in explained.items()}
    meanings = [(score.title, name, score.meaning) for name, score in scores.items()]
    if len(counts) > len(names):
        header = ["group", "n (patients)", *names.values()]
        rows = [[group, n, *(cells.get((group, metric), "") for metric in names)] for group, n in counts.items()]
    else:
        header = ["metric", *(f"{group}, n = {n}" for group, n in counts.items())]
        rows = [[name, *(cells.get((group, metric), "") for group in counts)] for metric, name in names.items()]
    return Table(title, meanings, header, rows)


def summary(results: Sequence[Result]) -> str:
    """Return what is good and poor, and the ten [`headlines`] as a Markdown table."""
    return f"{textwrap.fill(verdict_sentence(results), 120)}\n\n{table_of(headlines(results))}"


def table_of(results: Iterable[Result]) -> str:
    """Return a Markdown table with a row per result."""
    rows = []
    for result in results:
        value, low, high = (format_number(getattr(result.estimate, end)) for end in ("value", "low", "high"))
        interval = "" if math.isnan(result.estimate.low) else f"{low} to {high}"
        title = metric_title(result.task, result.metric)
        rows.append([task_title(result.task), title, result.group, value, interval, str(result.estimate.units)])
    return markdown_table(["task", "metric", "on", "value", "95 % interval", "n"], rows)


def results_to_markdown(results: Sequence[Result], heading: str = "##") -> str:
    """Return the tables of each task, under its heading, with explanations of the metrics."""
    lines = []
    for task in dict.fromkeys(result.task for result in results):
        lines.append(f"{heading} {task_title(task)}\n")
        for table in task_tables(results, task):
            lines.append(f"{heading}# {table.title}\n")
            for title, name, meaning in table.meanings:
                lines.append(textwrap.fill(f"- **{title}** (`{name}`): {meaning}", 120, subsequent_indent="  "))
            lines.append(f"\n{markdown_table(table.header, table.rows)}\n")
    return "\n".join(lines)
