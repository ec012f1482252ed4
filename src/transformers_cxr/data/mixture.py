"""Mixing the tasks of instruction tuning by ratio: what example stands where is a function of the seed and the place alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from .conversations import (
    has_label_questions,
    image_example,
    label_vqa_example,
    report_example,
    text_example,
    vqa_example,
)
from .records import SECTIONS, QuestionRecord, StudyRecord, iterate, select_records

if TYPE_CHECKING:
    import datasets

TASKS = ("report", "image", "vqa", "text")
# Ratios are exact in every run of so many examples.
BLOCK_SIZE = 1000


@dataclass(frozen=True)
class Task:
    """
    rows (sequence of `dict`): what the task is about, for instance a memory-mapped [`datasets.Dataset`].
    write (`Callable[[dict, random.Random], dict]`): writes a conversation about a row.
    """

    rows: Sequence[dict]
    write: Callable[[dict, random.Random], dict]


class TaskMixture(Dataset):
    """
    Conversations of several tasks, mixed by ratio.

    Example `i` depends on the seed and `i` alone, whoever reads it and in which order, so training resumes anywhere. In every
    run of 1,000 examples the ratios are exact; the rows of a task are each used once before any is used again, in a new order
    every time; instructions are drawn anew. Nothing is held in memory but the memory-mapped rows.

    Args:
        tasks (`Mapping[str, Task]`):
            The tasks by name.
        ratios (`Mapping[str, float]`):
            Share of each task, in any unit. A ratio of 0 leaves the task out.
        size (`int`):
            Number of examples.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all that is drawn.

    Raises:
        ValueError: a task with a ratio is missing or has no rows, a ratio is negative or below 1 in 1,000, or there is no
            example.
    """

    def __init__(self, tasks: Mapping[str, Task], ratios: Mapping[str, float], size: int, seed: int = 0):
        if negative := {name: ratio for name, ratio in ratios.items() if ratio < 0}:
            raise ValueError(f"Expected ratios of 0 or more, got {negative}.")
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
        if size < 1:
            raise ValueError(f"Expected a size of at least 1 example, got {size}.")
        self.tasks = {name: tasks[name] for name in wanted}
        self.counts = _block_counts(wanted)
        if rare := [name for name, count in self.counts.items() if not count]:
            raise ValueError(f"The ratios of {rare} are below 1 in {BLOCK_SIZE}: {dict(ratios)}.")
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        """
        A conversation: `messages`, `image_codes` or `images` (one for each `{"type": "image"}` in order), `task` and `id`.

        Raises:
            IndexError: there are fewer examples.
        """
        if not -self.size <= index < self.size:
            raise IndexError(f"Example {index} of {self.size}.")
        index %= self.size
        block, place = divmod(index, BLOCK_SIZE)
        slot = permuted(place, BLOCK_SIZE, f"{self.seed}-block-{block}")
        names = iter(self.counts)
        while slot >= self.counts[name := next(names)]:
            slot -= self.counts[name]
        rows = self.tasks[name].rows
        repeat, position = divmod(block * self.counts[name] + slot, len(rows))
        row = rows[permuted(position, len(rows), f"{self.seed}-{name}-{repeat}")]
        return self.tasks[name].write(row, random.Random(f"{self.seed}-{index}"))


@dataclass(frozen=True)
class Stage:
    """
    A stage of instruction tuning.

    ratios (`Mapping[str, float]`): share of the tasks "report", "image", "vqa" and "text".
    views (`tuple[str, ...]`, *optional*): view positions that are used, `None` for all.
    first_study (`bool`): use the first study of each patient only.
    sections (`str`): "findings+impression" (whichever a report has) or "impression".

    Raises:
        ValueError: an unknown task, a ratio that is no number, or other sections.
    """

    ratios: Mapping[str, float]
    views: tuple[str, ...] | None = None
    first_study: bool = False
    sections: str = "findings+impression"

    def __post_init__(self):
        if unknown := [name for name in self.ratios if name not in TASKS]:
            raise ValueError(f"The ratios name the unknown tasks {unknown}; there are {', '.join(TASKS)}.")
        if words := {name: ratio for name, ratio in self.ratios.items() if not isinstance(ratio, (int, float))}:
            raise ValueError(f"Expected numbers for ratios, got {words}.")
        if self.sections not in SECTIONS:
            raise ValueError(f"Expected sections from {SECTIONS}, got '{self.sections}'.")


# arXiv 2305.11490. It prints 63 % for the questions of stage 2; 53 % adds up to 100 and fits the numbers of its examples.
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
    seed: int = 0,
) -> TaskMixture:
    """
    The mixture of a stage.

    Args:
        stage ([`Stage`]):
            Ratios and filters, such as `STAGE_1` and `STAGE_2` of the paper.
        records ([`datasets.Dataset`], *optional*):
            Rows of [`StudyRecord`] for the tasks "report" and "image".
        questions ([`datasets.Dataset`], *optional*):
            Rows of [`QuestionRecord`] for the task "vqa". Without them questions are written from the labels of `records`.
        texts ([`datasets.Dataset`], *optional*):
            Rows with `messages` for the task "text".
        size (`int`):
            Number of examples.
        split (`str`, *optional*, defaults to `"train"`):
            Split of `records` and `questions` that is used.
        both_directions (`bool`, *optional*, defaults to `True`):
            Use every pair of image and report for reading and for drawing. Otherwise for one of them, as the released code of
            LLM-CXR does; which one depends on the seed and the id.
        empty_prompt_ratio (`float`, *optional*, defaults to `0.0`):
            Share of the drawing examples whose report is left out, for classifier-free guidance (arXiv 2207.12598).
        seed (`int`, *optional*, defaults to `0`):
            Seed of all that is drawn.

    Raises:
        ValueError: a task with a ratio has no data, or data of another kind, or the filters of the stage leave none; or a share
            is not in [0, 1].
    """
    if not 0 <= empty_prompt_ratio <= 1:
        raise ValueError(f"Expected an `empty_prompt_ratio` in [0, 1], got {empty_prompt_ratio}.")
    for name, rows, columns in (
        ("records", records, {item.name for item in fields(StudyRecord)}),
        ("questions", questions, {item.name for item in fields(QuestionRecord)}),
        ("texts", texts, {"id", "messages"}),
    ):
        if rows is not None and (missing := sorted(columns - set(rows.column_names))):
            raise ValueError(f"`{name}` lack the columns {missing}; they have {rows.column_names}.")
    asked = {name for name, ratio in stage.ratios.items() if ratio > 0}
    filters = {"splits": (split,), "views": stage.views, "first_study": stage.first_study}
    tasks = {}
    if records is not None and asked & {"report", "image", "vqa"}:
        selected = _selected("records", records, sections=stage.sections, **filters)
        pairs = {"report": selected, "image": selected}
        if not both_directions:
            reading = [_is_for_reading(row["id"], seed) for row in iterate(selected, ["id"])]
            pairs = {
                "report": selected.select([i for i, reads in enumerate(reading) if reads]),
                "image": selected.select([i for i, reads in enumerate(reading) if not reads]),
            }
        tasks["report"] = Task(pairs["report"], partial(report_example, sections=stage.sections))
        draw = partial(image_example, sections=stage.sections, empty_prompt_ratio=empty_prompt_ratio)
        tasks["image"] = Task(pairs["image"], draw)
        if questions is None and "vqa" in asked:
            labelled = _selected("records", records, **filters)
            # What `labelled_study` reads, and not the codes.
            columns = ["id", "image", "labels", "patient", "source", "split", "view", "sex", "age_group"]
            answering = [i for i, row in enumerate(iterate(labelled, columns)) if has_label_questions(row)]
            tasks["vqa"] = Task(labelled.select(answering), label_vqa_example)
    if questions is not None and "vqa" in asked:
        tasks["vqa"] = Task(_selected("questions", questions, **filters), vqa_example)
    if texts is not None:
        tasks["text"] = Task(texts, text_example)
    return TaskMixture(tasks, stage.ratios, size, seed)


def permuted(index: int, size: int, key: str) -> int:
    """
    Where a pseudo-random permutation of `range(size)` puts `index`, without the permutation being made: a Feistel network
    over the next power of 4, walked until it comes back into the range.

    Args:
        index (`int`): in `[0, size)`.
        size (`int`): at least 1.
        key (`str`): chooses the permutation.
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


def _selected(name: str, rows: datasets.Dataset, **conditions) -> datasets.Dataset:
    try:
        return select_records(rows, **conditions)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error


def _block_counts(ratios: Mapping[str, float]) -> dict[str, int]:
    """Examples of each task in a block: rounded down, and the rest to the largest remainders."""
    total = sum(ratios.values())
    exact = {name: BLOCK_SIZE * ratio / total for name, ratio in ratios.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: BLOCK_SIZE - sum(counts.values())]:
        counts[name] += 1
    return counts


def _is_for_reading(name: str, seed: int) -> bool:
    return hashlib.sha256(f"{seed}-direction-{name}".encode()).digest()[0] % 2 == 0
