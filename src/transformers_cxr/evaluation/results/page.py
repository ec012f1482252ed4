"""A self-contained HTML page of an evaluation: tables, plots, and samples beside their references."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import PIL.Image

from .tables import Result, table_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Sample:
    """Images and texts that are shown together, each with its title: `("reference", "FINDINGS: ...")`."""

    images: Sequence[tuple[str, PIL.Image.Image]]
    texts: Sequence[tuple[str, str]]


def html_report(
    title: str,
    facts: Sequence[tuple[str, str]],
    results: Sequence[Result],
    plots: Mapping[str, Sequence[tuple[str, Figure]]],
    samples: Sequence[Sample] = (),
    level: float = 0.95,
) -> str:
    """
    Return the page. It loads nothing and has no script.

    Args:
        title (`str`), facts (`Sequence[tuple[str, str]]`):
            Title of the page, and names and values that describe the evaluation.
        results (`Sequence[Result]`), plots (`Mapping[str, Sequence[tuple[str, Figure]]]`):
            The results, and titles and plots of each task.
        samples (`Sequence[Sample]`, *optional*):
            Outputs of the model beside their references.
        level (`float`, *optional*, defaults to 0.95):
            Confidence level of the intervals.
    """
    sections = []
    for task in dict.fromkeys(result.task for result in results):
        own = [result for result in results if result.task == task]
        defined = {result.metric for result in own if not math.isnan(result.estimate.value)}
        header, rows = table_of([result for result in own if result.metric in defined], task)
        undefined = dict.fromkeys(result.metric for result in own if result.metric not in defined)
        svgs = [(name, _svg(figure)) for name, figure in plots.get(task, ())]
        sections.append({"task": task, "header": header, "rows": rows, "plots": svgs, "undefined": list(undefined)})
    shown = [
        {"images": [(name, _data_uri(image)) for name, image in sample.images], "texts": sample.texts}
        for sample in samples
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, facts=facts, sections=sections, samples=shown, level=f"{level * 100:g}")


def _svg(figure: Figure) -> str:
    import matplotlib

    file = io.StringIO()
    # Fixed ids and no date, so that equal figures give equal pages.
    with matplotlib.rc_context({"svg.hashsalt": "transformers-cxr", "font.size": 8}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return jinja2.utils.markupsafe.Markup(svg[svg.index("<svg") :])


def _data_uri(image: PIL.Image.Image) -> str:
    file = io.BytesIO()
    image.convert("L").save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
