"""The most important results of an evaluation, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import chain, zip_longest

from ..metrics import Score
from ..tasks import TASKS
from .tables import Result, format_number

NUM_HEADLINES = 10
# Shares of the way from chance to perfect, and the fewest examples whose interval tells something.
GOOD, POOR, MIN_EXAMPLES = 0.75, 0.5, 30
RULE = (
    "Good: the whole interval is at least three quarters of the way from chance to perfect. Poor: the whole interval "
    "is below half of it. Fewer than 30 examples are not judged."
)
NO_VERDICT = "No headline number is clearly good or poor. More examples give narrower intervals."
COST = {
    "seconds_per_100_examples": Score("Seconds for 100 examples", "Time on this machine.", higher_is_better=False),
    "peak_mib": Score("Peak memory in MiB", "Of the process or its GPU, until then.", higher_is_better=False),
}


def task_title(task: str) -> str:
    """Return the name of a task of results in words."""
    return TASKS[task].title if task in TASKS else task.capitalize()


def explain(task: str, metric: str) -> tuple[str, Score, str]:
    """
    Return the name of a metric with wildcards, its explanation, and what stands for the wildcards: "f1_*" and "macro
    14" for "f1_macro_14".
    """
    for pattern, score in (TASKS[task].scores if task in TASKS else COST).items():
        if match := re.fullmatch(re.escape(pattern).replace(r"\*", "(.*)"), metric):
            variant = " ".join(filter(None, (part.strip("_").replace("_", " ") for part in match.groups())))
            return pattern, score, variant
    return metric, Score(metric.replace("_", " ").capitalize(), "", higher_is_better=None), ""


def metric_title(task: str, metric: str) -> str:
    """Return the name of a metric in words, such as "F1 of findings (macro 14)"."""
    _, score, variant = explain(task, metric)
    return f"{score.title} ({variant})" if variant else score.title


def full_title(task: str, metric: str) -> str:
    """Return the names of task and metric in words."""
    return f"{task_title(task)}: {metric_title(task, metric)}"


def sources_of(results: Sequence[Result], task: str) -> list[str]:
    """Return the sources of a task, that with the most examples first, or "all" if there is only one."""
    units = {r.group: r.estimate.units for r in results if r.task == task and ": " not in r.group}
    return sorted((group for group in units if group != "all"), key=lambda group: -units[group]) or ["all"]


def main_results(results: Sequence[Result], task: str, source: str) -> list[Result]:
    """Return the defined headline metrics of a task for a source, the most important first."""
    defined = [r for r in results if (r.task, r.group) == (task, source) and not math.isnan(r.estimate.value)]
    metrics = TASKS[task].main_metrics if task in TASKS else ()
    return list(dict.fromkeys(r for metric in metrics for r in defined if fnmatch(r.metric, metric)))


def headlines(results: Sequence[Result], count: int = NUM_HEADLINES) -> list[Result]:
    """
    Return the most important results in the order of the tasks: of the first headline metric of each task, then the
    second ones, and so on, the first `count`, for the source with the most examples. Averages over different sources
    say little.
    """
    tasks = list(dict.fromkeys(result.task for result in results))
    main = [main_results(results, task, sources_of(results, task)[0]) for task in tasks]
    chosen = [result for result in chain(*zip_longest(*main)) if result is not None][:count]
    return sorted(chosen, key=lambda result: tasks.index(result.task))


def verdict(results: Sequence[Result]) -> dict[str, list[str]]:
    """
    Return what is "good" and "poor" by [`RULE`], in words: the first such headline metric of each task and source.
    Metrics without a value by chance, and groups of fewer than `MIN_EXAMPLES`, are left out.
    """
    found: dict[str, dict[tuple[str, str], str]] = {"good": {}, "poor": {}}
    for task in dict.fromkeys(result.task for result in results):
        for result in chain(*(main_results(results, task, source) for source in sources_of(results, task))):
            chance, estimate = explain(task, result.metric)[1].chance, result.estimate
            if chance is None or math.isnan(estimate.low) or estimate.units < MIN_EXAMPLES:
                continue
            low, high = ((end - chance) / (1 - chance) for end in (estimate.low, estimate.high))
            if low >= GOOD or high < POOR:
                on = "" if result.group == "all" else f"{result.group}, "
                text = f"{full_title(task, result.metric)} ({on}{format_number(estimate.value)})"
                found["good" if low >= GOOD else "poor"].setdefault((task, result.group), text)
    return {name: list(titles.values()) for name, titles in found.items()}


def verdict_sentence(results: Sequence[Result]) -> str:
    """Return [`verdict`] as text."""
    parts = [f"{name.capitalize()}: {'; '.join(items)}." for name, items in verdict(results).items() if items]
    return " ".join(parts) or NO_VERDICT
