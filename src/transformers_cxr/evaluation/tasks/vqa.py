"""The task "vqa": answers to questions about X-rays."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from ...data.conversations import question_answers
from ...data.records import StudyRecord, images_of
from ...llm_cxr.generation_llm_cxr import question_about
from ...llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ...llm_cxr.processing_llm_cxr import LlmCxrProcessor
from ..examples import Example, rows_by
from ..metrics import Calibration, VqaAccuracy
from .task import TextTask


class VqaTask(TextTask):
    """Answers to the questions of the records or, if they have none, to those that their labels answer."""

    name = "vqa"
    hub_task = "visual-question-answering"
    title = "Answers"
    main_metrics = ("exact_match", "yes_no_balanced_accuracy")
    scores = VqaAccuracy.SCORES | Calibration.SCORES

    def examples(self, records):
        examples = record_questions(records) or label_derived_questions(records, self.arguments.seed)
        return self.sample(examples, self.arguments.num_questions)

    def groups(self, examples):
        types = rows_by(examples, lambda e: [f"type: {', '.join(filter(None, (e.kind, e.source)))}"] if e.kind else [])
        return super().groups(examples) | dict(sorted(types.items()))

    def metrics(self, examples, outputs, model=None, processor=None):
        measurements = [VqaAccuracy().measure(outputs, [example.reference for example in examples])]
        # A server gives no probabilities.
        if model is not None and not self.arguments.server:
            answers = np.array([_is_yes(example.reference) for example in examples])
            probabilities, size = np.full(len(examples), np.nan), self.arguments.batch_size
            rows = np.flatnonzero(~np.isnan(answers))
            for start in tqdm(range(0, len(rows), size), desc=f"{self.name}: probabilities", unit="batch"):
                batch = rows[start : start + size]
                probabilities[batch] = yes_probabilities(model, processor, [examples[row] for row in batch])
            measurements.append(Calibration().measure(probabilities, answers))
        return measurements

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
    """Return all questions that the labels of X-rays answer, in a fixed wording per X-ray."""
    examples = []
    for record in images_of(records):
        questions = question_answers(record, random.Random(f"{seed}-vqa-{record.id}"))
        for number, (kind, question, answer) in enumerate(questions):
            fields = {"id": f"{record.id}#{number}", "reference": answer, "kind": kind, "label_derived": True}
            examples.append(Example.from_record(record, question, **fields))
    return examples


def _is_yes(answer: str) -> float:
    """Return 1 for an answer that begins with yes, 0 for one that begins with no, and NaN for others."""
    word = re.match(r"(yes|no)\b", answer.lower())
    return float(word[1] == "yes") if word else float("nan")


def yes_probabilities(
    model: LlmCxrForCausalLM, processor: LlmCxrProcessor, examples: Sequence[Example]
) -> list[float]:
    """Return the probability of yes against no as the first token of the answer to each question, in [0, 1]."""
    conversations = [[question_about(example.prompt)] for example in examples]
    inputs = processor.encode_prompts(conversations, images=[[example.image_path] for example in examples])
    output = model.generate(
        **inputs.to(model.device),
        generation_mode="text",
        max_new_tokens=1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    first_ids = [processor.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No")]
    return output.logits[0][:, first_ids].float().softmax(-1)[:, 0].tolist()
