"""Comparison of two finished evaluations."""

from __future__ import annotations

from pathlib import Path

from ..examples import Example
from ..predictions import predictions_file, read_predictions
from ..tasks import TASKS, EvaluationArguments, Task
from .intervals import Difference, paired_difference
from .tables import read_run


def compare_runs(
    first: str | Path, second: str | Path, num_resamples: int = 1000, seed: int = 0
) -> list[tuple[str, str, Difference]]:
    """
    Compare the outputs of two evaluations on the same examples, with the metrics of the first.

    Args:
        first, second (`str` or `Path`):
            Output folders of [`run_evaluation`].
        num_resamples (`int`, *optional*, defaults to 1000), seed (`int`, *optional*, defaults to 0):
            As in [`paired_difference`].

    Returns:
        `list[tuple[str, str, Difference]]`: task, metric and difference, second minus first.

    Raises:
        FileNotFoundError: a folder is not of a finished evaluation.
        ValueError: the two have no comparable task in common, or different examples or references.
    """
    arguments = EvaluationArguments(**read_run(first)["arguments"])
    read_run(second)
    differences = []
    for task in (task(arguments) for task in TASKS.values() if task.is_comparable):
        if not all(predictions_file(folder, task.name).is_file() for folder in (first, second)):
            continue
        (examples, before), (others, after) = (_read(task, Path(folder)) for folder in (first, second))
        if set(examples) != set(others):
            different = len(set(examples) ^ set(others))
            raise ValueError(
                f"The two runs have different examples of the task '{task.name}' ({different} are in one run only, or "
                "have another reference): evaluate both on the same data, with the same limits and seed."
            )
        output_of = dict(zip(others, after))
        after = [output_of[example] for example in examples]
        patients = [example.patient for example in examples]
        for one, other in zip(task.metrics(examples, before), task.metrics(examples, after)):
            found = paired_difference(
                one.aggregate, one.units, other.units, patients, num_resamples, seed=seed, distinct=one.distinct
            )
            differences += [(task.name, one.prefix + metric, difference) for metric, difference in found.items()]
    if not differences:
        raise ValueError(f"'{first}' and '{second}' have no comparable task in common.")
    return differences


def _read(task: Task, folder: Path) -> tuple[list[Example], list]:
    examples, predictions = read_predictions(predictions_file(folder, task.name))
    return examples, task.read_outputs(folder, predictions)
