"""Self-contained HTML pages of an evaluation and of a comparison: what matters first, then samples, plots, tables."""

from __future__ import annotations

import base64
import inspect
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import PIL.Image

from ..examples import Sample
from ..tasks import TASKS
from .comparison import HEADER, NO_CHANGE, Change, change_sentences, main_changes
from .headlines import NO_VERDICT, RULE, explain, full_title, headlines, task_title, verdict
from .plots import task_plots
from .sections import Table, shown_results, task_tables
from .tables import Result, format_number


def html_report(
    title: str,
    facts: Mapping[str, str],
    results: Sequence[Result],
    samples: Mapping[str, Sequence[Sample]] | None = None,
) -> str:
    """
    Return the page of an evaluation. It loads nothing and has no script.

    Args:
        title (`str`), facts (`Mapping[str, str]`):
            Heading, and names and values that say what was evaluated.
        results (`Sequence[Result]`):
            The results.
        samples (`Mapping[str, Sequence[Sample]]`, *optional*):
            Outputs of the model beside their references, by task.
    """
    shown, cards = shown_results(results), []
    for result in headlines(results, 5):
        _, score, _ = explain(result.task, result.metric)
        low, high = format_number(result.estimate.low), format_number(result.estimate.high)
        card = {"title": full_title(result.task, result.metric), "estimate": result.estimate, "chance": score.chance}
        card["interval"] = "" if math.isnan(result.estimate.low) else f"{low} to {high}"
        on = "" if result.group == "all" else f"{result.group}, "
        cards.append(card | {"on": f"{on}{result.estimate.units} examples"})
    sections = []
    for task in dict.fromkeys(result.task for result in results):
        defined = {r.metric for r in results if r.task == task and not math.isnan(r.estimate.value)}
        sections.append(
            {
                "task": task,
                "title": task_title(task),
                "description": _description(task),
                "plots": task_plots(shown, task),
                "tables": task_tables(shown, task),
                "num_undefined": len({r.metric for r in results if r.task == task} - defined),
            }
        )
    return _render(
        "page.html",
        title=title,
        facts=facts,
        verdict=verdict(results),
        no_verdict=NO_VERDICT,
        rule=RULE,
        cards=cards,
        samples={task_title(task): list(map(_shown, own)) for task, own in (samples or {}).items() if own},
        sections=sections,
    )


def _description(task: str) -> str:
    """Return the first line of the docstring of a task, without marks of code."""
    return inspect.getdoc(TASKS[task]).partition("\n")[0].replace("`", "") if task in TASKS else ""


def html_comparison(
    facts: Mapping[str, str], changes: Sequence[Change], samples: Mapping[str, Sequence[Sample]]
) -> str:
    """
    Return the page of a comparison: what changed, samples whose outputs differ, and all differences.

    Args:
        facts (`Mapping[str, str]`):
            Names and values that say what was compared.
        changes (`Sequence[Change]`), samples (`Mapping[str, Sequence[Sample]]`):
            Results of [`compare_runs`] and of [`changed_samples`].
    """
    differences = shown_results([Result(c.task, "all", c.metric, c.difference) for c in changes])
    names = {(result.task, result.metric) for result in differences}
    shown = sorted((c for c in changes if (c.task, c.metric) in names), key=lambda change: not change.is_clear)
    tables = {}
    for task in dict.fromkeys(change.task for change in changes):
        own = [change for change in shown if change.task == task]
        scores = dict(explain(task, change.metric)[:2] for change in own)
        meanings = [(score.title, name, score.meaning) for name, score in scores.items()]
        tables[task_title(task)] = Table(
            f"{len(own)} metrics", meanings, [*HEADER, "change"], [[*c.cells, c.kind] for c in own]
        )
    return _render(
        "comparison.html",
        title="Comparison of two evaluations",
        facts=facts,
        sentences=change_sentences(changes),
        no_change=NO_CHANGE,
        main=sorted(main_changes(changes), key=lambda change: not change.is_clear),
        count=len(shown),
        samples={task_title(task): list(map(_shown, own)) for task, own in samples.items() if own},
        tables=tables,
    )


def _render(template: str, **values) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"number": format_number, "percent": lambda share: f"{100 * share:.1f}%"}
    return environment.get_template(template).render(**values)


def _shown(sample: Sample) -> dict:
    images = {title: _data_uri(image) for title, image in sample.images.items()}
    return {"images": images, "texts": sample.texts, "marks": sample.marks}


def _data_uri(image: PIL.Image.Image) -> str:
    file = io.BytesIO()
    image.convert("L").save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
