"""Mixture of the tasks of instruction tuning. Each example is a function of the seed and its index alone."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Dataset

from .conversations import (
    image_conversation,
    question_answers,
    report_conversation,
    text_conversation,
    vqa_conversation,
)
from .records import StudyRecord
from .store import SECTIONS, iterate, select_records

if TYPE_CHECKING:
    import datasets

TASKS = ("report", "image", "vqa", "text")
# Ratios are exact in every block of so many examples.
BLOCK_SIZE = 1000
# How often a row of average weight is repeated.
_REPEATS = 10


@dataclass(frozen=True)
class Task:
    """
    A task of a mixture.

    Args:
        rows (sequence of `dict`): its data, for example a memory-mapped [`datasets.Dataset`].
        write (`Callable[[dict, random.Random], dict]`): returns a conversation about a row.
    """

    rows: Sequence[dict]
    write: Callable[[dict, random.Random], dict]


class TaskMixture(Dataset):
    """
    Conversations of several tasks, mixed by ratio.

    Example `i` depends only on the seed and `i`, so that training resumes anywhere. In every block of 1,000 examples
    the ratios are exact. All rows of a task are used once before any is used again, each time in a new order and with
    new instructions.

    Args:
        tasks (`Mapping[str, Task]`): the tasks by name.
        ratios (`Mapping[str, float]`): share of each task, in any unit. A ratio of 0 leaves the task out.
        size (`int`): number of examples.
        seed (`int`, *optional*, defaults to `0`): seed of all random choices.

    Raises:
        ValueError: a task with a ratio is missing or has no rows, or its share is below 1 in 1,000.
    """

    def __init__(self, tasks: Mapping[str, Task], ratios: Mapping[str, float], size: int, seed: int = 0):
        wanted = {name: ratio for name, ratio in ratios.items() if ratio > 0}
        if not wanted:
            raise ValueError(f"Expected a ratio above 0 for at least one task, got {dict(ratios)}.")
        for name in wanted:
            if name not in tasks:
                raise ValueError(f"The mixture asks for task '{name}', but data are given only for {sorted(tasks)}.")
            if not len(tasks[name].rows):
                raise ValueError(
                    f"Task '{name}' has a ratio of {ratios[name]} and no rows. Set its ratio to 0 or give it data."
                )
        self.tasks = {name: tasks[name] for name in wanted}
        self.counts = _block_counts(wanted)
        if rare := [name for name, count in self.counts.items() if not count]:
            raise ValueError(f"The ratios of {rare} are below 1 in {BLOCK_SIZE}: {dict(ratios)}.")
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        """Return a conversation, see `transformers_cxr.data.conversations`."""
        if not -self.size <= index < self.size:
            raise IndexError(f"Example {index} of {self.size}.")
        index %= self.size
        block, place = divmod(index, BLOCK_SIZE)
        slot = _permuted(place, BLOCK_SIZE, f"{self.seed}-block-{block}")
        names = iter(self.counts)
        while slot >= self.counts[name := next(names)]:
            slot -= self.counts[name]
        rows = self.tasks[name].rows
        repeat, position = divmod(block * self.counts[name] + slot, len(rows))
        row = rows[_permuted(position, len(rows), f"{self.seed}-{name}-{repeat}")]
        return self.tasks[name].write(row, random.Random(f"{self.seed}-{index}"))


@dataclass(frozen=True)
class Stage:
    """
    A stage of instruction tuning.

    Args:
        ratios (`Mapping[str, float]`): share of the tasks "report", "image", "vqa" and "text".
        views (`tuple[str, ...]`, *optional*): view positions to use, all by default.
        first_study (`bool`, *optional*, defaults to `False`): whether to use only the first study of each patient.
        sections (`str`, *optional*): "findings+impression" for the sections that a report has, or "impression".

    Raises:
        ValueError: the sections are unknown.
    """

    ratios: Mapping[str, float]
    views: tuple[str, ...] | None = None
    first_study: bool = False
    sections: str = "findings+impression"

    def __post_init__(self):
        if self.sections not in SECTIONS:
            raise ValueError(f"Expected sections from {SECTIONS}, got '{self.sections}'.")


# arXiv 2305.11490. It prints 63 % for the questions of stage 2; 53 % adds up to 100 and fits its example counts.
STAGE_1 = Stage({"report": 30, "image": 30, "vqa": 20, "text": 20})
STAGE_2 = Stage({"report": 21, "image": 21, "vqa": 53, "text": 5}, ("AP", "PA"), True, "impression")


def stage_mixture(
    stage: Stage,
    records: datasets.Dataset | None = None,
    questions: datasets.Dataset | None = None,
    texts: datasets.Dataset | None = None,
    *,
    size: int,
    split: str = "train",
    both_directions: bool = True,
    empty_prompt_ratio: float = 0.0,
    num_questions: int = 0,
    source_weights: Mapping[str, float] | None = None,
    balanced: bool = False,
    seed: int = 0,
) -> TaskMixture:
    """
    Return the mixture of a stage.

    Args:
        stage ([`Stage`]): ratios and filters, such as `STAGE_1` and `STAGE_2` of the paper.
        records ([`datasets.Dataset`], *optional*): rows of [`load_records`] for the tasks "report" and "image". Rows
            with a question are for the task "vqa".
        questions ([`datasets.Dataset`], *optional*): more rows with questions. If there are none, neither here nor in
            `records`, the labels of `records` give the questions.
        texts ([`datasets.Dataset`], *optional*): rows of [`load_records`] with `messages` for the task "text".
        size (`int`): number of examples.
        split (`str`, *optional*, defaults to `"train"`): split of `records` and `questions` to use.
        both_directions (`bool`, *optional*, defaults to `True`): whether each record is used for both reports and
            images. Otherwise its id and the seed choose one of the two, as in the released code of LLM-CXR.
        empty_prompt_ratio (`float`, *optional*, defaults to `0.0`): share of the "image" examples without a report,
            for classifier-free guidance (arXiv 2207.12598).
        num_questions (`int`, *optional*, defaults to `0`): number of questions, answered by the labels, in further
            turns of each "report" example.
        source_weights (`Mapping[str, float]`, *optional*): weights of the datasets (`source`) in all tasks but "text",
            by default 1.0.
        balanced (`bool`, *optional*, defaults to `False`): whether normal and other records of a dataset are used
            equally often.
        seed (`int`, *optional*, defaults to `0`): seed of all random choices.

    Raises:
        ValueError: a task with a ratio has no data or data of another kind, no row passes the filters of the stage, or
            `source_weights` has an unknown source.
    """
    record_columns = {item.name for item in fields(StudyRecord)} - {"codes"}
    for name, rows, columns in (
        ("records", records, record_columns),
        ("questions", questions, record_columns),
        ("texts", texts, {"id", "messages"}),
    ):
        if rows is not None and (missing := sorted(columns - set(rows.column_names))):
            raise ValueError(f"`{name}` lack the columns {missing}; they have {rows.column_names}.")
    if records is not None:
        has_question = np.array([bool(row["question"]) for row in iterate(records, ["question"])])
        if has_question.any():
            found = records.select(np.flatnonzero(has_question))
            if questions is not None:
                from datasets import concatenate_datasets

                found = concatenate_datasets([questions, found])
            questions = found
            records = records.select(np.flatnonzero(~has_question)) if not has_question.all() else None
    asked = {name for name, ratio in stage.ratios.items() if ratio > 0}
    filters = {"splits": (split,), "views": stage.views, "first_study": stage.first_study}
    tasks = {}
    if records is not None and asked & {"report", "image", "vqa"}:
        selected = _selected("records", records, sections=stage.sections, **filters)
        reading = generating = selected
        if not both_directions:
            reads = np.array([_is_for_reading(row["id"], seed) for row in iterate(selected, ["id"])])
            reading, generating = selected.select(np.flatnonzero(reads)), selected.select(np.flatnonzero(~reads))
        options = {"sections": stage.sections}
        tasks["report"] = _task(reading, report_conversation, num_questions=num_questions, **options)
        tasks["image"] = _task(generating, image_conversation, empty_prompt_ratio=empty_prompt_ratio, **options)
        if questions is None and "vqa" in asked:
            labelled, rng = _selected("records", records, **filters), random.Random(seed)
            columns = ["id", "patient", "image", "source", "view", "sex", "age_group", "labels"]
            has_questions = [
                bool(question_answers(StudyRecord.from_row(row), rng)) for row in iterate(labelled, columns)
            ]
            tasks["vqa"] = _task(labelled.select(np.flatnonzero(has_questions)), vqa_conversation)
    if questions is not None and "vqa" in asked:
        if not all(row["question"] for row in iterate(questions, ["question"])):
            raise ValueError("`questions` have rows without a question: give these as `records`.")
        tasks["vqa"] = _task(_selected("questions", questions, **filters), vqa_conversation)
    tasks = {name: task for name, task in tasks.items() if name in asked}
    if source_weights or balanced:
        known = {row["source"] for task in tasks.values() for row in iterate(task.rows, ["source"])}
        if unknown := sorted(set(source_weights or ()) - known):
            raise ValueError(f"`source_weights` names {unknown}, and the sources of the data are {sorted(known)}.")
        tasks = {
            name: replace(task, rows=weighted_rows(task.rows, source_weights or {}, balanced))
            for name, task in tasks.items()
            if len(task.rows)
        }
    if texts is not None:
        tasks["text"] = Task(texts, text_conversation)
    return TaskMixture(tasks, stage.ratios, size, seed)


def weighted_rows(
    rows: datasets.Dataset, source_weights: Mapping[str, float], balanced: bool = False
) -> datasets.Dataset:
    """
    Repeat rows in proportion to the weights of their datasets.

    Args:
        rows ([`datasets.Dataset`]): rows of [`load_records`].
        source_weights (`Mapping[str, float]`): weights of the datasets (`source`), 1.0 for those not named.
        balanced (`bool`, *optional*, defaults to `False`): whether normal and other rows of a dataset get the same
            total weight.

    Returns:
        [`datasets.Dataset`]: ten times as many rows, by index, without a copy.
    """
    groups = [
        (row["source"], any(label["name"] == "No Finding" and label["value"] == 1 for label in row["labels"]))
        for row in iterate(rows, ["source", "labels"])
    ]
    rows_of = Counter(source for source, _ in groups)
    weights = np.array([source_weights.get(source, 1.0) for source, _ in groups])
    if balanced:
        sizes = Counter(groups)
        groups_of = Counter(source for source, _ in sizes)
        weights *= [rows_of[group[0]] / groups_of[group[0]] / sizes[group] for group in groups]
    if weights.min() < 0 or not weights.sum():
        raise ValueError(f"`source_weights` must be 0 or more, and not all 0, got {dict(source_weights)}.")
    ends = np.floor(np.cumsum(weights) / weights.sum() * len(rows) * _REPEATS + 1e-6).astype(int)
    return rows.select(np.repeat(np.arange(len(rows)), np.diff(ends, prepend=0)))


def _permuted(index: int, size: int, key: str) -> int:
    """
    Return the place of `index` in the pseudo-random permutation of `range(size)` of a key, without making the
    permutation: a Feistel network over the next power of 4, repeated until the result is in the range.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for number in range(4):
            digest = hashlib.blake2b(f"{key}-{number}-{right}".encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest) & mask)
        index = left << half | right
        if index < size:
            return index


def _task(rows: datasets.Dataset, conversation: Callable[..., dict], **options) -> Task:
    return Task(rows, partial(_write, partial(conversation, **options)))


def _write(conversation: Callable[[StudyRecord, random.Random], dict], row: dict, rng: random.Random) -> dict:
    return conversation(StudyRecord.from_row(row), rng)


def _selected(name: str, rows: datasets.Dataset, **conditions) -> datasets.Dataset:
    try:
        return select_records(rows, **conditions)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error


def _block_counts(ratios: Mapping[str, float]) -> dict[str, int]:
    """Return the number of examples of each task in a block, by the largest remainder method."""
    total = sum(ratios.values())
    exact = {name: BLOCK_SIZE * ratio / total for name, ratio in ratios.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: BLOCK_SIZE - sum(counts.values())]:
        counts[name] += 1
    return counts


def _is_for_reading(name: str, seed: int) -> bool:
    return hashlib.sha256(f"{seed}-direction-{name}".encode()).digest()[0] % 2 == 0
