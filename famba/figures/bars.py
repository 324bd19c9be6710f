"""Top-1, training time and peak memory per strategy and model: a panel per quantity and model, a line per strategy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from famba.figures import palette, style, svg
from famba.figures.results import Measure, Results
from famba.results.anchors import line_href

SEED: dict[str, Any] = {"color": palette.INK, "marker": "o", "markersize": 2.2, "alpha": 0.7, "linestyle": "none"}
PREDICTED: dict[str, Any] = {  # points at its value from above the bar, whose end it must not hide
    "color": palette.INK, "marker": "v", "markersize": 4, "markeredgewidth": 0, "linestyle": "none", "clip_on": False,
}  # fmt: skip
_WHISKER = "whisker: 95 % interval over seeds (Student t)."
SEED_HANDLE = Line2D([], [], label="one seed", **SEED)
PAPER_TIME = "paper (1 seed, whole loop, A100)"
HOUR = 3600.0
Points = Mapping[str, tuple[float, str]]  # published values by strategy, each with its words


def top1(results: Results) -> Figure:
    """Top-1 per strategy: of the last epoch, or of the best one where a published number stands beside it."""
    figure, grid = style.stack(len(results.models), _height(results))
    published = False
    for axes, model in zip(grid, results.models, strict=True):
        numbers = [number for number in results.published[model] if number.quantity == "top1"]
        measure = (
            Measure("top1_best_percent", "top-1, best epoch on test", "%") if numbers
            else Measure("top1_last_percent", "top-1, last epoch", "%")
        )  # fmt: skip
        points = {str(n.strategy): (n.point, f"{style.PAPER}: {n.point:g} %") for n in numbers}
        published |= _panel(axes, results, model, measure, paper=points)
        axes.margins(x=0.08)
    paper = [Line2D([], [], label=style.PAPER, **style.PAPER_STYLE)] if published else []
    style.legend(figure, [*([SEED_HANDLE] if results.several_seeds else []), *paper])
    style.footer(figure, results, results.marks(f"Marker: mean; {_WHISKER}"), results.test_set)
    return figure


def time(results: Results) -> Figure:
    """Training time, and the ratio of a step's time to the baseline's beside what the tokens predict."""
    size = results.time.size
    published = {
        model: {
            str(n.strategy): (n.point * HOUR / size, f"paper: {n.says} (1 seed, whole loop)")
            for n in numbers
            if (n.quantity, n.unit) == ("training_time", "hours")
        }
        for model, numbers in results.published.items()
    }
    return _absolute_and_ratios(
        results, results.time, [results.step_ratio], published,
        "Training time without evaluation and each run's first step; of a step, the median.",
    )  # fmt: skip


def memory(results: Results) -> Figure:
    """Peak memory, and the activations saved for the backward pass relative to the baseline beside their prediction."""
    size, unit = (1024.0, "GiB") if results.seeds["peak_memory_mib"].max() >= 4096 else (1.0, "MiB")
    ratios = [Measure("saved_activations_ratio", "saved activations / baseline's", digits=3)]
    if results.memory_kind == "device":
        ratios.append(Measure("peak_memory_ratio", "peak memory / baseline's", digits=3))
    return _absolute_and_ratios(
        results, Measure("peak_memory_mib", f"peak memory, {results.memory_kind}", unit, size), ratios, {},
        "Saved activations: what the forward pass keeps for the backward pass.",
    )  # fmt: skip


def _absolute_and_ratios(
    results: Results, absolute: Measure, ratios: list[Measure], published: Mapping[str, Points], note: str
) -> Figure:
    """Bars from zero: a measure of each model, then its ratios with what the tokens predict."""
    panels = [(measure, model) for measure in (absolute, *ratios) for model in results.models]
    figure, grid = style.stack(len(panels), _height(results))
    stars = False
    first: dict[str, Axes] = {}  # of each measure, whose scale the other models share
    for axes, (measure, model) in zip(grid, panels, strict=True):
        if measure.column in first:
            axes.sharex(first[measure.column])
        first.setdefault(measure.column, axes)
        of_paper = published.get(model, {}) if measure == absolute else {}
        stars |= _panel(axes, results, model, measure, of_paper, bars=True, predicted=measure in ratios)
    for axes in first.values():  # when all is drawn
        axes.set_xlim(0, None)
    handles = [Line2D([], [], label="predicted from the tokens", **PREDICTED)]
    paper = [Line2D([], [], label=PAPER_TIME, **style.PAPER_STYLE)] if stars else []
    style.legend(figure, [*handles, *([SEED_HANDLE] if results.several_seeds else []), *paper])
    style.footer(figure, results, note, results.marks(f"Bar: mean; {_WHISKER}"))
    return figure


def _panel(
    axes: Axes, results: Results, model: str, measure: Measure, paper: Points,
    bars: bool = False, predicted: bool = False,
) -> bool:  # fmt: skip
    """A line per strategy: bar or marker of the mean, its interval, the seeds. Whether a published value is drawn."""
    colour, marker = results.colours, results.markers
    shares = results.of(model).groupby("strategy")["token_share"].first()
    stars = False
    for place, name in enumerate(results.strategies):
        if name not in shares:
            continue
        values, tooltip = results.values(model, name, measure), results.tooltip(model, name, measure)
        if not values.empty:
            ends = style.mean_interval(values, results.step(measure.column) / measure.size)
            if bars:
                axes.barh(place, values.mean(), 0.62, color=colour[name], edgecolor="none")
            else:
                axes.plot(values.mean(), place, color=colour[name], marker=marker[name], markersize=5.5, zorder=3)
            axes.plot(ends, (place, place), color=palette.INK if bars else colour[name], linewidth=1.0, zorder=2.5)
            _print_value(axes, place, f"{values.mean():,.{measure.digits}f}")
            if results.several_seeds:  # just below the mark of their mean
                axes.plot(values.to_numpy(), np.full(len(values), place + 0.2), zorder=4, **SEED)
        if predicted:
            axes.plot(shares[name], place - 0.46, zorder=4, **PREDICTED)
            tooltip.append(f"predicted from the tokens: {shares[name]:.6g}")
        if name in paper:
            axes.plot(paper[name][0], place, **style.PAPER_STYLE)
            tooltip.append(paper[name][1])
            stars = True
        svg.row_tooltip(axes, place, tooltip, line_href(model, name))
    if predicted:
        axes.axvline(1, color=palette.FAINT, linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(results.strategies)), [results.label(name) for name in results.strategies])
    axes.set_ylim(len(results.strategies) - 0.5, -0.5)
    axes.set_xlabel(measure.label)
    axes.set_title(results.model_label(model))
    style.tidy(axes, "x")
    return stars


def _print_value(axes: Axes, place: float, text: str) -> None:
    """A number right of the panel."""
    axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", size=6.5, annotation_clip=False)


def _height(results: Results) -> float:
    """Inches of a panel with its title and its label."""
    return 0.62 + style.LINE * max(len(results.strategies), 3)
