"""A self-contained HTML page of an evaluation: tables, plots, and samples beside their references."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import PIL.Image

from .plots import plot
from .tables import Result, defined_results, table_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Sample:
    """Images and texts that are shown together, by title."""

    images: Mapping[str, PIL.Image.Image]
    texts: Mapping[str, str]


def html_report(facts: Mapping[str, str], results: Sequence[Result], samples: Sequence[Sample] = ()) -> str:
    """
    Return the page. It loads nothing and has no script.

    Args:
        facts (`Mapping[str, str]`):
            Names and values that describe the evaluation.
        results (`Sequence[Result]`):
            The results.
        samples (`Sequence[Sample]`, *optional*):
            Outputs of the model beside their references.
    """
    sections = []
    for task in dict.fromkeys(result.task for result in results):
        own = [result for result in results if result.task == task]
        defined = defined_results(own)
        header, rows = table_of(defined, task)
        undefined = sorted({result.metric for result in own} - {result.metric for result in defined})
        plots = {title: _svg(figure) for title, figure in plot(own).items()}
        sections.append({"task": task, "header": header, "rows": rows, "plots": plots, "undefined": undefined})
    shown = [
        {"images": {title: _data_uri(image) for title, image in sample.images.items()}, "texts": sample.texts}
        for sample in samples
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(facts=facts, sections=sections, samples=shown)


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
