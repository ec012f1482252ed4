"""The base class, and what all metrics have in common."""

import numpy as np
import pytest

from transformers_cxr.evaluation.metrics import CxrMetric


class ExactMatch(CxrMetric):
    """Share of equal strings."""

    CONFIG_NAMES = ("cased", "uncased")

    def prepare(self, predictions, references=None):
        change = str.lower if self.config_name == "uncased" else str
        return [change(p) == change(r) for p, r in zip(predictions, references)]

    def aggregate(self, units):
        return {"exact_match": float(np.mean(units))}


def test_compute_is_prepare_and_aggregate_and_works_as_in_evaluate(tmp_path):
    predictions, references = ["a", "B", "c"], ["a", "b", "d"]
    metric = ExactMatch(cache_dir=str(tmp_path))
    assert metric.prepare(predictions, references) == [True, False, False]
    assert metric.compute(predictions=predictions, references=references) == {"exact_match": 1 / 3}
    metric.add(prediction="a", reference="a")
    metric.add_batch(predictions=["b"], references=["c"])
    assert metric.compute() == {"exact_match": 0.5}
    # No report is written to disk.
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_variant_is_the_config_name():
    assert ExactMatch().config_name == "cased"
    assert ExactMatch("uncased").compute(predictions=["B"], references=["b"]) == {"exact_match": 1.0}
    with pytest.raises(ValueError, match="no variant 'folded', only cased, uncased"):
        ExactMatch("folded")
