"""Plots of the results of an evaluation, as data that the pages show in HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..tasks import TASKS
from .headlines import explain, main_results, metric_title, sources_of
from .intervals import Estimate
from .tables import Result


@dataclass(frozen=True)
class Plot:
    """
    Values in [0, 1] with their intervals.

    title (`str`): what it shows.
    rows (`list[tuple[str, Estimate]]`): the values by name, or by number for a curve.
    end (`float`, *optional*): where the numbers of a curve end; they begin at 0.
    chance (`float`, *optional*): value by chance.
    is_reliability (`bool`): whether the numbers of the curve are the perfect values.
    """

    title: str
    rows: list[tuple[str, Estimate]]
    end: float | None = None
    chance: float | None = None
    is_reliability: bool = False


def task_plots(results: Sequence[Result], task: str) -> list[Plot]:
    """
    Return the plots of a task: of the metrics with a value by chance, the first headline metric by group, and the
    first family, such as the F1 of each finding, for each source; and the reliability of probabilities for each
    source. If all groups are named "NAME LEVEL", as "blur 3", a plot is the curve of the first metric over the levels
    of a name; level 0 belongs to all.
    """
    own = [result for result in results if result.task == task and _is_share(result.estimate)]
    if not own or task not in TASKS:
        return []
    if all(re.fullmatch(r"\w+ \d", result.group) for result in own):
        return _curves([result for result in own if result.metric == own[0].metric])
    plots, sources = [], sources_of(results, task)
    main = [r.metric for r in main_results(own, task, sources[0]) if explain(task, r.metric)[1].chance is not None]
    for metric in main[:1]:
        rows = [(r.group, r.estimate) for r in own if r.metric == metric and r.group != "all"]
        if len(rows) > 1:
            plots.append(Plot(f"{metric_title(task, metric)} by group", rows, chance=explain(task, metric)[1].chance))
    families: dict[str, list[Result]] = {}
    for result in own:
        pattern, score, _ = explain(task, result.metric)
        if "*" in pattern and score.chance is not None and not result.metric.endswith("_uncertain_negative"):
            families.setdefault(pattern, []).append(result)
    for family in list(families.values())[:1]:
        _, score, _ = explain(task, family[0].metric)
        for source in sources:
            rows = [(explain(task, r.metric)[2], r.estimate) for r in family if r.group == source]
            if len(rows) > 2:
                title = score.title if source == "all" else f"{score.title}, {source}"
                plots.append(Plot(title, rows, chance=score.chance))
    for source in sources:
        shares = [r for r in own if r.group == source and r.metric.startswith("yes_share_")]
        if len(shares) > 1:
            title = explain(task, shares[0].metric)[1].title
            rows = [(explain(task, share.metric)[2], share.estimate) for share in shares]
            plots.append(Plot(title if source == "all" else f"{title}, {source}", rows, end=1, is_reliability=True))
    return plots


def _curves(results: Sequence[Result]) -> list[Plot]:
    title = metric_title(results[0].task, results[0].metric)
    start = [("0", r.estimate) for r in results if r.group.endswith(" 0")]
    curves: dict[str, list[tuple[str, Estimate]]] = {}
    for result in results:
        name, level = result.group.split(" ")
        if level != "0":
            curves.setdefault(name, list(start)).append((level, result.estimate))
    chance = explain(results[0].task, results[0].metric)[1].chance
    plots = [Plot(f"{title}, {name}", rows, end=5, chance=chance) for name, rows in curves.items()]
    return [plot for plot in plots if len(plot.rows) > 1]


def _is_share(estimate: Estimate) -> bool:
    return 0 <= estimate.low <= estimate.high <= 1 and 0 <= estimate.value <= 1
