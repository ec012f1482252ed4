"""Plots of the results of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .tables import Result

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("Plots need matplotlib: `pip install transformers-cxr[evaluate]`.") from error


def plot(results: Sequence[Result]) -> dict[str, Figure]:
    """
    Plot the metrics of a task that are in [0, 1]. If all groups are named "NAME LEVEL", as "blur 3", the plots show
    the metrics against the level, one plot per name; level 0 belongs to all. Otherwise one plot shows values and
    intervals of the first group, if it has at least two.

    Returns:
        `dict[str, Figure]`: plots by title.
    """
    if results and all(re.fullmatch(r"\w+ \d", result.group) for result in results):
        return _curves(results)
    group = next((r.group for r in results), "")
    own = [r for r in results if r.group == group and 0 <= r.estimate.low <= r.estimate.high <= 1]
    if len(own) < 2:
        return {}
    figure = Figure(figsize=(5, 0.6 + 0.2 * len(own)), layout="constrained")
    axes = figure.add_subplot()
    estimates = [r.estimate for r in own]
    # A percentile interval may lie beside its value.
    ends = [[max(0, e.value - e.low) for e in estimates], [max(0, e.high - e.value) for e in estimates]]
    axes.errorbar([e.value for e in estimates], range(len(own)), xerr=ends, fmt="o", markersize=4)
    axes.set_yticks(range(len(own)), [r.metric for r in own], fontsize=8)
    axes.set_ylim(len(own), -1)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", alpha=0.5)
    return {group: figure}


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
