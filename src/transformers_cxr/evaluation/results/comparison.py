"""Comparison of two finished evaluations."""

from __future__ import annotations

from pathlib import Path

from ..arguments import EvaluationArguments
from ..predictions import read_predictions
from ..tasks import TASKS
from .intervals import paired_difference
from .tables import Result, read_run


def compare_runs(
    first: str | Path, second: str | Path, num_resamples: int = 1000, seed: int = 0
) -> list[tuple[Result, float]]:
    """
    Compare the outputs of two evaluations on the same examples, with the metrics of the first.

    Args:
        first, second (`str` or `Path`):
            Output folders of [`run_evaluation`].
        num_resamples (`int`, *optional*, defaults to 1000), seed (`int`, *optional*, defaults to 0):
            As in [`paired_difference`].

    Returns:
        `list[tuple[Result, float]]`: the difference of each metric, second minus first, and its p-value.

    Raises:
        FileNotFoundError: a folder is not of a finished evaluation.
        ValueError: the two have no comparable task in common, or different examples or references.
    """
    arguments = EvaluationArguments(**read_run(first)["arguments"])
    read_run(second)
    differences = []
    for task in (task(arguments) for task in TASKS.values() if task.is_comparable):
        before, after = runs = [
            read_predictions(Path(folder) / "predictions" / task.name) for folder in (first, second)
        ]
        if not before or not after:
            continue
        examples = [prediction.example for prediction in before.values()]
        if different := set(examples) ^ {prediction.example for prediction in after.values()}:
            raise ValueError(
                f"The two runs have different examples of the task '{task.name}' ({len(different)} are in one run "
                "only, or have another reference): evaluate both on the same data, with the same limits and seed."
            )
        measured = []
        for folder, run in zip((first, second), runs):
            outputs = task.load_outputs(Path(folder), [prediction.output for prediction in run.values()])
            outputs = dict(zip(run, outputs))
            measured.append(task.metrics(examples, [outputs[example.id] for example in examples]))
        patients = [example.patient for example in examples]
        for one, other in zip(*measured):
            found = paired_difference(
                one.aggregate, one.units, other.units, patients, num_resamples, seed, one.distinct
            )
            for metric, (estimate, p_value) in found.items():
                differences.append((Result(task.name, "all", one.prefix + metric, estimate), p_value))
    if not differences:
        raise ValueError(f"'{first}' and '{second}' have no comparable task in common.")
    return differences
