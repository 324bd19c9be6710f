"""Where the similar tokens of a trained model are: all pairs of patches in some layers, and the best match in each.

Shown are the tokens of a model's first strategy: of the one that fuses none, where the experiment has it.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from famba.figures import style, svg
from famba.figures.results import Results
from famba.results.tokens import TokenRecord

_COLOURS = colormaps["cividis"].resampled(64)  # steps too fine to see; with more, the files are twice as large
ACROSS = 3  # maps beside each other
Records = Mapping[Path, TokenRecord]


def similarity(results: Results, records: Records) -> Figure:
    """Cosine similarity of all pairs of patches, mean over images, in layers from the first to the last: a row per
    model, of its first seed, not fused where the experiment has such a cell."""
    shown = [next(iter(results.first(model).values())) for model in results.models]
    lines = math.ceil(max(len(records[path].layers) for path in shown) / ACROSS)
    figure = style.new_figure((style.width() / ACROSS + 0.2) * lines * len(shown) + 1.0)
    grid = figure.subplots(lines * len(shown), ACROSS, squeeze=False)
    # the layout does not know that square maps leave it less room for the first title
    figure.get_layout_engine().set(h_pad=0.05, rect=(0, 0, 1, 0.99))  # type: ignore[union-attr, call-arg]
    lowest = min(float(records[path].similarity.min()) for path in shown)
    for block, path in zip(np.split(grid, len(shown)), shown, strict=True):
        record, model = records[path], results.rows[path].cell.model
        wide = round(record.similarity.shape[1] ** 0.5)  # patches in a row of the image
        for axes in block.flat[len(record.layers) :]:
            axes.set_axis_off()
        for axes, layer, values in zip(block.flat, record.layers, record.similarity, strict=False):
            drawn = axes.imshow(values, vmin=lowest, vmax=1, cmap=_COLOURS, interpolation="none")
            ticks = np.arange(0, len(values), wide * max(1, round(wide / 4)))
            axes.set(xticks=ticks, yticks=ticks)
            axes.tick_params(labelsize=5, length=1.5, pad=1.5, labelleft=axes in block[:, 0])
            axes.text(0.5, 1.04, f"layer {layer}", transform=axes.transAxes, ha="center", fontsize=7)
            mean = f"mean {values.mean():.4g}, lowest {values.min():.4g}"
            svg.column_tooltip(
                axes, len(values) / 2, len(values), [f"{results.model_label(model)}, layer {layer}", mean]
            )
        for axes in block[:, 0]:
            axes.set_ylabel("patch")
        block[0, 0].set_title(results.model_label(model), pad=16)  # above the layer's
    for axes in grid[-1]:
        axes.set_xlabel("patch", labelpad=1)
    bar = figure.colorbar(drawn, ax=grid, location="bottom", fraction=0.03, pad=0.01, aspect=40)
    bar.set_label("cosine similarity")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6)
    style.footer(
        figure, results, _of(results, shown), f"Mean over {records[shown[0]].seen} test images.", _METRIC,
        "Patches in the order of the scan, row by row of the image.",
    )  # fmt: skip
    return figure


def best_match(results: Results, records: Records) -> Figure:
    """By layer, how alike a token and its nearest partner are: what the matching would link, fused or not."""
    figure, grid = style.stack(len(results.models), 2.1)
    colour, marker = results.colours, results.markers
    for axes, model in zip(grid, results.models, strict=True):
        name = next(iter(results.first(model)))
        found = [records[path].best_match for path, row in results.rows.items() if row.cell.line == (model, name)]
        table = pd.concat(pd.DataFrame({"layer": range(len(values)), "best": values}) for values in found)
        sns.lineplot(
            table, x="layer", y="best", ax=axes, color=colour[name], marker=marker[name], markersize=4, label=name,
            markeredgewidth=0, errorbar=style.mean_interval if results.several_seeds else None, legend=False,
            err_kws={"alpha": 0.25, "linewidth": 0},
        )  # fmt: skip
        for layer, value in table.groupby("layer")["best"].mean().dropna().items():
            lines = [f"{results.model_label(model)}, {results.label(name)}, layer {layer}", f"mean {value:.4g}"]
            svg.column_tooltip(axes, float(str(layer)), 1, lines)
        axes.set(xlabel="layer", ylabel="best-match cosine similarity")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(-0.5, len(table["layer"].unique()) - 0.5)
        axes.set_title(results.model_label(model))
        style.tidy(axes)
    lowest = min(axes.dataLim.ymin for axes in grid)  # of the lines and their bands
    for axes in grid:
        axes.set_ylim(min(lowest - 0.02, 0.9), 1)  # a cosine's largest; small differences are to look small
    named = [results.label(next(iter(results.first(model)))) for model in results.models]
    style.legend(figure, [h for h in style.strategy_handles(results) if h.get_label() in named])
    band = results.marks("Band: 95 % interval over seeds (Student t).")
    style.footer(
        figure, results,
        "Mean over the tokens at even positions (not the class token) of the largest similarity to one at an odd "
        f"position, and over {next(iter(records.values())).seen} test images.", band, _METRIC,
    )  # fmt: skip
    return figure


_METRIC = "Similarity of the hidden states that the matching compares: after the norm of the layer, before its mixer."


def _of(results: Results, shown: list[Path]) -> str:
    """Which cells the maps are of."""
    cells = [results.rows[path].cell for path in shown]
    names = sorted({f"{results.label(cell.strategy)}, seed {cell.seed}" for cell in cells})
    return f"Trained models of {' and '.join(names)}."
