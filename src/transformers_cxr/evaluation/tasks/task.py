"""The base class of the evaluation tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..examples import Example, rows_by, sample_examples

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ...data.records import StudyRecord
    from ...llm_cxr.modeling_llm_cxr import LlmCxrForCausalLM
    from ...llm_cxr.processing_llm_cxr import LlmCxrProcessor
    from ..metrics.metric import Measurement
    from ..results.page import Sample
    from ..results.tables import Result
    from . import EvaluationArguments


class Task(ABC):
    """
    One task of an evaluation: its examples, the request to the model, its metrics and its samples. A task imports its
    libraries when it runs, so that a command's `--help` is immediate.

    Class attributes:
        name (`str`): name of the task in options and results.
        needs (`str`): the argument without which there is nothing to evaluate on.
        hub_task (`str`): task of the Hub for the metadata of a model card.
        main_metrics (`tuple[str, ...]`): metrics for the metadata of a model card, with wildcards such as "*_fid".
        is_comparable (`bool`): whether `compare` compares two runs, for which `metrics` must not need a model.

    Args:
        arguments ([`EvaluationArguments`]):
            Arguments of the evaluation.
    """

    name: str
    needs = "records"
    hub_task: str
    main_metrics: tuple[str, ...] = ()
    is_comparable = False

    def __init__(self, arguments: EvaluationArguments):
        self.arguments = arguments

    @abstractmethod
    def examples(self, records: Sequence[StudyRecord]) -> list[Example]:
        """Return the examples of the task, see [`~Task.sample`]."""

    def sample(self, examples: Sequence[Example], limit: int | None = None) -> list[Example]:
        """Return a random sample of at most `limit` and `arguments.limit` examples."""
        limits = [size for size in (limit, self.arguments.limit) if size is not None]
        return sample_examples(examples, min(limits, default=None), self.arguments.seed)

    @property
    def batch_size(self) -> int:
        """Examples per batch of `generate`."""
        return self.arguments.batch_size

    def settings(self, model: LlmCxrForCausalLM) -> dict[str, Any] | None:
        """Return all else that outputs depend on but examples, model and data; `None` if there are no outputs."""
        return {}

    def generate(
        self, model: LlmCxrForCausalLM, processor: LlmCxrProcessor, batch: Sequence[Example]
    ) -> list[str] | np.ndarray:
        """Return one text per example, or codes of shape `(len(batch), num_codes)` and dtype `uint16`."""
        raise NotImplementedError

    def write_outputs(self, folder: Path, outputs: list, processor: LlmCxrProcessor) -> list:
        """Write files beside the predictions, and return the outputs for `metrics` and `samples`."""
        return outputs

    def read_outputs(self, folder: Path, predictions: list) -> list:
        """Return the outputs for `metrics` and `samples` from the predictions of a finished evaluation."""
        return predictions

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

    def samples(self, examples: Sequence[Example], outputs: list, processor: LlmCxrProcessor) -> list[Sample]:
        """Return outputs beside their references for the page."""
        return []

    def plots(self, results: Sequence[Result]) -> list[tuple[str, Figure]]:
        """Return titles and plots of the results of the task."""
        from ..results.plots import interval_plots

        return interval_plots(results)


def has_report(record: StudyRecord) -> bool:
    """Return whether a record has a report of its own."""
    return bool(record.findings or record.impression)


def images_of(records: Sequence[StudyRecord]) -> list[StudyRecord]:
    """Return one record per X-ray, a question about it only if there is no other."""
    unique = {}
    for record in sorted(records, key=lambda record: bool(record.question)):
        unique.setdefault((record.source, record.id), record)
    return list(unique.values())


def all_label_derived(examples: Sequence[Example]) -> bool:
    """Return whether all references, or all reports to generate images from, were written from labels."""
    return all(example.label_derived for example in examples)


def processed_image(path: Path, processor: LlmCxrProcessor):
    """Return an X-ray as the model sees it, a PIL image."""
    pixel_values = processor.image_processor([path], return_tensors="pt").pixel_values
    return processor.image_processor.postprocess(pixel_values)[0]
