"""A labelled sheet of samples: what a data set looks like, at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from famba.data.dataset import Dataset
from famba.data.registry import load
from famba.errors import InputError
from famba.files import atomic_file
from famba.text import install

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 10
_SUFFIXES = (".png", ".svg", ".pdf")


def show(name: str, root: str | Path, out: str | Path) -> None:
    """Draw training images of every class to `out` (PNG, SVG or PDF by its suffix).

    Up to 20 classes: a row of 10 images for each. More: one image for each, its name below.
    """
    out = Path(out)
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{out}: a sheet is drawn as {', '.join(_SUFFIXES)}; name the file accordingly")
    data = load(name, root)
    draw(data, out)


def draw(data: Dataset, out: Path) -> None:
    """`show` for a data set in memory."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - a plotting library is not needed to load data
    except ImportError as error:
        raise InputError(f"a sheet needs matplotlib ({error}): {install('pipeline')}") from error

    one_each = len(data.classes) > 2 * _COLUMNS
    per_class = 1 if one_each else _COLUMNS
    samples = [np.flatnonzero(data.train_labels == label)[:per_class] for label in range(len(data.classes))]
    rows = -(-len(samples) // _COLUMNS) if one_each else len(samples)
    top, bottom, left = 0.75, 0.55, 0.1 if one_each else 1.1  # inches
    cell = (0.85, 1.0) if one_each else (0.7, 0.74)
    width, height = left + _COLUMNS * cell[0] + 0.1, top + rows * cell[1] + bottom
    figure = Figure(figsize=(width, height), facecolor="white")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    figure.subplots_adjust(
        left / width, bottom / height, 1 - 0.1 / width, 1 - top / height, 0.08, 0.25 if one_each else 0.06
    )
    for axes in grid.flat:
        axes.axis("off")
    for label, indices in enumerate(samples):
        for column, index in enumerate(indices):
            axes = grid[divmod(label, _COLUMNS)] if one_each else grid[label, column]
            axes.imshow(data.train_images[index].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if one_each:
            grid[divmod(label, _COLUMNS)].set_title(data.classes[label].replace("_", " "), fontsize=6.5, y=-0.2, pad=0)
        else:
            anchor = grid[label, 0]
            anchor.text(
                -0.15, 0.5, data.classes[label], ha="right", va="center", fontsize=9, transform=anchor.transAxes
            )
    _caption(figure, data, 0.1 / width, top / height, bottom / height)
    with atomic_file(out, binary=True) as file:
        figure.savefig(file, format=out.suffix[1:].lower(), dpi=160)


def _caption(figure: Figure, data: Dataset, left: float, top: float, bottom: float) -> None:
    """Title above the samples, identity below; left, top and bottom as fractions of the figure."""
    identity = data.identity
    figure.text(left, 1 - top * 0.35, data.name, fontsize=13, fontweight="bold", va="center")
    colour = "grey" if identity.channels == 1 else "colour"
    facts = (
        f"{identity.train:,} training and {identity.test:,} test images, {identity.classes} classes, "
        f"{identity.size} × {identity.size} pixels, {colour}"
    )
    figure.text(left, 1 - top * 0.7, facts, fontsize=9, va="center")
    standing = "" if identity.official else "  NOT THE PUBLISHED DATA SET"
    source = f"{identity.source}  sha256 {identity.sha256[:16]}…{standing}"
    figure.text(left, bottom * 0.4, source, fontsize=7, color="0.35", va="center")
