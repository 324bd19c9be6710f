"""Top-1, training time and peak memory per strategy and model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from famba.figures import palette, style
from famba.figures.results import Results
from famba.text import time_unit

SEED: dict[str, Any] = {"color": style.INK, "marker": "o", "markersize": 2.2, "alpha": 0.7, "linestyle": "none"}
PREDICTED: dict[str, Any] = {  # points at its value from above the bar, whose end it must not hide
    "color": style.INK, "marker": "v", "markersize": 4, "markeredgewidth": 0, "linestyle": "none", "clip_on": False,
}  # fmt: skip
INTERVAL: dict[str, Any] = {"color": style.INK, "linewidth": 0.9}
HOURS = 3600.0


def top1(results: Results) -> Figure:
    """Top-1 per strategy: of the last epoch, or of the best one where a published number stands beside it."""
    wide = len(results.models) > 1
    figure = style.new_figure(style.FULL if wide else style.COLUMN, _height(results) + 0.75)
    published = False
    for i, model in enumerate(results.models):
        axes = figure.add_subplot(1, len(results.models), i + 1)
        numbers = [number for number in results.published[model] if number.quantity == "top1"]
        when = "best" if numbers else "last"
        _dots(axes, results, model, f"top1_{when}_percent")
        for number in numbers:
            if number.strategy in results.strategies:
                axes.plot(number.point, results.strategies.index(number.strategy), **style.PAPER_STYLE)
                published = True
        axes.set(xlabel="top-1, best epoch on test (%)" if numbers else "top-1, last epoch (%)", ylabel="")
        axes.margins(x=0.08)
        axes.tick_params(labelleft=i == 0)
        style.title(axes, model)
    paper = Line2D([], [], label=style.PAPER, **style.PAPER_STYLE)
    style.legend(figure, [*([_SEED_HANDLE] if results.several_seeds else []), *([paper] if published else [])])
    style.footer(figure, results, _marks(results, "Marker: mean"))
    return figure


def time(results: Results) -> Figure:
    """Training time, and the ratio of a step's time to the baseline's beside what the tokens predict."""
    column, name = results.time
    unit, size = time_unit(results.seeds[column].max())
    table = results.seeds.assign(shown=results.seeds[column] / size)
    published = {
        model: [number for number in numbers if (number.quantity, number.unit) == ("training_time", "hours")]
        for model, numbers in results.published.items()
    }
    figure, absolute = _absolute_and_ratio(
        results, table, f"{name} ({unit})", [("step_ratio", results.step_ratio_name)],
        further=[_PAPER_TIME] if any(published.values()) else [],
        note="Training time without evaluation and each run's first step; of a step, the median.",
    )  # fmt: skip
    for model, numbers in published.items():
        for number in numbers:
            if number.strategy in results.strategies:
                place = results.strategies.index(number.strategy)
                absolute[model].plot(number.point * HOURS / size, place, **style.PAPER_STYLE)
    return figure


def memory(results: Results) -> Figure:
    """Peak memory, and the activations saved for the backward pass relative to the baseline beside their prediction."""
    size, unit = (1024, "GiB") if results.seeds["peak_memory_mib"].max() >= 4096 else (1, "MiB")
    table = results.seeds.assign(shown=results.seeds["peak_memory_mib"] / size)
    ratios = [("saved_activations_ratio", "saved activations / baseline's")]
    if results.memory_kind == "device":
        ratios.append(("peak_memory_ratio", "peak memory / baseline's"))
    figure, _ = _absolute_and_ratio(
        results, table, f"peak memory, {results.memory_kind} ({unit})", ratios,
        note="Saved activations: what the forward pass keeps for the backward pass.",
    )  # fmt: skip
    return figure


def _absolute_and_ratio(
    results: Results,
    table: pd.DataFrame,
    label: str,
    ratios: Sequence[tuple[str, str]],
    note: str,
    further: Sequence[Line2D] = (),
) -> tuple[Figure, dict[str, Axes]]:
    """A row of panels per model: the column `shown` with its label, then each ratio with what the tokens predict."""
    figure = style.new_figure(style.FULL, _height(results) * len(results.models) + 0.75)
    grid = figure.subplots(len(results.models), 1 + len(ratios), squeeze=False, sharex="col", sharey="row")
    for row, model in zip(grid, results.models, strict=True):
        last = model == results.models[-1]
        _bars(row[0], results, table[table["model"] == model], "shown")
        row[0].set(xlabel=label if last else "", ylabel="")
        style.title(row[0], model)
        for axes, (ratio, name) in zip(row[1:], ratios, strict=True):
            seeds = results.of(model)
            if seeds[ratio].notna().any():
                _bars(axes, results, seeds.dropna(subset=[ratio]), ratio)
            predicted = seeds.groupby("strategy")["token_share"].first()
            places = [results.strategies.index(name) - 0.46 for name in predicted.index]
            axes.plot(predicted.to_numpy(), places, zorder=4, **PREDICTED)
            axes.axvline(1, color=style.FAINT, linewidth=0.6, zorder=0)
            axes.set(xlabel=name if last else "", ylabel="")
            style.tidy(axes, "x")
    for axes in grid[-1]:  # shared by the column, so only when all is drawn
        axes.set_xlim(0, None)
    handles = [Line2D([], [], label="predicted from the tokens", **PREDICTED)]
    style.legend(figure, [*handles, *([_SEED_HANDLE] if results.several_seeds else []), *further])
    style.footer(figure, results, note, _marks(results, "Bar: mean"))
    return figure, dict(zip(results.models, grid[:, 0], strict=True))


def _bars(axes: Axes, results: Results, table: pd.DataFrame, value: str) -> None:
    common: dict[str, Any] = {"data": table, "x": value, "y": "strategy", "order": results.strategies, "ax": axes}
    sns.barplot(
        **common, hue="strategy", hue_order=results.strategies, palette=palette.colours(results.strategies),
        saturation=1, width=0.62, legend=False, errorbar=style.mean_interval if results.several_seeds else None,
        err_kws=INTERVAL,
    )  # fmt: skip
    _seeds(axes, results, table, value)
    style.tidy(axes, "x")


def _dots(axes: Axes, results: Results, model: str, value: str) -> None:
    colour, marker = palette.colours(results.strategies), palette.markers(results.strategies)
    table = results.of(model)
    for place, name in enumerate(results.strategies):
        values = table.loc[table["strategy"] == name, value]
        if values.empty:
            continue
        low, high = style.mean_interval(values)
        axes.plot([low, high], [place, place], color=colour[name], linewidth=1.2, zorder=2)
        axes.plot(values.mean(), place, color=colour[name], marker=marker[name], markersize=5.5, zorder=3)
    _seeds(axes, results, table, value)
    axes.set_yticks(range(len(results.strategies)), results.strategies)
    axes.set_ylim(len(results.strategies) - 0.5, -0.5)
    style.tidy(axes)


def _seeds(axes: Axes, results: Results, table: pd.DataFrame, value: str) -> None:
    """Every seed as a point, just below the mark of their mean."""
    if results.several_seeds:
        places = table["strategy"].map({name: i + 0.2 for i, name in enumerate(results.strategies)})
        axes.plot(table[value].to_numpy(), places.to_numpy(), zorder=4, **SEED)


def _height(results: Results) -> float:
    """Inches for one row of panels with its title."""
    return 0.4 + 0.19 * max(len(results.strategies), 3)


def _marks(results: Results, mean: str) -> str:
    return (
        f"{mean}; whisker: 95 % interval over seeds (Student t)." if results.several_seeds else "One seed: no interval."
    )


_SEED_HANDLE = Line2D([], [], label="one seed", **SEED)
_PAPER_TIME = Line2D([], [], label="paper (1 seed, whole loop, A100)", **style.PAPER_STYLE)
