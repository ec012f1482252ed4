"""The task "report": reports of X-rays."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from ...data.conversations import label_report
from ...data.records import StudyRecord, images_of
from ...reports.labeler import CHEXPERT_LABELS, POSITIVE, UNCERTAIN, RuleLabeler
from ...reports.sections import compose_report
from ...reports.statements import etiology_of_report
from ..arguments import EvaluationArguments
from ..examples import Example
from ..metrics import CheXpertLabels, Meteor, PneumoniaAccuracy, RadEvalScore, TextOverlap
from .task import TextTask, has_report


class ReportTask(TextTask):
    """Reports, against the report of the record or one written from its labels."""

    name = "report"
    hub_task = "image-to-text"
    title = "Reports"
    main_metrics = ("finding_balanced_accuracy", "etiology_balanced_accuracy", "f1_micro_14", "f1_macro_14", "rouge_l")
    scores = (
        PneumoniaAccuracy.SCORES | CheXpertLabels.SCORES | TextOverlap.SCORES | Meteor.SCORES | RadEvalScore.SCORES
    )

    def examples(self, records):
        return self.sample(
            [
                Example.from_record(record, self.arguments.instruction, reference=report, label_derived=label_derived)
                for record, report, label_derived in record_reports(records, "report", self.arguments)
            ]
        )

    def metrics(self, examples, outputs, model=None, processor=None):
        metrics = [PneumoniaAccuracy()] if all(example.label_derived for example in examples) else []
        metrics += [CheXpertLabels(self.arguments.labeler), TextOverlap(), Meteor()]
        metrics += [RadEvalScore(name) for name in self.arguments.radeval]
        references = [example.reference for example in examples]
        return [metric.measure(outputs, references) for metric in metrics]

    def marks(self, example, output):
        labels = np.isin(RuleLabeler()([output, example.reference]), (POSITIVE, UNCERTAIN))
        marks = {}
        for label, is_generated, is_reference in zip(CHEXPERT_LABELS, *labels):
            if is_generated or is_reference:
                difference = "not in the reference" if is_generated else "missed"
                is_same = bool(is_generated == is_reference)
                marks[f"{label}: {'in both' if is_same else difference}"] = is_same
        if example.label_derived and (cause := etiology_of_report(example.reference)):
            found = etiology_of_report(output)
            marks[f"{cause} cause: {'in both' if found == cause else 'missed'}".capitalize()] = found == cause
        return marks


def record_reports(
    records: Sequence[StudyRecord], task: str, arguments: EvaluationArguments
) -> Iterator[tuple[StudyRecord, str, bool]]:
    """
    Yield each X-ray that has a report or labels with its report and whether that was written from labels. The wording
    of the latter depends only on the seed, `task` and the X-ray.
    """
    for record in images_of(records):
        if has_report(record):
            findings = record.findings if arguments.sections != "impression" else ""
            if report := compose_report(findings, record.impression):
                yield record, report, False
        elif record.present_labels or record.absent_labels:
            rng = random.Random(f"{arguments.seed}-{task}-{record.id}")
            yield record, label_report(record, rng), True
