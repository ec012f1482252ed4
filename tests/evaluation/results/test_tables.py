import json
import math
from html.parser import HTMLParser

import PIL.Image
import pytest

from transformers_cxr.evaluation.metrics.pneumonia import PneumoniaAgreement
from transformers_cxr.evaluation.results.intervals import Difference, Estimate
from transformers_cxr.evaluation.results.page import Sample, corruption_plots, html_report, interval_plots
from transformers_cxr.evaluation.results.tables import (
    Result,
    differences_to_markdown,
    format_estimate,
    read_run,
    results_from_json,
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


def test_json_has_null_for_what_is_not_defined_and_gives_the_results_back(results):
    text = json.dumps(results_to_json(results), allow_nan=False)
    assert json.loads(text)[1]["value"] is None
    back = results_from_json(json.loads(text))
    assert [r for r in back if r.metric == "f1"] == [r for r in results if r.metric == "f1"]
    assert math.isnan(back[1].estimate.value)


def test_a_table_says_what_is_not_defined_and_what_each_column_is_over(results):
    lines = results_to_markdown(results).splitlines()
    assert "| metric | all, n = 10 (8) | kermany, n = 10 (8) |" in lines
    assert "| f1 | 0.7363 [0.7, 0.77] | 0.5 [0.5, 0.5] |" in lines
    assert "| f1_hernia | not defined |  |" in lines
    # Many groups of one metric have a row each.
    assert "| group | n (patients) | f1 |" in lines and "| blur 2 | 10 (8) | 0.6 [0.6, 0.6] |" in lines
    assert format_estimate(Estimate(0.25, NAN, NAN, 1, 1)) == "0.25"
    table = differences_to_markdown([("report", "f1", Difference(0.1, 0.05, 0.15, 0.004))])
    assert table.splitlines()[-1] == "| report | f1 | 0.1 [0.05, 0.15] | 0.004 |"


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="output folder of a finished evaluation"):
        read_run(tmp_path)


class Page(HTMLParser):
    VOID = {"meta", "img", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_whole_escapes_what_the_model_wrote_and_loads_nothing(results):
    sample = Sample([("X-ray", PIL.Image.new("L", (8, 8)))], [("generated", "<script>alert(1)</script> & more")])
    text = html_report("Evaluation", [("model", "llm-cxr")], results, [sample])
    page = Page(text)
    assert not page.open and "<script" not in text and "<script>alert(1)</script> & more" in page.texts
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
    assert not any(tag in ("script", "link", "iframe") for tag, _ in page.tags)
    assert "0.7363 [0.7, 0.77]" in page.texts and "Not defined in any group: f1_hernia." in page.texts
    assert text == html_report("Evaluation", [("model", "llm-cxr")], results, [sample])


def test_plots_are_of_shares_with_intervals_and_of_each_corruption(results):
    assert [name for name, _ in corruption_plots(results)] == ["blur"]
    # One number is no plot.
    assert interval_plots(results, "report") == []
    (plot,) = interval_plots([*results, result("report", "all", "recall", 1.0)], "report")
    assert plot[0] == "report, all" and plot[1].startswith("<svg")
    assert interval_plots([result("tokenizer", "all", "psnr", 29.0)], "tokenizer") == []


def test_pneumonia_agreement_is_the_mean_over_the_classes():
    normal, bacterial, viral = "Normal chest X-ray.", "Bacterial pneumonia.", "Viral pneumonia."
    references = [normal, normal, normal, bacterial, viral, "A hernia."]
    predictions = [normal, normal, viral, bacterial, "No pneumonia.", normal]
    scores = PneumoniaAgreement().compute(predictions=predictions, references=references)
    # Normal 2 of 3, pneumonia 1 of 2; bacterial 1 of 1, viral 0 of 1. The hernia says neither.
    assert scores == pytest.approx(
        {"finding_balanced_accuracy": (2 / 3 + 1 / 2) / 2, "etiology_balanced_accuracy": 0.5}
    )
    only = PneumoniaAgreement().compute(predictions=[normal], references=["A hernia."])
    assert math.isnan(only["finding_balanced_accuracy"]) and math.isnan(only["etiology_balanced_accuracy"])
