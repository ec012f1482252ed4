"""Plots of the results of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from .tables import Result

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("Plots need matplotlib: `pip install transformers-cxr[evaluate]`.") from error

METRICS_PER_PLOT = 24


def interval_plots(results: Sequence[Result]) -> list[tuple[str, Figure]]:
    """
    Plot values and intervals of all metrics in [0, 1] in the first group of a task, if there are at least two.

    Returns:
        `list[tuple[str, Figure]]`: titles and plots, with at most 24 metrics each.
    """
    group = next((r.group for r in results), "")
    own = [r for r in results if r.group == group and 0 <= r.estimate.low <= r.estimate.high <= 1]
    plots = []
    for start in range(0, len(own) if len(own) > 1 else 0, METRICS_PER_PLOT):
        part = own[start : start + METRICS_PER_PLOT]
        figure = Figure(figsize=(5, 0.6 + 0.2 * len(part)), layout="constrained")
        axes = figure.add_subplot()
        values = [r.estimate.value for r in part]
        ends = [[r.estimate.value - r.estimate.low for r in part], [r.estimate.high - r.estimate.value for r in part]]
        # A percentile interval may lie beside its value.
        axes.errorbar(
            values, range(len(part)), xerr=[[max(0, e) for e in side] for side in ends], fmt="o", markersize=4
        )
        axes.set_yticks(range(len(part)), [r.metric for r in part], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.grid(axis="x", alpha=0.5)
        plots.append((f"{part[0].task}, {group}", figure))
    return plots


def curve_plots(results: Sequence[Result], clean: str) -> list[tuple[str, Figure]]:
    """
    Plot all metrics in [0, 1] of a task whose groups are "NAME LEVEL" against the level, one plot per name. The group
    `clean` is level 0 of all names.

    Returns:
        `list[tuple[str, Figure]]`: names and plots.
    """
    metrics = dict.fromkeys(r.metric for r in results if r.group == clean)
    metrics = [m for m in metrics if all(0 <= r.estimate.value <= 1 for r in results if r.metric == m)]
    names = dict.fromkeys(r.group.split(" ")[0] for r in results if r.group != clean)
    plots = []
    for name in names:
        figure = Figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot()
        for metric in metrics:
            own = [r for r in results if r.metric == metric and (r.group == clean or r.group.split(" ")[0] == name)]
            curve = sorted(
                (int(r.group.split(" ")[1]), r.estimate.value, r.estimate.low, r.estimate.high) for r in own
            )
            levels, values, low, high = zip(*curve)
            (line,) = axes.plot(levels, values, "o-", markersize=3, label=metric)
            axes.fill_between(levels, low, high, alpha=0.15, color=line.get_color())
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"level of {name}")
        axes.grid(alpha=0.5)
        if metrics:
            axes.legend(fontsize=7, loc="lower left")
        plots.append((name, figure))
    return plots
