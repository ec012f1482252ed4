"""Comparison of two finished evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from ..arguments import EvaluationArguments
from ..examples import Example, Sample
from ..predictions import read_predictions
from ..tasks import TASKS, Task
from .headlines import explain, full_title, main_results, metric_title, task_title
from .intervals import Estimate, paired_difference
from .tables import Result, format_interval, format_number, markdown_table, read_run

NUM_SAMPLES = 6


@dataclass(frozen=True)
class Change:
    """
    The values of a metric in two evaluations.

    task (`str`), metric (`str`): names of the task and the metric.
    first (`float`), second (`float`): the values.
    difference ([`Estimate`]): second minus first, with its interval.
    p_value (`float`): two-sided p-value of the difference; NaN if it is not defined.
    """

    task: str
    metric: str
    first: float
    second: float
    difference: Estimate
    p_value: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the difference excludes 0 and the p-value is below 0.05."""
        return (self.difference.low > 0 or self.difference.high < 0) and self.p_value < 0.05

    @property
    def kind(self) -> str:
        """Whether the second value is clearly "better", "worse" or "different", otherwise ""."""
        higher_is_better = explain(self.task, self.metric)[1].higher_is_better
        if not self.is_clear or higher_is_better is None:
            return "different" if self.is_clear else ""
        return "better" if (self.difference.value > 0) == higher_is_better else "worse"

    @property
    def title(self) -> str:
        """Task and metric in words."""
        return full_title(self.task, self.metric)

    @property
    def signed(self) -> str:
        """The difference with its sign."""
        return ("+" if self.difference.value > 0 else "") + format_number(self.difference.value)

    @property
    def cells(self) -> list[str]:
        """Cells of a table: metric, first, second, difference, p."""
        values = [format_number(self.first), format_number(self.second), format_interval(self.difference)]
        return [metric_title(self.task, self.metric), *values, format_number(self.p_value)]


NO_CHANGE = "No headline number changed clearly."
HEADER = ["metric", "first", "second", "difference", "p"]


def compare_runs(first: str | Path, second: str | Path, num_resamples: int = 1000, seed: int = 0) -> list[Change]:
    """
    Compare the outputs of two evaluations on the same examples, with the metrics of the first.

    Args:
        first, second (`str` or `Path`):
            Output folders of [`run_evaluation`].
        num_resamples (`int`, *optional*, defaults to 1000), seed (`int`, *optional*, defaults to 0):
            As in [`paired_difference`].

    Returns:
        `list[Change]`: the change of each metric over all examples.

    Raises:
        FileNotFoundError: a folder is not of a finished evaluation.
        ValueError: the two have no comparable task in common, or different examples or references.
    """
    changes = []
    for task, examples, runs in _common_tasks(first, second):
        measured = [task.metrics(examples, [run[example.id] for example in examples]) for run in runs]
        patients = [example.patient for example in examples]
        for one, other in zip(*measured):
            values = one.aggregate(one.units), one.aggregate(other.units)
            found = paired_difference(
                one.aggregate, one.units, other.units, patients, num_resamples, seed, one.distinct
            )
            for name, (estimate, p_value) in found.items():
                metric = one.prefix + name
                changes.append(Change(task.name, metric, values[0][name], values[1][name], estimate, p_value))
    if not changes:
        raise ValueError(f"'{first}' and '{second}' have no comparable task in common.")
    return changes


def changed_samples(first: str | Path, second: str | Path) -> dict[str, list[Sample]]:
    """Return the first examples of each task whose outputs differ between two evaluations, with both outputs."""
    samples: dict[str, list[Sample]] = {}
    for task, examples, runs in _common_tasks(first, second):
        image_processor, own = LlmCxrImageProcessor(), samples.setdefault(task.name, [])
        for example in examples:
            pair = [task.samples([example], [run[example.id]], image_processor)[0] for run in runs]
            if pair[0] != pair[1]:
                own.append(_merge(*pair))
            if len(own) == NUM_SAMPLES:
                break
    return samples


def main_changes(changes: Sequence[Change]) -> list[Change]:
    """Return the changes of the headline metrics."""
    main = []
    for task in dict.fromkeys(change.task for change in changes):
        values = {c.metric: c for c in changes if c.task == task}
        results = [Result(task, "all", metric, change.difference) for metric, change in values.items()]
        main += [values[result.metric] for result in main_results(results, task, "all")]
    return main


def change_sentences(changes: Sequence[Change]) -> dict[str, list[str]]:
    """Return the headline metrics that are clearly "better" and "worse", in words."""
    found: dict[str, list[str]] = {"better": [], "worse": []}
    for change in main_changes(changes):
        if change.kind in found:
            values = f"{format_number(change.first)} to {format_number(change.second)}"
            found[change.kind].append(f"{change.title} ({values})")
    return found


def change_summary(changes: Sequence[Change]) -> str:
    """Return what is better and worse, and tables of the headline metrics and of all that changed clearly."""
    found = {name: items for name, items in change_sentences(changes).items() if items}
    main = main_changes(changes)
    parts = [" ".join(f"{name.capitalize()}: {'; '.join(items)}." for name, items in found.items()) or NO_CHANGE]
    for own in (main, [change for change in changes if change.is_clear and change not in main]):
        rows = [[task_title(change.task), *change.cells] for change in own]
        parts += [markdown_table(["task", *HEADER], rows)] if rows else []
    return "\n\n".join(parts)


def _common_tasks(first: str | Path, second: str | Path) -> Iterator[tuple[Task, list[Example], list[dict[str, Any]]]]:
    """Yield each comparable task that both runs have outputs of, its examples, and the outputs of both by id."""
    arguments = EvaluationArguments(**read_run(first)["arguments"])
    read_run(second)
    for task in (task(arguments) for task in TASKS.values() if task.is_comparable):
        before, after = (read_predictions(Path(folder) / "predictions" / task.name) for folder in (first, second))
        if not before or not after:
            continue
        examples = [prediction.example for prediction in before.values()]
        requests = [{_request(prediction.example) for prediction in run.values()} for run in (before, after)]
        if different := requests[0] ^ requests[1]:
            raise ValueError(
                f"The two runs have different examples of the task '{task.name}' ({len(different)} are in one run "
                "only, or have another reference): evaluate both on the same data, with the same limits and seed."
            )
        loaded = []
        for folder, run in ((first, before), (second, after)):
            own, outputs = [p.example for p in run.values()], [p.output for p in run.values()]
            loaded.append(dict(zip(run, task.load_outputs(Path(folder), own, outputs))))
        yield task, examples, loaded


def _request(example: Example) -> tuple[str, str]:
    """Return what two runs must have in common: the reference, or the report of a generated image."""
    return example.id, example.reference or example.prompt


def _merge(first: Sample, second: Sample) -> Sample:
    """Return one sample of the outputs of two runs for an example: once what is equal."""

    def both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
        merged = {}
        for name in one | other:
            pair = {"first": one.get(name), "second": other.get(name)}
            equal = pair["first"] == pair["second"]
            merged |= {name: one[name]} if equal else {f"{name}, {run}": own for run, own in pair.items() if own}
        return merged

    marks = {f"first: {text}": right for text, right in first.marks.items() if text not in second.marks}
    marks |= {f"second: {text}": right for text, right in second.marks.items() if text not in first.marks}
    return Sample(both(first.images, second.images), both(first.texts, second.texts), marks)
