"""The task "report": reports of X-rays."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..arguments import argument
from ..examples import Example
from ..metrics.selection import ReportMetricArguments, report_metrics
from .task import all_label_derived, has_report, images_of
from .text import TextTask

if TYPE_CHECKING:
    from ...data.records import StudyRecord


@dataclass
class ReportArguments(ReportMetricArguments):
    """Arguments of the task "report"."""

    instruction: str = argument("", "Instruction of reports. Default: that of the checkpoint.")


class ReportTask(TextTask):
    """Reports, against the report of the record or one written from its labels."""

    name = "report"
    hub_task = "image-to-text"
    main_metrics = ("finding_balanced_accuracy", "etiology_balanced_accuracy", "f1_micro_14", "f1_macro_14", "rouge_l")

    def examples(self, records):
        return self.sample(report_examples(records, self.arguments))

    def metrics(self, examples, outputs, model=None, processor=None):
        references = [example.reference for example in examples]
        metrics = report_metrics(self.arguments, all_label_derived(examples))
        return [metric.measure(outputs, references) for metric in metrics]


def report_examples(records: Sequence[StudyRecord], arguments) -> list[Example]:
    """Return the X-rays to report on, with the report of the record or one written from its labels as reference."""
    return [
        Example.from_record(record, arguments.instruction, reference=report, label_derived=label_derived)
        for record, report, label_derived in record_reports(records, "report", arguments)
    ]


def record_reports(records: Sequence[StudyRecord], task: str, arguments) -> list[tuple[StudyRecord, str, bool]]:
    """
    Return each X-ray that has a report or labels with its report and whether that was written from labels. The wording
    of the latter depends only on the seed, `task` and the X-ray.
    """
    from ...data.conversations import label_report
    from ...reports.sections import compose_report

    reports = []
    for record in images_of(records):
        if has_report(record):
            findings = record.findings if arguments.sections != "impression" else ""
            if report := compose_report(findings, record.impression):
                reports.append((record, report, False))
        elif record.present_labels or record.absent_labels:
            rng = random.Random(f"{arguments.seed}-{task}-{record.id}")
            reports.append((record, label_report(record, rng), True))
    return reports
