"""Tables, plots and the page."""

from html.parser import HTMLParser

import PIL.Image
import pytest

from transformers_cxr.evaluation.results.intervals import Estimate
from transformers_cxr.evaluation.results.page import Sample, html_report
from transformers_cxr.evaluation.results.plots import plot
from transformers_cxr.evaluation.results.tables import Result, read_run, results_to_markdown, write_run

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
    lines = results_to_markdown(results).splitlines()
    assert "| metric | all, n = 10 (8) | kermany, n = 10 (8) |" in lines
    assert "| f1 | 0.7363 [0.7, 0.77] | 0.5 [0.5, 0.5] |" in lines and "| f1_hernia | not defined |  |" in lines
    # More groups than metrics: one row per group.
    assert "| group | n (patients) | f1 |" in lines and "| blur 2 | 10 (8) | 0.6 [0.6, 0.6] |" in lines


def test_results_are_read_as_they_were_written(results, tmp_path):
    write_run(tmp_path, {"model": "llm-cxr"}, results)
    run = read_run(tmp_path)
    assert run["model"] == "llm-cxr" and repr(run["results"]) == repr(results)
    with pytest.raises(FileNotFoundError, match="No results.json in"):
        read_run(tmp_path / "nowhere")


def test_plots_show_shares_and_their_intervals(results):
    assert list(plot([r for r in results if r.task == "robustness"])) == ["blur"]
    report = [r for r in results if r.task == "report"]
    # A single value is no plot.
    assert plot(report) == {} == plot([])
    (figure,) = plot([*report, result("report", "all", "recall", 1.0)]).values()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["f1", "recall"]


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
    sample = Sample({"X-ray": PIL.Image.new("L", (8, 8))}, {"generated": "<script>alert(1)</script> & more"})
    text = html_report({"model": "llm-cxr"}, results, [sample])
    page = Page(text)
    assert "<script" not in text and "<script>alert(1)</script> & more" in page.texts
    assert [a["src"][:22] for tag, a in page.tags if tag == "img"] == ["data:image/png;base64,"]
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == 1 and not {"script", "link", "iframe"} & set(tags)
    assert "0.7363 [0.7, 0.77]" in page.texts and "Not defined in any group: f1_hernia." in page.texts
    assert text == html_report({"model": "llm-cxr"}, results, [sample])
