"""Accuracy against training time and against memory, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from famba.figures import palette, style
from famba.figures.results import Results
from famba.text import time_unit

FRONT: dict[str, Any] = {"color": style.FAINT, "linewidth": 0.9, "linestyle": (0, (4, 2)), "zorder": 1}


def accuracy_time(results: Results) -> Figure:
    """Top-1 of the last epoch against training time. No published point has both."""
    column, name = results.time
    unit, size = time_unit(results.seeds[column].max())
    return _scatter(results, results.seeds[column] / size, f"{name} ({unit})")


def accuracy_memory(results: Results) -> Figure:
    """Top-1 of the last epoch against peak device memory; on a CPU against saved activations, since the host's
    resident set is mostly the interpreter."""
    if results.memory_kind == "device":
        return _scatter(results, results.seeds["peak_memory_mib"] / 1024, "peak memory, device (GiB)")
    return _scatter(results, results.seeds["saved_activations_mib_per_image"], "saved activations (MiB per image)")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, accuracy) that no other point beats in one and at least equals in the other."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def _scatter(results: Results, cost: pd.Series, label: str) -> Figure:
    several = len(results.models) > 1
    figure = style.new_figure(style.FULL if several else style.COLUMN, 2.9)
    colour, marker = palette.colours(results.strategies), palette.markers(results.strategies)
    table = results.seeds.assign(cost=cost, accuracy=results.seeds["top1_last_percent"])
    for i, model in enumerate(results.models):
        axes = figure.add_subplot(1, len(results.models), i + 1)
        points = []
        for name in results.strategies:
            seeds = table[(table["model"] == model) & (table["strategy"] == name)]
            if seeds.empty:
                continue
            x, y = seeds["cost"].mean(), seeds["accuracy"].mean()
            points.append((x, y))
            if results.several_seeds:
                axes.plot(seeds["cost"], seeds["accuracy"], ".", color=colour[name], markersize=3, alpha=0.6, zorder=2)
                axes.plot(style.mean_interval(seeds["cost"]), (y, y), color=colour[name], linewidth=0.8, zorder=2)
                axes.plot((x, x), style.mean_interval(seeds["accuracy"]), color=colour[name], linewidth=0.8, zorder=2)
            axes.plot(
                x,
                y,
                marker[name],
                color=colour[name],
                markersize=6.5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                zorder=3,
            )
        axes.margins(0.08)
        front = [points[j] for j in pareto_front(points)]
        right = axes.get_xlim()[1]  # the best of the front stays the best for any larger cost
        axes.step([*(x for x, _ in front), right], [*(y for _, y in front), front[-1][1]], where="post", **FRONT)
        axes.set(xlabel=label, ylabel="top-1, last epoch (%)" if i == 0 else "", xlim=(None, right))
        style.title(axes, model)
        axes.set_title("↖ better", loc="right", fontsize=7, fontweight="normal", color=style.FAINT)
        style.tidy(axes)
    style.legend(figure, [*style.strategy_handles(results), Line2D([], [], label="Pareto front", **FRONT)])
    marks = "Marker: mean; lines: 95 % intervals over seeds (Student t); dots: seeds." if results.several_seeds else ""
    style.footer(figure, results, marks or "One seed: no interval.")
    return figure
