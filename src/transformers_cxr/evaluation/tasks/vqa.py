"""The task "vqa": answers to questions about X-rays."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from ...data.conversations import question_answers
from ...data.records import StudyRecord
from ..examples import Example, rows_by
from ..metrics import VqaAccuracy
from .task import TextTask, has_report, images_of


class VqaTask(TextTask):
    """Answers to the questions of the records or, if they have none, to those that their labels answer."""

    name = "vqa"
    hub_task = "visual-question-answering"
    title = "Answers"
    main_metrics = ("exact_match", "yes_no_balanced_accuracy")
    scores = VqaAccuracy.SCORES

    def examples(self, records):
        examples = record_questions(records) or label_derived_questions(records, self.arguments.seed)
        return self.sample(examples, self.arguments.num_questions)

    def groups(self, examples):
        types = rows_by(examples, lambda e: [f"type: {', '.join(filter(None, (e.kind, e.source)))}"] if e.kind else [])
        return super().groups(examples) | dict(sorted(types.items()))

    def metrics(self, examples, outputs, model=None, processor=None):
        return [VqaAccuracy().measure(outputs, [example.reference for example in examples])]

    def marks(self, example, output):
        (scores,) = VqaAccuracy().prepare([output], [example.reference])
        return {"as the reference": True} if scores["exact_match"] else {"not as the reference": False}


def record_questions(records: Sequence[StudyRecord]) -> list[Example]:
    """Return the questions of the records."""
    counts, examples = Counter(), []
    for record in records:
        if record.question:
            id_, kind = f"{record.id}#{counts[record.id]}", record.question_type
            counts[record.id] += 1
            examples.append(Example.from_record(record, record.question, id=id_, reference=record.answer, kind=kind))
    return examples


def label_derived_questions(records: Sequence[StudyRecord], seed: int) -> list[Example]:
    """Return all questions that the labels of X-rays without a report answer, in a fixed wording per X-ray."""
    examples = []
    for record in images_of(records):
        questions = [] if has_report(record) else question_answers(record, random.Random(f"{seed}-vqa-{record.id}"))
        for number, (kind, question, answer) in enumerate(questions):
            fields = {"id": f"{record.id}#{number}", "reference": answer, "kind": kind, "label_derived": True}
            examples.append(Example.from_record(record, question, **fields))
    return examples
