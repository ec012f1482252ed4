import sys
import types

import pytest

from transformers_cxr.evaluation.metrics.radeval_score import RadEvalScore


def use_as_radeval(monkeypatch, evaluator):
    monkeypatch.setitem(sys.modules, "radeval", types.SimpleNamespace(RadEval=evaluator))


class FakeRadEval:
    def __init__(self, metrics, per_sample):
        assert metrics == ["radgraph"] and per_sample

    def __call__(self, refs, hyps):
        return {
            "radgraph_simple": [float(r == h) for r, h in zip(refs, hyps)],
            "radgraph_complete": [len(h) / 10 for h in hyps],
        }


def test_numbers_are_means_over_reports(monkeypatch):
    use_as_radeval(monkeypatch, FakeRadEval)
    metric = RadEvalScore("radgraph")
    scores = metric.compute(predictions=["ab", "abcd"], references=["ab", "b"])
    assert scores == pytest.approx({"radgraph_simple": 0.5, "radgraph_complete": 0.3})
    units = metric.prepare(["ab", "abcd"], ["ab", "b"])
    assert metric.aggregate(units[:1]) == {"radgraph_simple": 1.0, "radgraph_complete": 0.2}


def fail(error):
    def evaluator(metrics, per_sample):
        raise error

    return evaluator


@pytest.mark.parametrize(
    ("name", "evaluator", "error", "message"),
    [
        ("green", None, ImportError, r"'green' needs radeval: `pip install transformers-cxr\[radeval\]`"),
        ("ratescore", fail(OSError("no network")), OSError, "'ratescore'.*RaTE-NER-Deberta.*BioLORD"),
        ("radcliq", fail(ModuleNotFoundError("No 'RadEval'")), ImportError, "cannot load 'radcliq': No 'RadEval'"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, name, evaluator, error, message):
    use_as_radeval(monkeypatch, evaluator)
    if evaluator is None:
        monkeypatch.setitem(sys.modules, "radeval", None)
    with pytest.raises(error, match=message):
        RadEvalScore(name).prepare(["a"], ["b"])
