"""Tables, plots and the page."""

import json
from html.parser import HTMLParser

import PIL.Image
import pytest

from transformers_cxr.evaluation.results.intervals import Difference, Estimate
from transformers_cxr.evaluation.results.page import Sample, html_report
from transformers_cxr.evaluation.results.plots import curve_plots, interval_plots
from transformers_cxr.evaluation.results.tables import (
    Result,
    differences_to_markdown,
    results_to_json,
    results_to_markdown,
)

NAN = float("nan")


def result(task, group, metric, value, low=None, high=None):
    low, high = (value if low is None else low), (value if high is None else high)
    return Result(task, group, metric, Estimate(value, low, high, units=10, patients=8))


@pytest.fixture
def results():
    found = [
        result("report", "all", "f1", 0.73634, 0.7, 0.77),
        result("report", "all", "f1_hernia", NAN),
        result("report", "kermany", "f1", 0.5),
        result("robustness", "none 0", "f1", 0.8, 0.7, 0.9),
    ]
    return found + [result("robustness", f"blur {level}", "f1", 0.8 - level / 10) for level in range(1, 6)]


def test_tables_tell_what_is_not_defined_and_the_size_of_each_group(results):
    assert json.loads(json.dumps(results_to_json(results), allow_nan=False))[1]["value"] is None
    lines = results_to_markdown(results).splitlines()
    assert "| metric | all, n = 10 (8) | kermany, n = 10 (8) |" in lines
    assert "| f1 | 0.7363 [0.7, 0.77] | 0.5 [0.5, 0.5] |" in lines and "| f1_hernia | not defined |  |" in lines
    # More groups than metrics: one row per group.
    assert "| group | n (patients) | f1 |" in lines and "| blur 2 | 10 (8) | 0.6 [0.6, 0.6] |" in lines
    table = differences_to_markdown([("report", "f1", Difference(0.1, 0.05, 0.15, 0.004))])
    assert table.splitlines()[-1] == "| report | f1 | 0.1 [0.05, 0.15] | 0.004 |"


def test_plots_show_shares_and_their_intervals(results):
    robustness = [r for r in results if r.task == "robustness"]
    assert [name for name, _ in curve_plots(robustness, "none 0")] == ["blur"]
    report = [r for r in results if r.task == "report"]
    # A single value is no plot.
    assert interval_plots(report) == [] == interval_plots([])
    ((title, figure),) = interval_plots([*report, result("report", "all", "recall", 1.0)])
    (axes,) = figure.axes
    assert title == "report, all" and [label.get_text() for label in axes.get_yticklabels()] == ["f1", "recall"]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_loads_nothing_and_escapes_outputs(results):
    sample = Sample([("X-ray", PIL.Image.new("L", (8, 8)))], [("generated", "<script>alert(1)</script> & more")])

    def render():
        plots = {"robustness": curve_plots([r for r in results if r.task == "robustness"], "none 0")}
        return html_report("Evaluation", [("model", "llm-cxr")], results, plots, [sample])

    text = render()
    page = Page(text)
    assert "<script" not in text and "<script>alert(1)</script> & more" in page.texts
    assert [a["src"][:22] for tag, a in page.tags if tag == "img"] == ["data:image/png;base64,"]
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == 1 and not {"script", "link", "iframe"} & set(tags)
    assert "0.7363 [0.7, 0.77]" in page.texts and "Not defined in any group: f1_hernia." in page.texts
    assert text == render()
