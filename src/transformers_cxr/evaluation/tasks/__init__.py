"""The tasks of an evaluation, one file per task. A new task is a file here and an entry in `TASKS`."""

from __future__ import annotations

from .diversity import DiversityTask
from .image import ImageTask
from .language import LanguageTask
from .report import ReportTask
from .robustness import RobustnessTask
from .task import Task
from .tokenizer import TokenizerTask
from .vqa import VqaTask
from .well_formed import WellFormedTask

# In the order of the results.
TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        ReportTask, ImageTask, DiversityTask, VqaTask, LanguageTask, TokenizerTask, WellFormedTask, RobustnessTask
    )
}  # fmt: skip
