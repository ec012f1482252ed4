"""The pages of an evaluation and of a comparison."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import PIL.Image
import pytest

from transformers_cxr.evaluation.examples import Sample
from transformers_cxr.evaluation.results import page
from transformers_cxr.evaluation.results.comparison import Change, change_summary
from transformers_cxr.evaluation.results.headlines import headlines, verdict_sentence
from transformers_cxr.evaluation.results.intervals import Estimate
from transformers_cxr.evaluation.results.page import html_comparison, html_report
from transformers_cxr.evaluation.results.plots import task_plots
from transformers_cxr.evaluation.results.sections import results_to_markdown, shown_results, task_tables
from transformers_cxr.evaluation.results.tables import Result, format_number, read_run, write_run

NAN = float("nan")


def result(task, group, metric, value, low=None, high=None, units=40):
    low, high = (value if low is None else low), (value if high is None else high)
    return Result(task, group, metric, Estimate(value, low, high, units=units, patients=8))


@pytest.fixture
def results():
    found = [
        result("report", "all", "finding_balanced_accuracy", 0.8, 0.7, 0.9, units=60),
        result("report", "kermany", "finding_balanced_accuracy", 0.93634, 0.9, 0.95),
        result("report", "site B", "finding_balanced_accuracy", 0.6, 0.5, 0.7, units=35),
        result("report", "kermany", "etiology_balanced_accuracy", 0.52, 0.4, 0.6),
    ]
    for name, value in (("micro_14", 0.7), ("pneumonia", 0.75), ("edema", 0.5), ("fracture", NAN)):
        found.append(result("report", "kermany", f"f1_{name}", value))
        found.append(result("report", "kermany", f"f1_{name}_uncertain_negative", value))
    found += [result("vqa", "all", "exact_match", 0.9, units=8), result("robustness", "none 0", "f1_micro_14", 0.8)]
    found += [result("robustness", f"blur {level}", "f1_micro_14", 0.8 - level / 10) for level in range(1, 6)]
    return [*found, result("cost", "report", "peak_mib", 1731.2, NAN, NAN)]


def test_headlines_are_chosen_in_turns_of_tasks_for_the_largest_source(results):
    assert {r.task for r in headlines(results, 2)} == {"report", "vqa"}
    found = [(r.task, r.group, r.metric) for r in headlines(results, 3)]
    assert found == [
        ("report", "kermany", "finding_balanced_accuracy"),
        ("report", "kermany", "etiology_balanced_accuracy"),
        ("vqa", "all", "exact_match"),
    ]


def test_the_verdict_needs_whole_intervals_and_enough_examples(results):
    # Eight answers are too few; the interval of the second metric of kermany is below half of the way.
    assert verdict_sentence(results) == (
        "Good: Reports: Normal or pneumonia (kermany, 0.936). "
        "Poor: Reports: Bacterial or viral (kermany, 0.52); Reports: Normal or pneumonia (site B, 0.6)."
    )
    wide = [replace(r, estimate=replace(r.estimate, low=0, high=1)) for r in results]
    assert "No headline number is clearly good or poor" in verdict_sentence(wide)


def test_a_metric_is_shown_once_and_explained_once(results):
    shown = shown_results(results)
    assert {r.metric for r in shown if r.task == "report"} == {
        "finding_balanced_accuracy", "etiology_balanced_accuracy", "f1_micro_14", "f1_pneumonia", "f1_edema"
    }  # fmt: skip
    # One value with uncertain labels as negative that differs, and it is shown.
    other = result("report", "site B", "f1_edema_uncertain_negative", 0.1)
    assert "f1_edema_uncertain_negative" in {r.metric for r in shown_results([*results, other])}
    overview, family = task_tables(shown, "report")
    assert [meaning[:2] for meaning in overview.meanings] == [
        ("Normal or pneumonia", "finding_balanced_accuracy"),
        ("Bacterial or viral", "etiology_balanced_accuracy"),
    ]
    assert family.title == "F1 of findings" and len(family.meanings) == 1
    assert [row[0] for row in family.rows] == ["micro 14", "pneumonia", "edema"]


def test_tables_name_the_size_of_each_group(results):
    lines = results_to_markdown(shown_results(results)).splitlines()
    assert "| metric | kermany, n = 40 (8) |" in lines and "| pneumonia | 0.75 [0.75, 0.75] |" in lines
    # More groups than metrics: one row per group.
    assert "| group | n (patients) | Normal or pneumonia | Bacterial or viral |" in lines
    assert "| kermany | 40 (8) | 0.936 [0.9, 0.95] | 0.52 [0.4, 0.6] |" in lines
    assert "| all | 60 (8) | 0.8 [0.7, 0.9] |  |" in lines
    assert [format_number(value) for value in (0.12345, 28.53, 1731.2, NAN)] == [
        "0.123",
        "28.5",
        "1731",
        "not defined",
    ]


def test_results_are_read_as_they_were_written(results, tmp_path):
    write_run(tmp_path, {"model": "llm-cxr"}, results)
    run = read_run(tmp_path)
    assert run["model"] == "llm-cxr" and repr(run["results"]) == repr(results)
    with pytest.raises(FileNotFoundError, match="No results.json in"):
        read_run(tmp_path / "nowhere")


def test_plots_are_per_source_per_finding_and_per_level(results):
    groups, findings = task_plots(results, "report")
    assert [name for name, _ in groups.rows] == ["kermany", "site B"] and groups.chance == 0.5
    assert [name for name, _ in findings.rows] == ["micro 14", "pneumonia", "edema"]
    (curve,) = task_plots(results, "robustness")
    assert curve.end == 5 and [name for name, _ in curve.rows] == list("012345")
    assert task_plots(results, "vqa") == task_plots(results, "cost") == []


def test_the_reliability_of_probabilities_is_a_curve_without_empty_bins(results):
    shares = {"0.05": 0.1, "0.15": NAN, "0.95": 0.8}
    results += [result("vqa", "all", f"yes_share_{at}", share) for at, share in shares.items()]
    (plot,) = task_plots(results, "vqa")
    assert plot.is_reliability and [at for at, _ in plot.rows] == ["0.05", "0.95"]
    page = html_report("x", {}, results)
    # x is the probability, y the share of yes.
    assert 'cx="6.0" cy="72.0"' in page and 'cx="114.0" cy="16.0"' in page and 'stroke-dasharray="3"' in page


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data.strip())


SAMPLE = Sample(
    {"X-ray": PIL.Image.new("L", (8, 8))},
    {"generated": "<script>alert(1)</script> & more"},
    {"Edema: missed": False, "Pneumonia: in both": True},
)


def test_the_page_loads_nothing_and_escapes_outputs(results):
    text = html_report("Evaluation of x", {"References": "written from labels"}, results, {"report": [SAMPLE]})
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert "<script" not in text and "<script>alert(1)</script> & more" in page.texts
    assert [a["src"][:22] for tag, a in page.tags if tag == "img"] == ["data:image/png;base64,"]
    assert tags.count("svg") == 1 and not {"script", "link", "iframe"} & set(tags)
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"].removeprefix("#") for tag, a in page.tags if tag == "a"} <= ids
    # What matters comes before samples, and these before tables.
    assert (
        text.index("written from labels") < text.index("Good:") < text.index("Edema: missed") < text.index("<details")
    )
    assert page.texts.count("f1_*") == 1
    assert text == html_report("Evaluation of x", {"References": "written from labels"}, results, {"report": [SAMPLE]})


def test_what_scrolls_has_the_focus_and_a_name_and_images_have_texts(results):
    page = Page(html_report("x", {}, results, {"report": [SAMPLE]}))
    scrolling = [a for _, a in page.tags if a.get("class") == "scroll"]
    assert len(scrolling) > 3 and all(
        a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in scrolling
    )
    assert all(a["alt"] for tag, a in page.tags if tag == "img")
    assert all(a.get("scope") for tag, a in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_of_texts_is_that_of_wcag_aa(scheme):
    css = (Path(page.__file__).parent / "base.html").read_text()
    colors = dict(re.findall(r"--(\w+): (#\w{6});", re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme]))
    for text in ("text", "muted", "accent", "good", "poor"):
        for background in ("page", "panel"):
            dark, light = sorted(luminance(colors[name]) for name in (text, background))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, background)


def change(metric, first, second, p_value, task="report"):
    difference = second - first
    return Change(
        task, metric, first, second, Estimate(difference, difference - 0.01, difference + 0.01, 9, 8), p_value
    )


def test_a_comparison_begins_with_what_changed():
    changes = [
        change("bleu_1", 0.3, 0.3, 1.0),
        change("finding_balanced_accuracy", 0.7, 0.9, 0.001),
        change("etiology_balanced_accuracy", 0.6, 0.8, 0.2),
        change("f1_edema", 0.5, 0.1, 0.001),
        change("exact_match", 0.9, 0.8, 0.01, task="vqa"),
    ]
    lines = change_summary(changes).splitlines()
    assert lines[0] == ("Better: Reports: Normal or pneumonia (0.7 to 0.9). Worse: Answers: Exact match (0.9 to 0.8).")
    assert sum("F1 of findings (edema)" in line for line in lines) == 1 and not any("BLEU" in line for line in lines)
    text = html_comparison({"First": "a", "Second": "b"}, changes, {"report": [SAMPLE]})
    assert text.index("Normal or pneumonia") < text.index("Edema: missed") < text.index("<details")
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>', text)
    assert rows.index("F1 of findings (edema)") < rows.index("BLEU (1)")
    assert "No headline number changed clearly." in change_summary(changes[:1])
