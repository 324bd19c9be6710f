"""Tokens per layer, scheduled and measured; training curves."""

from __future__ import annotations

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from famba.figures import palette, style
from famba.figures.results import Results


def tokens(results: Results) -> Figure:
    """Tokens that each layer's mixer sees: the schedule as a line, the forward pass as markers."""
    several = len(results.models) > 1
    figure = style.new_figure(style.FULL if several else style.COLUMN, 2.9)
    colour, marker = palette.colours(results.strategies), palette.markers(results.strategies)
    for i, model in enumerate(results.models):
        axes = figure.add_subplot(1, len(results.models), i + 1)
        for name in results.strategies:
            row = next((r for r in results.rows.values() if (r.cell.model, r.cell.strategy) == (model, name)), None)
            if row is None:
                continue
            layers = range(row.cell.architecture.depth)
            axes.step(layers, row.tokens.scheduled[:-1], where="mid", color=colour[name], linewidth=0.9, zorder=2)
            axes.plot(
                layers, row.tokens.measured[:-1], marker[name], color=colour[name], markersize=4.2,
                markerfacecolor="none", markeredgewidth=0.9, zorder=3,  # hollow: strategies meet in many layers
            )  # fmt: skip
        axes.set(xlabel="layer", ylabel="tokens seen by the mixer" if i == 0 else "", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        style.title(axes, model)
        style.tidy(axes)
    how = [
        Line2D([], [], color=style.FAINT, linewidth=0.9, label="scheduled (line)"),
        Line2D(
            [],
            [],
            color=style.FAINT,
            marker="o",
            markersize=4.2,
            markerfacecolor="none",
            linestyle="none",
            label="measured (marker)",
        ),
    ]
    style.legend(figure, [*style.strategy_handles(results, "hollow"), *how])
    style.footer(figure, results, "Layers count from 0; the class token is one of the tokens.")
    return figure


def curves(results: Results) -> Figure:
    """Top-1 and training loss by epoch: mean over seeds, and the range of the seeds as a band."""
    several = len(results.models) > 1
    figure = style.new_figure(style.FULL if several else style.COLUMN, 4.2)
    grid = figure.subplots(2, len(results.models), squeeze=False, sharex=True)
    fields = (("top1", "top-1 on test (%)"), ("train_loss", "training loss"))
    for (field, label), row in zip(fields, grid, strict=True):
        for i, (axes, model) in enumerate(zip(row, results.models, strict=True)):
            sns.lineplot(
                results.epochs[results.epochs["model"] == model], x="epoch", y=field, hue="strategy", ax=axes,
                hue_order=results.strategies, palette=palette.colours(results.strategies), legend=False,
                errorbar=("pi", 100) if results.several_seeds else None, err_kws={"alpha": 0.2, "linewidth": 0},
            )  # fmt: skip
            axes.set(ylabel=label if i == 0 else "", xlabel="epoch" if field == "train_loss" else "")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
            if field == "top1":
                style.title(axes, model)
            style.tidy(axes)
    style.legend(figure, style.strategy_handles(results, "line"))
    band = "Line: mean over seeds; band: range of the seeds." if results.several_seeds else "One seed."
    style.footer(figure, results, band, "Epochs count from 0.")
    return figure
