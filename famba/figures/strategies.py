"""The strategies, drawn from the tokens of what was really trained: a box per layer, as high as its tokens."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from famba.figures import palette, style, svg
from famba.figures.results import Results
from famba.results.row import Row
from famba.results.tables import tokens as shown

_WIDTH, _HEIGHT = 0.82, 0.62  # of a frame, in layers and in lines; the rest of a line are words
_FRAME: dict[str, Any] = {"edgecolor": "#aaaaaa", "linewidth": 0.4}


def strategies(results: Results) -> Figure:
    """Every strategy of the experiment as a row of layers. Models that share all schedules share a panel."""
    groups = _alike(results)
    lines = sum(len(rows) for _, rows in groups)
    figure = style.new_figure(0.48 * lines + 0.4 * len(groups) + 0.75)
    ratios = [len(rows) for _, rows in groups]
    grid = figure.subplots(len(groups), 1, squeeze=False, height_ratios=ratios)[:, 0]
    colour = results.colours
    for axes, (models, rows) in zip(grid, groups, strict=True):
        depth, tokens = rows[0].cell.architecture.depth, rows[0].cell.architecture.tokens
        for place, row in enumerate(rows):
            _draw(axes, place, row, colour[row.cell.strategy], results.label(row.cell.strategy))
        axes.set_xlim(-0.5, depth - 0.5)
        axes.set_ylim(len(rows) - 0.45, -0.75)
        axes.set_yticks([])
        axes.tick_params(axis="x", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        axes.spines[:].set_visible(False)
        axes.set_title(f"{', '.join(map(results.model_label, models))}: {tokens} tokens")
        axes.set_title("final  (mean)", loc="right", size=7, fontweight="normal", color=palette.FAINT)
    grid[-1].set_xlabel("layer")
    style.legend(
        figure,
        [
            Patch(facecolor=palette.FAINT, edgecolor="none", label="fuses r tokens (number: r)"),
            Patch(facecolor=palette.NOT_FUSED, edgecolor="none", label="fuses none"),
            Patch(facecolor="none", label="all tokens of the image", **_FRAME),
        ],
    )
    style.footer(
        figure,
        results,
        "Height of a bar: tokens that the layer's mixer sees; mean: over the layers, of all tokens.",
        "Layers count from 0.",
        *results.thresholds,
    )
    return figure


def _draw(axes: Axes, place: int, row: Row, colour: str, label: str) -> None:
    """One strategy: a bar per layer in a frame that is as high as all tokens."""
    tokens, (*seen, last) = row.cell.architecture.tokens, row.tokens.measured
    ground = place + 0.4  # the axis points down
    for layer, before in enumerate((tokens, *seen[:-1])):
        r = round(before - seen[layer], 6)  # of the schedule, or what is left to fuse; a mean where a threshold decides
        left, high = layer - _WIDTH / 2, _HEIGHT * seen[layer] / tokens
        fill = colour if r else palette.NOT_FUSED
        axes.add_patch(Rectangle((left, ground), _WIDTH, -high, facecolor=fill, edgecolor="none"))
        axes.add_patch(Rectangle((left, ground), _WIDTH, -_HEIGHT, facecolor="none", **_FRAME))
        if r:
            inside = high > 0.3
            axes.text(
                layer, ground - high + (0.04 if inside else -0.04), shown(r), size=min(6.0, 125 / len(seen)),
                ha="center", va="top" if inside else "bottom", color=_on(colour) if inside else palette.INK,
            )  # fmt: skip
    above: dict[str, Any] = {"y": place - 0.28, "va": "bottom", "size": 7.0}
    mean = f"{100 * sum(seen) / (len(seen) * tokens):.1f} %"
    axes.text(-_WIDTH / 2, s=label, **above)
    axes.text(len(seen) - 1 + _WIDTH / 2, s=f"{shown(last)}  ({mean})", ha="right", **above)
    fused = ", ".join(f"layer {layer}: {r}" for layer, r in enumerate(row.cell.schedule) if r) or "none"
    tooltip = [label, f"{shown(last)} tokens at the end, {mean} over the layers"]
    if row.tokens.range is not None:
        least, most = row.tokens.range[-1]
        tooltip.append(f"of an image {least} to {most}; the schedule leaves {row.tokens.scheduled[-1]} at least")
    svg.row_tooltip(axes, place, [*tooltip, f"fused{' at most' if row.tokens.range else ''}, {fused}"])


def _alike(results: Results) -> Sequence[tuple[list[str], list[Row]]]:
    """Models with the same schedules and tokens together: their names, and a row per strategy of the first of them."""
    groups: dict[tuple[object, ...], tuple[list[str], list[Row]]] = {}
    for model in results.models:
        rows = [results.rows[path] for path in results.first(model).values()]
        key = tuple((row.cell.strategy, row.cell.schedule, row.tokens.measured) for row in rows)
        groups.setdefault(key, ([], rows))[0].append(model)
    return list(groups.values())


def _on(colour: str) -> str:
    """Black or white, whichever is read better on a colour (by its relative luminance)."""
    red, green, blue = to_rgb(colour)
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.48 else "black"
