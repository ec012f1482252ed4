"""Drawing some studies more often than others, and reading an X-ray in several turns."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..data.conversations import labelled_study, report_example
from ..data.instructions import about_one_image, question_answers, text_turn
from ..data.mixture import Task, TaskMixture
from ..data.records import iterate

if TYPE_CHECKING:
    import datasets

# A row that is drawn as often as the others occurs so many times before any row occurs anew.
_RESOLUTION = 10


def weighted_rows(
    rows: datasets.Dataset, source_weights: Mapping[str, float], balanced: bool = False
) -> datasets.Dataset:
    """
    Repeats rows, so that some are drawn more often.

    Args:
        rows ([`datasets.Dataset`]):
            Rows of [`StudyRecord`] or [`QuestionRecord`].
        source_weights (`Mapping[str, float]`):
            How often rows of a source are drawn, 1.0 for those not named.
        balanced (`bool`, *optional*, defaults to `False`):
            Draw the normal and the other rows of a source equally often.

    Returns:
        [`datasets.Dataset`]: ten times as many rows, none of them copied.

    Raises:
        ValueError: a weight that is negative or no number, or weights that leave nothing.
    """
    if words := {name: weight for name, weight in source_weights.items() if not isinstance(weight, (int, float))}:
        raise ValueError(f"Expected numbers for `source_weights`, got {words}.")
    groups = [
        (row["source"], any(label["name"] == "No Finding" and label["value"] == 1 for label in row["labels"]))
        for row in iterate(rows, ["source", "labels"])
    ]
    studies_of = Counter(source for source, _ in groups)
    weights = np.array([source_weights.get(source, 1.0) for source, _ in groups])
    if balanced:
        sizes = Counter(groups)
        groups_of = Counter(source for source, _ in sizes)
        weights *= [studies_of[group[0]] / groups_of[group[0]] / sizes[group] for group in groups]
    if weights.min() < 0 or not weights.sum():
        raise ValueError(f"`source_weights` must be 0 or more, and not all 0, got {dict(source_weights)}.")
    ends = np.floor(np.cumsum(weights) / weights.sum() * len(rows) * _RESOLUTION + 1e-6).astype(int)
    return rows.select(np.repeat(np.arange(len(rows)), np.diff(ends, prepend=0)))


def reading_example(
    row: dict, rng: random.Random, sections: str = "findings+impression", num_questions: int = 2
) -> dict:
    """
    Writes a conversation about one X-ray, a report and questions that the labels answer, in any order of turns.

    Args:
        row (`dict`):
            A row of [`StudyRecord`].
        rng (`random.Random`):
            Chooses instructions, questions, their wording and the order.
        sections (`str`, *optional*, defaults to `"findings+impression"`):
            As of [`report_example`].
        num_questions (`int`, *optional*, defaults to 2):
            Questions beside the report; all that there are where the labels answer fewer.

    Returns:
        `dict`: as of [`report_example`], task "report".
    """
    example = report_example(row, rng, sections)
    turns = [example["messages"]]
    for _, question, answer in question_answers(labelled_study(row), rng)[:num_questions]:
        turns.append(text_turn(question, answer))
    rng.shuffle(turns)
    return {**example, "messages": about_one_image(turns)}


def reweighted(
    mixture: TaskMixture,
    source_weights: Mapping[str, float],
    balanced: bool = False,
    num_questions: int = 0,
) -> TaskMixture:
    """
    The mixture with its studies weighted by [`weighted_rows`] and, with `num_questions`, its reports read by
    [`reading_example`].

    Raises:
        ValueError: `source_weights` names a source that no study is of, or its weights leave nothing.
    """
    if source_weights:
        studies = [task.rows for name, task in mixture.tasks.items() if name != "text"]
        known = {row["source"] for rows in studies for row in iterate(rows, ["source"])}
        if unknown := sorted(set(source_weights) - known):
            raise ValueError(f"`source_weights` names {unknown}, and the sources of the data are {sorted(known)}.")
    tasks = {}
    for name, task in mixture.tasks.items():
        rows, write = task.rows, task.write
        if name != "text" and (source_weights or balanced):
            rows = weighted_rows(rows, source_weights, balanced)
        if name == "report" and num_questions:
            write = partial(reading_example, **write.keywords, num_questions=num_questions)
        tasks[name] = Task(rows, write)
    return TaskMixture(tasks, mixture.counts, mixture.size, mixture.seed)
