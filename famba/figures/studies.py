"""The paper's two studies of `upper`: accuracy, time and memory by the starting layer, and by the tokens per layer."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from famba.claims.paper_tables import PaperTable
from famba.claims.sweeps import SWEEPS, Sweep, sweeps
from famba.figures import palette, style, svg
from famba.figures.results import Results

_MARKER = palette.STRATEGY_MARKERS["upper"]
_UNFUSED: dict[str, Any] = {"color": palette.STRATEGY_COLOURS["baseline"], "linewidth": 1.0, "linestyle": (0, (4, 2))}
_PAPER_UNFUSED: dict[str, Any] = {"color": palette.INK, "linewidth": 0.8, "linestyle": (0, (1, 2))}
_RATIOS = {"time": "loop_ratio", "memory": "peak_memory_ratio"}  # to the unfused model, as the paper's tables have them


def drawn(results: Results) -> dict[str, Callable[[Results], Figure]]:
    """The figures of the studies that these rows are of, by name."""
    return {sweep.name: partial(_figure, sweep=sweep) for sweep in sweeps(results.strategies)}


def _figure(results: Results, sweep: Sweep) -> Figure:
    """Panels of each model: top-1, time and memory, the last two as ratios to the model without fusion."""
    tables = [table for table in results.tables if table.table == sweep.table and table.published]
    published = bool(tables)
    quantities = {
        "top1": ("top1_best_percent", "top-1, best epoch on test (%)") if published
        else ("top1_last_percent", "top-1, last epoch (%)"),
        "time": ("loop_ratio", "whole loop's time / unfused") if published
        else ("step_ratio", "time of a step / unfused"),
        "memory": ("peak_memory_ratio", "peak memory / unfused") if results.memory_kind == "device"
        else ("saved_activations_ratio", "saved activations / unfused"),
    }  # fmt: skip
    panels = [(model, quantity) for model in results.models for quantity in quantities]
    figure, grid = style.stack(len(panels), 1.75)
    for axes, (model, quantity) in zip(grid, panels, strict=True):
        measure, label = quantities[quantity]
        seeds = _settings(results, model, sweep)
        _panel(axes, results, seeds, measure)
        tooltip = _published(axes, tables, model, quantity, measure)
        _tooltips(axes, seeds, measure, label, tooltip)
        axes.set(xlabel=sweep.axis, ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.margins(0.06)
        axes.set_title(results.model_label(model))
        style.tidy(axes)
    style.legend(figure, _handles(results, published))
    mean = results.marks("Point: mean; whisker: 95 % interval over seeds (Student t).")
    style.footer(figure, results, mean, "Ratios: to the model without fusion of the same seed.")
    return figure


def _settings(results: Results, model: str, sweep: Sweep) -> pd.DataFrame:
    """The seeds of one model that fuse as the study sets, and those without fusion, whose `setting` is missing."""
    at = {
        row.cell.strategy: sweep.at(row.cell.schedule)
        for row in results.rows.values()
        if row.cell.model == model and sweep.takes(row.cell.strategy) and any(row.cell.schedule)
    }
    seeds = results.of(model)
    seeds = seeds[seeds["strategy"].isin([*at, "baseline"])]
    unfused = seeds[seeds["strategy"] == "baseline"].set_index("seed")["loop_s"]
    return seeds.assign(
        setting=seeds["strategy"].map(at), loop_ratio=seeds["loop_s"] / seeds["seed"].map(unfused)
    ).reset_index(drop=True)


def _panel(axes: Axes, results: Results, seeds: pd.DataFrame, measure: str) -> None:
    measured = seeds.dropna(subset=["setting", measure])
    if not measured.empty:
        sns.lineplot(
            measured, x="setting", y=measure, ax=axes, **_mark(results),
            markersize=5, markeredgewidth=0, linewidth=1.0, zorder=3, legend=False,
            errorbar=partial(style.mean_interval, step=results.step(measure)) if results.several_seeds else None,
            err_style="bars",
            err_kws={"linewidth": 0.8},
        )  # fmt: skip
    unfused = seeds.loc[seeds["setting"].isna(), measure].dropna()
    if not unfused.empty:
        axes.axhline(unfused.mean(), zorder=1, **_UNFUSED)


def _tooltips(axes: Axes, seeds: pd.DataFrame, measure: str, label: str, published: Mapping[float, float]) -> None:
    """The numbers at each setting: mean, seeds, and the paper's."""
    measured = seeds.dropna(subset=["setting", measure])
    groups = {float(str(at)): group.set_index("seed")[measure] for at, group in measured.groupby("setting")}
    for at in sorted({*groups, *published}):
        tooltip = [f"{at:g}: {label}"]
        if at in groups:
            each = ", ".join(f"seed {seed}: {value:.6g}" for seed, value in groups[at].items())
            tooltip += [f"mean {groups[at].mean():.6g}", each]
        if at in published:
            tooltip.append(f"paper: {published[at]:.6g}")
        svg.column_tooltip(axes, at, 1, tooltip)


def _published(axes: Axes, tables: Sequence[PaperTable], model: str, quantity: str, measure: str) -> dict[float, float]:
    """Draw the paper's points and give them by setting; of time and memory their ratio to the paper's model without
    fusion."""
    drawn: dict[float, float] = {}
    ratio = _RATIOS.get(quantity)
    for table in tables:
        lines = [line for line in table.lines if line.own == model]
        unfused = next((line.numbers[quantity].published for line in lines if line.r is None), None)
        if unfused is None or ratio not in (None, measure):
            continue
        size = unfused if ratio else 1.0
        for line in lines:
            at = line.start if table.sweep == SWEEPS[0] else line.r
            if line.r is not None and at is not None:
                drawn[at] = (line.numbers[quantity].published or 0.0) / size
        axes.axhline(unfused / size, zorder=1, **_PAPER_UNFUSED)
    if drawn:
        axes.plot([*drawn], [*drawn.values()], **style.PAPER_STYLE | {"markersize": 6})
    return drawn


def _mark(results: Results) -> dict[str, Any]:
    """Of `upper`, also where it is there under the names of its settings only."""
    colour = results.look.of_strategies("colour").get("upper", palette.STRATEGY_COLOURS["upper"])
    return {"color": colour, "marker": results.look.of_strategies("marker").get("upper", _MARKER)}


def _handles(results: Results, published: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], markersize=5, linewidth=1.0, label=results.label("upper"), **_mark(results)),
        Line2D([], [], label="no fusion", **_UNFUSED),
    ]
    if published:
        handles += [
            Line2D([], [], label=style.PAPER, **style.PAPER_STYLE | {"markersize": 6}),
            Line2D([], [], label="paper, no fusion", **_PAPER_UNFUSED),
        ]
    return handles
