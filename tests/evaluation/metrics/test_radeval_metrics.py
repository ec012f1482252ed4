import sys
import types

import pytest

from transformers_cxr.evaluation.metrics.radeval_metrics import RadEvalScore


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


def test_without_radeval_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "radeval", None)
    with pytest.raises(ImportError, match=r"'green' needs radeval: `pip install transformers-cxr\[radeval\]`"):
        RadEvalScore("green").prepare(["a"], ["b"])


def test_without_weights_the_error_says_which(monkeypatch):
    def offline(metrics, per_sample):
        raise OSError("no network")

    use_as_radeval(monkeypatch, offline)
    with pytest.raises(OSError, match="'ratescore'.*RaTE-NER-Deberta.*BioLORD"):
        RadEvalScore("ratescore").prepare(["a"], ["b"])


def test_what_radeval_cannot_import_is_said(monkeypatch):
    def broken(metrics, per_sample):
        raise ModuleNotFoundError("No module named 'RadEval'")

    use_as_radeval(monkeypatch, broken)
    with pytest.raises(ImportError, match="cannot load 'radcliq': No module named 'RadEval'"):
        RadEvalScore("radcliq").prepare(["a"], ["b"])
