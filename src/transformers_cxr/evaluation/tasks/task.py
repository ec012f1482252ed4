"""The base classes of the evaluation tasks."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from ...data.records import StudyRecord
from ...llm_cxr.generation_llm_cxr import generate_text
from ...llm_cxr.image_processing_llm_cxr import LlmCxrImageProcessor
from ...llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
from ...llm_cxr.processing_llm_cxr import LlmCxrProcessor
from ..arguments import EvaluationArguments
from ..examples import Example, Sample, rows_by
from ..metrics import Measurement, Score


class Task(ABC):
    """
    One task of an evaluation: its examples, the request to the model, its metrics and its samples.

    Class attributes:
        name (`str`): name of the task in options and results.
        title (`str`): its name in words. The first line of the docstring is its description.
        hub_task (`str`): task of the Hub for the metadata of a model card.
        main_metrics (`tuple[str, ...]`): the headline metrics, the most important first, with wildcards such as
            "*_fid".
        scores (`Mapping[str, Score]`): explanations of the metrics by their names with wildcards; the first that
            matches counts.
        settings (`tuple[str, ...]`): arguments that outputs depend on, beside model, records, sections and seed.
        runs_on_server (`bool`): whether a server can generate the outputs.
        is_comparable (`bool`): whether `compare` compares two runs, for which `metrics` must not need a model.

    Args:
        arguments ([`EvaluationArguments`]):
            Arguments of the evaluation.
    """

    name: str
    title: str
    hub_task: str
    main_metrics: tuple[str, ...] = ()
    scores: Mapping[str, Score] = {}
    settings: tuple[str, ...] = ()
    runs_on_server = True
    is_comparable = False

    def __init__(self, arguments: EvaluationArguments):
        self.arguments = arguments

    @abstractmethod
    def examples(self, records: Sequence[StudyRecord]) -> list[Example]:
        """Return the examples of the task, see [`~Task.sample`]."""

    def sample(self, examples: Sequence[Example], limit: int | None = None) -> list[Example]:
        """
        Return at most `limit` and `arguments.limit` examples in a random order that depends only on `arguments.seed`:
        a smaller sample is the beginning of a larger one.
        """
        shuffled = random.Random(self.arguments.seed).sample(list(examples), len(examples))
        return shuffled[:limit][: self.arguments.limit]

    def generate(
        self, model: LlmCxrForCausalLM, processor: LlmCxrProcessor, batch: Sequence[Example]
    ) -> list[str] | np.ndarray:
        """
        Return one text per example, or codes of shape `(len(batch), num_codes)` and dtype `uint16`. A task without
        outputs has `generate = None`.
        """
        raise NotImplementedError

    def load_outputs(
        self, folder: Path, examples: Sequence[Example], outputs: list, processor: LlmCxrProcessor | None = None
    ) -> list:
        """Return the outputs as `metrics` and `samples` read them; with a processor, write them as files first."""
        return outputs

    def groups(self, examples: Sequence[Example]) -> dict[str, list[int]]:
        """Return the rows of each group with its own results: all, and each source if there are several."""
        sources = rows_by(examples, lambda example: [example.source])
        return {"all": list(range(len(examples)))} | (dict(sorted(sources.items())) if len(sources) > 1 else {})

    @abstractmethod
    def metrics(
        self,
        examples: Sequence[Example],
        outputs: list | None,
        model: LlmCxrForCausalLM | None = None,
        processor: LlmCxrProcessor | None = None,
    ) -> list[Measurement]:
        """Measure the outputs. Without a model, measurements that need one are left out."""

    def samples(
        self, examples: Sequence[Example], outputs: list, image_processor: LlmCxrImageProcessor
    ) -> list[Sample]:
        """Return outputs beside their references for the page."""
        return []


class TextTask(Task):
    """Texts, generated greedily from the prompt of each example, or from the report instruction if it is empty."""

    settings = ("instruction", "max_new_tokens")
    is_comparable = True

    def generate(self, model, processor, batch):
        return self.answer(model, processor, batch, images=[example.image_path for example in batch])

    def answer(self, model, processor, batch, **images) -> list[str]:
        """Return one text per example about `images` or `image_codes`."""
        instruction = [example.prompt or processor.report_instruction for example in batch]
        max_new_tokens = self.arguments.max_new_tokens
        return generate_text(
            model, processor, instruction=instruction, max_new_tokens=max_new_tokens, do_sample=False, **images
        )

    def samples(self, examples, outputs, image_processor):
        samples = []
        for example, output in zip(examples, outputs):
            texts = {"prompt": example.prompt, "reference": example.reference, "generated": output}
            texts = {title: text for title, text in texts.items() if text}
            images = {"X-ray": processed_image(example.image_path, image_processor)}
            samples.append(Sample(images, texts, self.marks(example, output)))
        return samples

    def marks(self, example: Example, output: str) -> dict[str, bool]:
        """Return what is right and wrong in an output, see [`Sample`]."""
        return {}


def has_report(record: StudyRecord) -> bool:
    """Return whether a record has a report of its own."""
    return bool(record.findings or record.impression)


def processed_image(path: Path, image_processor: LlmCxrImageProcessor) -> PIL.Image.Image:
    """Return an X-ray as the model sees it."""
    return image_processor.postprocess(image_processor([path], return_tensors="pt").pixel_values)[0]
