"""Tokens per layer, scheduled and measured; training curves."""

import math

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from famba.figures import palette, style, svg
from famba.figures.results import Results
from famba.results.tables import tokens as shown

MAX_TOOLTIPS = 60  # of a panel, at most


def tokens(results: Results) -> Figure:
    """Tokens that each layer's mixer sees: the schedule as a line, the forward pass as markers."""
    figure, grid = style.stack(len(results.models), 2.3)
    colour, marker = results.colours, results.markers
    for axes, model in zip(grid, results.models, strict=True):
        rows = {name: results.rows[path] for name, path in results.first(model).items()}
        measured = {name: row.tokens.measured[:-1] for name, row in rows.items()}
        for name, seen in measured.items():
            layers = range(len(seen))
            axes.step(layers, rows[name].tokens.scheduled[:-1], where="mid", color=colour[name], linewidth=0.9)
            axes.plot(
                layers, seen, marker[name], color=colour[name], markersize=4.2, markerfacecolor="none",
                markeredgewidth=0.9, zorder=3,  # hollow: strategies meet in many layers
            )  # fmt: skip
        for layer in range(max(map(len, measured.values()))):
            there = {name: seen[layer] for name, seen in measured.items() if layer < len(seen)}
            tooltip = [f"{results.label(name)}: {shown(number)}" for name, number in there.items()]
            svg.column_tooltip(axes, layer, 1, [f"layer {layer}", *tooltip])
        axes.set(xlabel="layer", ylabel="tokens seen by the mixer", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(results.model_label(model))
        style.tidy(axes)
    hollow = {"marker": "o", "markersize": 4.2, "markerfacecolor": "none", "linestyle": "none"}
    how = [
        Line2D([], [], color=palette.FAINT, linewidth=0.9, label="scheduled (line)"),
        Line2D([], [], color=palette.FAINT, label="measured (marker)", **hollow),  # type: ignore[arg-type]
    ]
    style.legend(figure, [*style.strategy_handles(results, "hollow"), *how])
    style.footer(figure, results, "Layers count from 0; the class token is one of the tokens.", *results.thresholds)
    return figure


def curves(results: Results) -> Figure:
    """Top-1 and training loss by epoch: mean over seeds, and the range of the seeds as a band."""
    fields = {"top1": "top-1 on test (%)", "train_loss": "training loss"}
    panels = [(field, model) for field in fields for model in results.models]
    figure, grid = style.stack(len(panels), 1.75)
    for axes, (field, model) in zip(grid, panels, strict=True):
        table = results.epochs[results.epochs["model"] == model]
        sns.lineplot(
            table, x="epoch", y=field, hue="strategy", ax=axes,
            hue_order=results.strategies, palette=results.colours, legend=False,
            errorbar=("pi", 100) if results.several_seeds else None, err_kws={"alpha": 0.2, "linewidth": 0},
        )  # fmt: skip
        means = table.pivot_table(index="epoch", columns="strategy", values=field)
        means = means[[name for name in results.strategies if name in means]]
        every = math.ceil(len(means) / MAX_TOOLTIPS)
        for epoch, line in means.iloc[::every].iterrows():
            tooltip = [f"{results.label(str(name))}: {value:.6g}" for name, value in line.dropna().items()]
            svg.column_tooltip(axes, float(str(epoch)), every, [f"epoch {epoch:g}, {fields[field]}", *tooltip])
        axes.set(ylabel=fields[field], xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
        axes.set_title(results.model_label(model))
        style.tidy(axes)
    style.legend(figure, style.strategy_handles(results, "line"))
    band = "Line: mean over seeds; band: range of the seeds." if results.several_seeds else "One seed."
    style.footer(figure, results, band, "Epochs count from 0.")
    return figure
