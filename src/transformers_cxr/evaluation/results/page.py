"""One self-contained page of an evaluation: tables, plots, and samples beside their references."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import PIL.Image

from .tables import Result, groups_of, table_of

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; --line: #d5dae0; --soft: #f4f6f8; --text: #1c2430; --dim: #5a6675; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--text); background: #fff;
  font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 1rem 0; }
.notice { background: #fff4d6; border: 1px solid #e2c15c; border-radius: .4rem; padding: .5rem .8rem; }
.dim { color: var(--dim); font-size: .875rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; white-space: nowrap; }
th { background: var(--soft); }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--soft); }
@media (max-width: 40rem) {
  th:first-child, td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; max-width: 42vw; }
  .facts td { white-space: normal; }
}
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; }
figure svg { width: 100%; height: auto; display: block; }
.images { display: flex; gap: .4rem; }
.images div { flex: 1; max-width: 256px; font-size: .8rem; color: var(--dim); }
.images img { width: 100%; display: block; }
dl { margin: .4rem 0 0; font-size: .875rem; }
dt { color: var(--dim); }
dd { margin: 0 0 .4rem; white-space: pre-line; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="notice">Research only, not for clinical use. Reports, answers and images of the model are generated.</p>
<nav>{% for section in sections %}<a href="#{{ section.id }}">{{ section.task }}</a>{% endfor %}
{% if samples %}<a href="#samples">samples</a>{% endif %}</nav>
<div class="scroll"><table class="facts">
{% for name, value in facts %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table></div>
<p class="dim">In brackets the {{ level }} % interval by bootstrap over patients. n counts studies, with their patients in
parentheses.</p>
{% for section in sections %}
<h2 id="{{ section.id }}">{{ section.task }}</h2>
{% if section.plots %}<div class="grid">{% for name, plot in section.plots %}
<figure>{{ plot }}<figcaption class="dim">{{ name }}</figcaption></figure>{% endfor %}</div>{% endif %}
<div class="scroll"><table>
<thead><tr>{% for cell in section.header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% if section.undefined %}<p class="dim">Not defined in any group: {{ section.undefined | join(", ") }}.</p>{% endif %}
{% endfor %}
{% if samples %}<h2 id="samples">samples</h2>
<div class="grid wide">{% for sample in samples %}
<figure><div class="images">{% for name, uri in sample.images %}<div><img src="{{ uri }}" alt="{{ name }}">{{ name }}</div>
{% endfor %}</div><dl>{% for name, text in sample.texts %}<dt>{{ name }}</dt><dd>{{ text }}</dd>{% endfor %}</dl></figure>
{% endfor %}</div>{% endif %}
</body>
</html>
"""


@dataclass(frozen=True)
class Sample:
    """Images and texts that are shown together, each with what it is: `("reference", "FINDINGS: ...")`."""

    images: Sequence[tuple[str, PIL.Image.Image]]
    texts: Sequence[tuple[str, str]]


def html_report(
    title: str,
    facts: Sequence[tuple[str, str]],
    results: Sequence[Result],
    samples: Sequence[Sample] = (),
    level: float = 0.95,
) -> str:
    """
    The page: nothing in it is loaded from elsewhere, and no script runs.

    Args:
        title (`str`):
            Title of the page.
        facts (`Sequence[tuple[str, str]]`):
            What was evaluated: names and values.
        results (`Sequence[Result]`):
            The numbers.
        samples (`Sequence[Sample]`, *optional*):
            What the model gave, beside the references.
        level (`float`, *optional*, defaults to 0.95):
            Level of the intervals.

    Raises:
        ImportError: matplotlib is not installed.
    """
    sections = []
    for task in dict.fromkeys(result.task for result in results):
        defined = {r.metric for r in results if r.task == task and not math.isnan(r.estimate.value)}
        shown = [r for r in results if r.metric in defined]
        undefined = list(dict.fromkeys(r.metric for r in results if r.task == task and r.metric not in defined))
        header, rows = table_of(shown, task)
        plots = corruption_plots(results) if task == "robustness" else interval_plots(results, task)
        identifier = re.sub(r"\W+", "-", task)
        sections.append(
            {"id": identifier, "task": task, "header": header, "rows": rows, "plots": plots, "undefined": undefined}
        )
    shown = [
        {"images": [(name, _data_uri(image)) for name, image in sample.images], "texts": sample.texts}
        for sample in samples
    ]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_PAGE)
    return template.render(title=title, facts=facts, sections=sections, samples=shown, level=f"{level * 100:g}")


def interval_plots(results: Sequence[Result], task: str) -> list[tuple[str, str]]:
    """
    Plots of the shares (values in [0, 1]) of a task in its first group: a dot and its interval a metric, at most 24 a plot.
    Fewer than two make none.
    """
    group = groups_of(results, task)[0]
    own = [
        r
        for r in results
        if (r.task, r.group) == (task, group)
        and not math.isnan(r.estimate.low)
        and 0 <= r.estimate.low <= r.estimate.high <= 1
    ]
    plots = []
    for start in range(0, len(own) if len(own) > 1 else 0, 24):
        part = own[start : start + 24]
        figure = _figure(4.2, 0.6 + 0.22 * len(part))
        axes = figure.add_subplot()
        for row, result in enumerate(reversed(part)):
            axes.plot([result.estimate.low, result.estimate.high], [row, row], color="#2a6fb0", linewidth=2)
            axes.plot(result.estimate.value, row, "o", color="#123a5e", markersize=4)
        axes.set_yticks(range(len(part)), [result.metric for result in reversed(part)])
        # Room for dots at the ends.
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.7, len(part) - 0.3)
        axes.grid(axis="x", color="#e3e7ec")
        plots.append((f"{task}, {group}", _svg(figure)))
    return plots


def corruption_plots(results: Sequence[Result]) -> list[tuple[str, str]]:
    """A plot a corruption: the metrics of the task "robustness" that are shares against the level of the corruption."""
    own = [result for result in results if result.task == "robustness"]
    clean = {result.metric: result.estimate for result in own if result.group == "none 0"}
    shares = [metric for metric in clean if all(0 <= r.estimate.value <= 1 for r in own if r.metric == metric)]
    names = dict.fromkeys(result.group.rpartition(" ")[0] for result in own if result.group != "none 0")
    plots = []
    for name in names:
        figure = _figure(4.2, 2.8)
        axes = figure.add_subplot()
        for metric in shares:
            points = [(0, clean[metric])]
            points += [
                (int(r.group.rpartition(" ")[2]), r.estimate)
                for r in own
                if r.metric == metric and r.group.rpartition(" ")[0] == name
            ]
            levels, estimates = zip(*sorted(points, key=lambda point: point[0]))
            (line,) = axes.plot(levels, [e.value for e in estimates], "o-", markersize=3, label=metric)
            axes.fill_between(
                levels, [e.low for e in estimates], [e.high for e in estimates], alpha=0.15, color=line.get_color()
            )
        axes.set_xticks(range(6))
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"level of {name}")
        axes.grid(color="#e3e7ec")
        if shares:
            axes.legend(fontsize=7, framealpha=0.8, loc="lower left")
        plots.append((name, _svg(figure)))
    return plots


def _figure(width: float, height: float):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: `pip install transformers-cxr[evaluate]`.") from error
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure) -> str:
    import matplotlib

    file = io.StringIO()
    # The same figure gives the same text, without a date and with fixed ids.
    with matplotlib.rc_context({"svg.hashsalt": "transformers-cxr", "font.size": 8}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return jinja2.utils.markupsafe.Markup(svg[svg.index("<svg") :])


def _data_uri(image: PIL.Image.Image) -> str:
    file = io.BytesIO()
    image.convert("L").save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
