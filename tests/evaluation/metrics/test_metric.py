import pickle

import datasets
import numpy as np
import pytest

from transformers_cxr.evaluation.metrics.metric import CxrMetric


class ExactMatch(CxrMetric):
    """Share of equal strings."""

    CONFIG_NAMES = ("cased", "uncased")
    FEATURES = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})

    def _units(self, predictions, references):
        change = str.lower if self.config_name == "uncased" else str
        return [change(p) == change(r) for p, r in zip(predictions, references)]

    def aggregate(self, units):
        return {"exact_match": float(np.mean(units))}


def test_compute_is_prepare_and_aggregate():
    predictions, references = ["a", "B", "c"], ["a", "b", "d"]
    metric = ExactMatch()
    units = metric.prepare(predictions, references)
    assert units == [True, False, False]
    assert metric.compute(predictions=predictions, references=references) == metric.aggregate(units)
    assert metric.aggregate([units[0]] * 3) == {"exact_match": 1.0}


def test_the_variant_is_the_config_name_and_another_is_refused():
    assert ExactMatch().config_name == "cased"
    assert ExactMatch("uncased").compute(predictions=["B"], references=["b"]) == {"exact_match": 1.0}
    with pytest.raises(ValueError, match="no variant 'folded'; expected one of cased, uncased"):
        ExactMatch("folded")


def test_examples_can_be_added_one_by_one_and_the_metric_used_again():
    metric = ExactMatch()
    metric.add(prediction="a", reference="a")
    metric.add_batch(predictions=["b"], references=["c"])
    assert metric.compute() == {"exact_match": 0.5}
    assert metric.compute(predictions=["a"], references=["a"]) == {"exact_match": 1.0}


def test_nothing_is_written_to_disk(tmp_path):
    ExactMatch(cache_dir=str(tmp_path)).compute(predictions=["a report"], references=["a report"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("give", ["compute", "prepare"])
def test_other_lengths_are_named(give):
    with pytest.raises(ValueError, match="got 2 predictions and 3 references"):
        getattr(ExactMatch(), give)(predictions=["a", "b"], references=["a", "b", "c"])


@pytest.mark.parametrize("give", ["compute", "prepare"])
def test_no_study_and_no_references_are_refused(give):
    with pytest.raises(ValueError, match="no predictions"):
        getattr(ExactMatch(), give)(predictions=[], references=[])
    with pytest.raises(ValueError, match="1 predictions and no references"):
        getattr(ExactMatch(), give)(predictions=["a"])


def test_groups_are_aggregated_by_themselves():
    metric = ExactMatch()
    units = metric.prepare(["a", "b", "c"], ["a", "b", "d"])
    assert metric.aggregate_groups(units, [["edema"], ["edema", "mass"], ["mass"]]) == {
        "exact_match_edema": 1.0,
        "exact_match_mass": 0.5,
    }
    with pytest.raises(ValueError, match="3 studies, got 1"):
        metric.aggregate_groups(units, [["edema"]])


def test_a_metric_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(ExactMatch().prepare(["a"], ["a"]))) == [True]
