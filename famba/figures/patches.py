"""Which patches of an image a trained model has fused, layer by layer and strategy by strategy."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba, to_rgba_array
from matplotlib.figure import Figure

from famba.config import Architecture
from famba.figures import style
from famba.figures.results import Results
from famba.results.tokens import TokenRecord

# Tol's muted scheme: distinct for every kind of colour vision, and none of a strategy's colours
COLOURS = ("#88CCEE", "#CC6677", "#DDCC77", "#117733", "#332288", "#AA4499", "#44AA99", "#999933", "#882255")
SMALLER = "#AAAAAA"
DROPPED = "#000000"
OVER = 0.65  # opacity over the image
LAYERS = 8  # that are shown, of every strategy the same


def fused_patches(results: Results, records: Mapping[Path, TokenRecord]) -> Figure:
    """A row per model and fusing strategy: the image, then its patches after each of some layers, a colour per group.

    One test image where there are several models, two where there is one. Of the first seed.
    """
    examples = 1 if len(results.models) > 1 else 2
    rows = [(example, path) for model in results.models for example in range(examples) for path in _of(results, model)]
    if not rows:
        figure = style.new_figure(1.0)
        figure.text(0.5, 0.6, "No strategy of this experiment fuses tokens.", ha="center", fontsize=8)
        style.footer(figure, results)
        return figure
    side = (style.width() - 0.2) / (LAYERS + 1)
    blocks = len(results.models) * examples
    figure = style.new_figure((side + 0.09) * len(rows) + 0.4 * blocks + 0.5)
    grid = figure.subplots(len(rows), LAYERS + 1, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.03, wspace=0, hspace=0)  # type: ignore[union-attr, call-arg]
    before = None
    for line, (example, path) in zip(grid, rows, strict=True):
        cell, record = results.rows[path].cell, records[path]
        first = before != (cell.model, example)
        before = cell.model, example
        if first:
            line[0].set_title(" ", pad=14)  # room above the layers for a title that is wider than its column
            where = f"{results.model_label(cell.model)}, test image {example}"
            line[0].annotate(where, (0, 1), (0, 12.5), "axes fraction", "offset points", weight="bold").set_in_layout(
                False
            )
        _draw_row(line, record, example, cell.architecture, first)
        line[0].set_ylabel(results.label(cell.strategy), fontsize=5, labelpad=2)
    style.footer(
        figure, results, f"Models of seed {_first_seed(results)}.",
        "Above the images: the layer; below: the tokens left, class token included.",
        "Fused patches have the colour of the group that they end in, "
        f"one for each of the {len(COLOURS)} largest; smaller ones are grey. White lines part groups. "
        "Dropped patches are black.",
    )  # fmt: skip
    return figure


def shown_layers(depth: int) -> list[int]:
    """Layers that get a panel: from the first to the last, at most `LAYERS`."""
    return [int(layer) for layer in np.unique(np.linspace(0, depth - 1, LAYERS).round())]


def group_colours(groups: np.ndarray) -> np.ndarray:
    """Groups of a set of patches by layer (depth, P) -> RGBA of each patch by layer (depth, P, 4).

    A patch that stands alone is transparent, a dropped one black. A group has the colour of the one that it will have
    joined at the end, so that a patch never changes its colour from layer to layer.
    """
    final, sizes = np.unique(groups[-1], return_counts=True)
    dropped = groups.shape[1]
    by_size = sorted(zip(final, sizes, strict=True), key=lambda g: -g[1])
    largest = [group for group, size in by_size if size > 1 and group != dropped]
    rank = {group: min(place, len(COLOURS)) for place, group in enumerate(largest)}
    of_patch = to_rgba_array([*COLOURS, SMALLER])[[rank.get(group, len(COLOURS)) for group in groups[-1]]]
    colours = np.tile(of_patch, (len(groups), 1, 1))
    colours[..., 3] = OVER * _fused(groups)
    colours[groups == dropped] = to_rgba(DROPPED)
    return colours


def _draw_row(line: np.ndarray, record: TokenRecord, example: int, shape: Architecture, first: bool) -> None:
    """The image and its groups after some layers; column titles where it is the first of a block."""
    image, groups = record.images[example], record.groups[example]
    layers, colours, fused = shown_layers(shape.depth), group_colours(groups), _fused(groups)
    wide = round(groups.shape[1] ** 0.5)  # patches in a row of the image
    stride = shape.stride or shape.patch_size
    low = (stride - shape.patch_size) / 2 / stride - 0.5  # patches are drawn a stride apart, and centred
    high = low + shape.img_size / stride
    grey = image.mean(axis=2) / 255 * 0.85 + 0.15  # colour is the groups' alone
    for axes in line:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes in line[len(layers) + 1 :]:
        axes.set_axis_off()
    line[0].imshow(image, extent=(low, high, high, low), interpolation="none")
    line[0].set_xlabel(f"{groups.shape[1] + 1}", fontsize=6, labelpad=1.5)
    for axes, layer in zip(line[1:], layers, strict=False):
        axes.imshow(grey, vmin=0, vmax=1, cmap="gray", extent=(low, high, high, low), interpolation="none")
        axes.imshow(colours[layer].reshape(wide, wide, 4), interpolation="none")
        axes.set(xlim=(low, high), ylim=(high, low))
        _borders(axes, groups[layer].reshape(wide, wide), fused[layer].reshape(wide, wide))
        axes.set_xlabel(f"{record.tokens(example, layer)}", fontsize=6, labelpad=1.5)
        if first:
            axes.set_title(f"{layer}", fontsize=6.5, fontweight="normal", loc="center", pad=2)


def _borders(axes: Axes, groups: np.ndarray, fused: np.ndarray) -> None:
    """Lines between neighbouring patches of different groups, where one of the two is fused."""
    x, y = [], []  # of one line with gaps, which is a quarter of the file that a line each would be
    for (row, column), group in np.ndenumerate(groups):
        left, top = column - 0.5, row - 0.5
        if column and groups[row, column - 1] != group and (fused[row, column] or fused[row, column - 1]):
            x += [left, left, np.nan]
            y += [top, top + 1, np.nan]
        if row and groups[row - 1, column] != group and (fused[row, column] or fused[row - 1, column]):
            x += [left, left + 1, np.nan]
            y += [top, top, np.nan]
    axes.plot(x, y, color="white", linewidth=0.5, solid_capstyle="projecting")


def _fused(groups: np.ndarray) -> np.ndarray:
    """(depth, P) whether each patch shares its group with another."""
    return np.stack([np.bincount(layer, minlength=groups.shape[1] + 1)[layer] > 1 for layer in groups.astype(int)])


def _first_seed(results: Results) -> int:
    return min(row.cell.seed for row in results.rows.values())


def _of(results: Results, model: str) -> list[Path]:
    """Rows of a model's fusing strategies, of the first seed."""
    cells = {path: results.rows[path].cell for path in results.first(model).values()}
    return [path for path, cell in cells.items() if any(cell.schedule) and cell.seed == _first_seed(results)]
