"""What every metric of this package is: an `evaluate.Metric` whose slow work a study is done once, and whose rest is quick."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

try:
    import evaluate
except ImportError as error:
    raise ImportError("The metrics need evaluate: `pip install transformers-cxr[evaluate]`.") from error
import datasets


class CxrMetric(evaluate.Metric):
    """
    A metric in two steps, so that a bootstrap over studies repeats the second alone:

    - `units = metric.prepare(predictions, references)` does what is slow (labelling a report, the features of an image) and
      gives one picklable unit a study;
    - `metric.aggregate(units)` gives the numbers of these studies, of a part or of a resample of them.

    `metric.compute(predictions=..., references=...)` is both, as with any metric of `evaluate`; `add` and `add_batch` work
    too. A subclass declares the features of its inputs, `_units` and `aggregate`.

    Args:
        config_name (`str`, *optional*):
            A variant of the metric, one of the class's `CONFIG_NAMES`; the first by default.
        **kwargs:
            Passed to `evaluate.Metric`. Unlike there `keep_in_memory` is on by default, so that no report is written to disk.

    Raises:
        ValueError: there is no such variant.
    """

    CONFIG_NAMES: tuple[str, ...] = ("default",)
    FEATURES: datasets.Features
    CITATION: str = ""

    def __init__(self, config_name: str | None = None, **kwargs):
        config_name = config_name or self.CONFIG_NAMES[0]
        if config_name not in self.CONFIG_NAMES:
            raise ValueError(
                f"{type(self).__name__} has no variant '{config_name}'; expected one of {', '.join(self.CONFIG_NAMES)}."
            )
        kwargs.setdefault("keep_in_memory", kwargs.get("num_process", 1) == 1)
        super().__init__(config_name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__, citation=self.CITATION, inputs_description="", features=self.FEATURES
        )

    def compute(self, *, predictions: Sequence | None = None, references: Sequence | None = None) -> dict[str, float]:
        """
        As in `evaluate`: the numbers of these studies, or without arguments of those that were added.

        Raises:
            ValueError: there is no study, or the two differ in length.
        """
        if predictions is not None:
            self._check(predictions, references)
        return super().compute(predictions=predictions, references=references)

    def _compute(self, *, predictions: Sequence, references: Sequence | None = None) -> dict[str, float]:
        return self.aggregate(self.prepare(predictions, references))

    def prepare(self, predictions: Sequence, references: Sequence | None = None) -> list[Any]:
        """
        Does the slow work.

        Args:
            predictions (`Sequence`):
                What the model gave, one entry a study.
            references (`Sequence`, *optional*):
                What it should have given, in the same order. A few metrics have none.

        Returns:
            `list`: a picklable unit a study, in the same order.

        Raises:
            ValueError: there is no study, or the two differ in length.
        """
        self._check(predictions, references)
        return self._units(predictions, references)

    def _check(self, predictions: Sequence, references: Sequence | None) -> None:
        if len(predictions) == 0:
            raise ValueError(f"{type(self).__name__} got no predictions; expected at least one.")
        if "references" in self.FEATURES and (references is None or len(references) != len(predictions)):
            count = "no" if references is None else len(references)
            raise ValueError(
                f"{type(self).__name__} got {len(predictions)} predictions and {count} references; expected one reference a "
                "prediction."
            )

    @abstractmethod
    def _units(self, predictions: Sequence, references: Sequence | None) -> list[Any]:
        """The unit of each study; lengths are checked."""

    @abstractmethod
    def aggregate(self, units: Sequence[Any]) -> dict[str, float]:
        """
        The numbers of these studies.

        Args:
            units (`Sequence`):
                Units of `prepare`, in any order; one may be there several times.

        Returns:
            `dict[str, float]`: NaN where a number is not defined for these studies.
        """

    def aggregate_groups(self, units: Sequence[Any], groups: Sequence[Sequence[str]]) -> dict[str, float]:
        """
        The numbers of each group of studies, such as those of a finding or a site.

        Args:
            units (`Sequence`):
                Units of `prepare`.
            groups (`Sequence[Sequence[str]]`):
                The groups that each study is in: none, one or several.

        Returns:
            `dict[str, float]`: `{name}_{group}` for each number and group.

        Raises:
            ValueError: the two differ in length.
        """
        if len(units) != len(groups):
            raise ValueError(f"Expected the groups of each of {len(units)} studies, got {len(groups)}.")
        scores = {}
        for group in sorted({group for of_study in groups for group in of_study}):
            members = [unit for unit, of_study in zip(units, groups) if group in of_study]
            scores |= {f"{name}_{group}": value for name, value in self.aggregate(members).items()}
        return scores
