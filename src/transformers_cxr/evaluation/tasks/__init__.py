"""The tasks of an evaluation, one file per task. A new task is a file here and an entry in `TASKS`."""

from __future__ import annotations

from dataclasses import dataclass

from ..arguments import RunArguments, argument
from .diversity import DiversityArguments, DiversityTask
from .image import ImageArguments, ImageTask
from .language import LanguageArguments, LanguageTask
from .report import ReportArguments, ReportTask
from .robustness import RobustnessArguments, RobustnessTask
from .task import Task
from .tokenizer import TokenizerTask
from .vqa import VqaArguments, VqaTask
from .well_formed import WellFormedTask

# In the order of the results.
TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        ReportTask, ImageTask, DiversityTask, VqaTask, LanguageTask, TokenizerTask, WellFormedTask, RobustnessTask
    )
}  # fmt: skip


@dataclass
class EvaluationArguments(
    RobustnessArguments,
    LanguageArguments,
    VqaArguments,
    DiversityArguments,
    ImageArguments,
    ReportArguments,
    RunArguments,
):
    """Arguments of [`run_evaluation`]: those of a run, of each task and of the metrics."""

    tasks: list[str] = argument([], f"Tasks: {', '.join(TASKS)}. Default: all that have examples.")


__all__ = ["TASKS", "EvaluationArguments", "Task"]
