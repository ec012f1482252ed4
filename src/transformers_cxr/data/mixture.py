"""Mixture of the tasks of instruction tuning. Each example is a function of the seed and its index alone."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
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
from .records import StudyRecord, check_patients
from .store import check_sections, iterate, select_records

if TYPE_CHECKING:
    import datasets

TASKS = ("report", "image", "vqa", "text")
# Ratios are exact in every block of so many examples.
BLOCK_SIZE = 1000
# Repetitions of a row of average weight.
_REPEATS = 10


class TaskMixture(Dataset):
    """
    Conversations of several tasks, mixed by ratio.

    Example `i` depends only on the seed and `i`, so that training resumes anywhere. In every block of 1,000 examples
    the ratios are exact. All rows of a task are used once before any is used again, each time in a new order and with
    new instructions.

    Args:
        tasks (`Mapping[str, tuple[Sequence, Callable]]`): for each task its rows, such as a memory-mapped
            [`datasets.Dataset`], and a function that returns a conversation, given a row and a `random.Random`.
        ratios (`Mapping[str, float]`): share of each task, in any unit. A ratio of 0 leaves the task out.
        size (`int`): number of examples.
        seed (`int`, *optional*, defaults to `0`): seed of all random choices.

    Raises:
        ValueError: a task with a ratio is missing or has no rows, or its share is below 1 in 1,000.
    """

    def __init__(
        self, tasks: Mapping[str, tuple[Sequence, Callable]], ratios: Mapping[str, float], size: int, seed: int = 0
    ):
        wanted = {name: ratio for name, ratio in ratios.items() if ratio > 0}
        if not wanted:
            raise ValueError(f"Expected a ratio above 0 for at least one task, got {dict(ratios)}.")
        if missing := [name for name in wanted if name not in tasks or not len(tasks[name][0])]:
            known = sorted(name for name, (rows, _) in tasks.items() if len(rows))
            raise ValueError(
                f"The ratios name the tasks {missing}, but there are data only for {known}. Set the ratios of the "
                "others to 0 or add their data."
            )
        self.tasks = tasks
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
        slot = int(_permutation(BLOCK_SIZE, f"{self.seed}-block-{block}")[place])
        names = iter(self.counts)
        while slot >= self.counts[name := next(names)]:
            slot -= self.counts[name]
        rows, write = self.tasks[name]
        repeat, position = divmod(block * self.counts[name] + slot, len(rows))
        row = rows[int(_permutation(len(rows), f"{self.seed}-{name}-{repeat}")[position])]
        return write(row, random.Random(f"{self.seed}-{index}"))


# Settings of the stages of arXiv 2305.11490 for `stage_mixture`. It prints 63 % for the questions of stage 2; 53 %
# adds up to 100 and fits its example counts.
STAGE_1 = {"ratios": {"report": 30, "image": 30, "vqa": 20, "text": 20}}
STAGE_2 = {
    "ratios": {"report": 21, "image": 21, "vqa": 53, "text": 5},
    "views": ("AP", "PA"),
    "first_study": True,
    "sections": "impression",
}


def stage_mixture(
    records: datasets.Dataset | None = None,
    texts: Sequence[dict] | None = None,
    *,
    ratios: Mapping[str, float],
    size: int,
    split: str = "train",
    views: Sequence[str] | None = None,
    first_study: bool = False,
    sections: str = "findings+impression",
    both_directions: bool = True,
    empty_prompt_ratio: float = 0.0,
    num_questions: int = 0,
    unanswerable_ratio: float = 0.0,
    source_weights: Mapping[str, float] | None = None,
    label_weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> TaskMixture:
    """
    Return the mixture of a stage of instruction tuning, such as `**STAGE_1` and `**STAGE_2` of the paper.

    Args:
        records ([`datasets.Dataset`], *optional*): rows of [`load_records`]. Rows with a question are for the task
            "vqa", others for "report" and "image". Without questions, the labels of the records give them.
        texts (sequence of `dict`, *optional*): conversations of [`read_texts`] for the task "text".
        ratios (`Mapping[str, float]`): share of the tasks "report", "image", "vqa" and "text".
        size (`int`): number of examples.
        split (`str`, *optional*, defaults to `"train"`): split of `records` to use.
        views (`Sequence[str]`, *optional*): view positions to use, all by default.
        first_study (`bool`, *optional*, defaults to `False`): whether to use only the first study of each patient.
        sections (`str`, *optional*, defaults to `"findings+impression"`): "findings+impression" for the sections that
            a report has, or "impression".
        both_directions (`bool`, *optional*, defaults to `True`): whether each record is used for both reports and
            images. Otherwise its id and the seed choose one of the two, as in the released code of LLM-CXR.
        empty_prompt_ratio (`float`, *optional*, defaults to `0.0`): share of the "image" examples without a report,
            for classifier-free guidance (arXiv 2207.12598).
        num_questions (`int`, *optional*, defaults to `0`): number of questions, answered by the labels, in further
            turns of each "report" example, and in each "vqa" example, which has at least one.
        unanswerable_ratio (`float`, *optional*, defaults to `0.0`): share of the "report" examples with one more
            question, which the labels do not answer.
        source_weights (`Mapping[str, float]`, *optional*): weights of the datasets (`source`) in all tasks but "text",
            by default 1.0.
        label_weights (`Mapping[str, float]`, *optional*): weights of the records with a label, by default 1.0, such as
            `{"No Finding": 2.0}`. The weights of a record's labels and of its dataset are multiplied.
        seed (`int`, *optional*, defaults to `0`): seed of all random choices.

    Raises:
        ValueError: a task with a ratio has no data, no row passes the filters, a patient is in two splits, or
            `source_weights` or `label_weights` has an unknown name.
    """
    # A mixture of questions alone selects no sections.
    check_sections(sections)
    tasks = {}
    if records is not None:
        # Each file has its patients in one split; several files together may not.
        columns = ["id", "patient", "image", "source", "split"]
        for _ in check_patients(map(StudyRecord.from_row, iterate(records, columns))):
            pass
        filters = {"splits": (split,), "views": views, "first_study": first_study}
        has_question = np.array([bool(row["question"]) for row in iterate(records, ["question"])])
        images, questions = (records.select(np.flatnonzero(rows)) for rows in (~has_question, has_question))
        if len(images) and (ratios.get("report") or ratios.get("image")):
            reading = generating = select_records(images, sections=sections, **filters)
            if not both_directions:
                is_read = np.array([_is_for_reading(row["id"], seed) for row in iterate(reading, ["id"])])
                reading, generating = (reading.select(np.flatnonzero(rows)) for rows in (is_read, ~is_read))
            report = partial(
                report_conversation,
                sections=sections,
                num_questions=num_questions,
                unanswerable_ratio=unanswerable_ratio,
            )
            image = partial(image_conversation, sections=sections, empty_prompt_ratio=empty_prompt_ratio)
            tasks |= {"report": (reading, report), "image": (generating, image)}
        if ratios.get("vqa"):
            questions = select_records(questions if len(questions) else images, **filters)
            if not has_question.any():
                columns, rng = [*columns, "view", "sex", "age_group", "labels"], random.Random(seed)
                is_labeled = [
                    bool(question_answers(StudyRecord.from_row(r), rng)) for r in iterate(questions, columns)
                ]
                questions = questions.select(np.flatnonzero(is_labeled))
            tasks["vqa"] = (questions, partial(vqa_conversation, num_questions=max(num_questions, 1)))
        if source_weights or label_weights:
            source_weights, label_weights = source_weights or {}, label_weights or {}
            groups = {
                task: [(row["source"], _present_labels(row)) for row in iterate(rows, ["source", "labels"])]
                for task, (rows, _) in tasks.items()
            }
            used = [group for each in groups.values() for group in each]
            for name, weights, known in (
                ("source_weights", source_weights, {source for source, _ in used}),
                ("label_weights", label_weights, {label for _, labels in used for label in labels}),
            ):
                if unknown := sorted(set(weights) - known):
                    raise ValueError(f"`{name}` names {unknown}, and the data have {sorted(known)}.")
            tasks = {
                task: (_weighted(rows, groups[task], source_weights, label_weights), write)
                for task, (rows, write) in tasks.items()
                if len(rows)
            }
        tasks = {name: (rows, partial(_write, write)) for name, (rows, write) in tasks.items()}
    if texts is not None:
        tasks["text"] = (texts, text_conversation)
    return TaskMixture(tasks, ratios, size, seed)


def _write(conversation: Callable[[StudyRecord, random.Random], dict], row: dict, rng: random.Random) -> dict:
    return conversation(StudyRecord.from_row(row), rng)


def _is_for_reading(name: str, seed: int) -> bool:
    return hashlib.sha256(f"{seed}-direction-{name}".encode()).digest()[0] % 2 == 0


def _present_labels(row: dict) -> list[str]:
    return [label["name"] for label in row["labels"] if label["value"] == 1]


def _weighted(
    rows: datasets.Dataset,
    groups: Sequence[tuple[str, list[str]]],
    source_weights: Mapping[str, float],
    label_weights: Mapping[str, float],
) -> datasets.Dataset:
    """
    Repeat rows, by index and ten times on average, in proportion to the weights of their datasets and labels. `groups`
    has the dataset and the present labels of each row.
    """
    weights = np.array(
        [
            source_weights.get(source, 1.0) * math.prod(label_weights.get(label, 1.0) for label in labels)
            for source, labels in groups
        ]
    )
    if weights.min() < 0 or not weights.sum():
        raise ValueError(
            "The weights of X-rays must be 0 or more, and not all 0, got `source_weights` "
            f"{dict(source_weights)} and `label_weights` {dict(label_weights)}."
        )
    ends = np.floor(np.cumsum(weights) / weights.sum() * len(rows) * _REPEATS + 1e-6).astype(int)
    return rows.select(np.repeat(np.arange(len(rows)), np.diff(ends, prepend=0)))


# A sequential sampler, as in `examples/finetune_llm_cxr.py`, uses few permutations at a time.
@lru_cache(maxsize=16)
def _permutation(size: int, key: str) -> np.ndarray:
    return np.random.default_rng([*key.encode()]).permutation(size)


def _block_counts(ratios: Mapping[str, float]) -> dict[str, int]:
    """Return the number of examples of each task in a block, by the largest remainder method."""
    total = sum(ratios.values())
    exact = {name: BLOCK_SIZE * ratio / total for name, ratio in ratios.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: BLOCK_SIZE - sum(counts.values())]:
        counts[name] += 1
    return counts
