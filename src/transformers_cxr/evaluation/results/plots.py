"""Plots of the results of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .tables import Result

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("Plots need matplotlib: `pip install transformers-cxr[evaluate]`.") from error

METRICS_PER_PLOT = 24


def plot(results: Sequence[Result]) -> dict[str, Figure]:
    """
    Plot the metrics of a task that are in [0, 1]. If all groups are named "NAME LEVEL", as "blur 3", the plots show
    the metrics against the level, one plot per name; level 0 belongs to all. Otherwise they show values and intervals
    of the first group, at most 24 metrics in a plot, and nothing for a single metric.

    Returns:
        `dict[str, Figure]`: plots by title.
    """
    if results and all(re.fullmatch(r"\w+ \d", result.group) for result in results):
        return _curves(results)
    group = next((r.group for r in results), "")
    own = [r for r in results if r.group == group and 0 <= r.estimate.low <= r.estimate.high <= 1]
    starts = range(0, len(own) if len(own) > 1 else 0, METRICS_PER_PLOT)
    parts = [own[start : start + METRICS_PER_PLOT] for start in starts]
    return {f"{group}, plot {number} of {len(parts)}": _intervals(part) for number, part in enumerate(parts, start=1)}


def _intervals(results: Sequence[Result]) -> Figure:
    figure = Figure(figsize=(5, 0.6 + 0.2 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    estimates = [r.estimate for r in results]
    # A percentile interval may lie beside its value.
    ends = [[max(0, e.value - e.low) for e in estimates], [max(0, e.high - e.value) for e in estimates]]
    axes.errorbar([e.value for e in estimates], range(len(results)), xerr=ends, fmt="o", markersize=4)
    axes.set_yticks(range(len(results)), [r.metric for r in results], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", alpha=0.5)
    return figure


def _curves(results: Sequence[Result]) -> dict[str, Figure]:
    metrics = dict.fromkeys(r.metric for r in results)
    metrics = [m for m in metrics if all(0 <= r.estimate.value <= 1 for r in results if r.metric == m)]
    figures = {}
    for name in dict.fromkeys(r.group[:-2] for r in results if not r.group.endswith(" 0")):
        figures[name] = Figure(figsize=(5, 3), layout="constrained")
        axes = figures[name].add_subplot()
        for metric in metrics:
            curve = {
                int(r.group[-1]): r.estimate
                for r in results
                if r.metric == metric and (r.group.endswith(" 0") or r.group[:-2] == name)
            }
            levels = sorted(curve)
            (line,) = axes.plot(levels, [curve[i].value for i in levels], "o-", markersize=3, label=metric)
            low, high = ([getattr(curve[i], end) for i in levels] for end in ("low", "high"))
            axes.fill_between(levels, low, high, alpha=0.15, color=line.get_color())
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"level of {name}")
        axes.grid(alpha=0.5)
        if metrics:
            axes.legend(fontsize=7, loc="lower left")
    return figures
