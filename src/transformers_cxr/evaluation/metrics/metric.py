"""The base class of the metrics: an `evaluate.Metric` whose slow part runs once per example."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

try:
    import evaluate
except ImportError as error:
    raise ImportError("The metrics need evaluate: `pip install transformers-cxr[evaluate]`.") from error
from datasets import Features, Image, Value

from ..results.intervals import means

IMAGE_PAIRS = Features({"predictions": Image(), "references": Image()})


@dataclass(frozen=True)
class Score:
    """
    What people should know about a score of a metric.

    title (`str`): its name in words.
    meaning (`str`): what it is, in one or two sentences.
    chance (`float`, *optional*): the score of a model that knows nothing, if 1 is that of a perfect model.
    higher_is_better (`bool`, *optional*): `None` if neither end is better.
    """

    title: str
    meaning: str
    chance: float | None = None
    higher_is_better: bool | None = True


@dataclass(frozen=True)
class Measurement:
    """
    A metric of the examples of a task, ready for a bootstrap.

    units (`Sequence`): one unit per example, in the order of the examples.
    aggregate (`Callable[[list], dict[str, float]]`): computes the scores of a selection of units.
    prefix (`str`): prefix of the names of the scores.
    distinct (`bool`): whether the scores describe a set without duplicates, see [`bootstrap`].
    """

    units: Sequence[Any]
    aggregate: Callable[[list], dict[str, float]]
    prefix: str = ""
    distinct: bool = False


class CxrMetric(evaluate.Metric):
    """
    A metric in two steps, so that a bootstrap repeats only the second:

    - `units = metric.prepare(predictions, references)` does the slow work (labels of a report, features of an image)
      and returns one picklable unit per example;
    - `metric.aggregate(units)` computes the scores of any selection of units; NaN for a score that they do not define.

    `metric.compute(predictions=..., references=...)` does both, as in any metric of `evaluate`. A subclass defines
    `prepare` and `aggregate`, explains its scores in `SCORES`, and has `FEATURES` for other inputs than texts, and its
    variants (`config_name`) in `CONFIG_NAMES`; the first is the default.
    """

    CONFIG_NAMES: tuple[str, ...] = ("default",)
    # By the names of the scores, in which "*" stands for any text.
    SCORES: Mapping[str, Score] = {}
    FEATURES = Features({"predictions": Value("string"), "references": Value("string")})
    # Whether the scores describe a set without duplicates, see `bootstrap`.
    DISTINCT = False

    def __init__(self, config_name: str | None = None, **kwargs):
        config_name = config_name or self.CONFIG_NAMES[0]
        if config_name not in self.CONFIG_NAMES:
            variants = ", ".join(self.CONFIG_NAMES)
            raise ValueError(f"{type(self).__name__} has no variant '{config_name}', only {variants}.")
        # In memory, so that no report is written to disk.
        super().__init__(config_name, **{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__, citation="", inputs_description="", features=self.FEATURES
        )

    def _compute(self, *, predictions: Sequence, references: Sequence | None = None) -> dict[str, float]:
        return self.aggregate(self.prepare(predictions, references))

    @abstractmethod
    def prepare(self, predictions: Sequence, references: Sequence | None = None) -> list[Any]:
        """Return one picklable unit per example; a few metrics have no references."""

    def aggregate(self, units: Sequence[Any]) -> dict[str, float]:
        """
        Return the scores of units of `prepare`, in any order; a unit may occur several times. By default a unit is a
        `dict` of the scores of an example, and these are their means without NaN.
        """
        return means(units)

    def measure(self, predictions: Sequence, references: Sequence | None = None, prefix: str = "") -> Measurement:
        """Return the [`Measurement`] of `prepare`."""
        return Measurement(self.prepare(predictions, references), self.aggregate, prefix, self.DISTINCT)
