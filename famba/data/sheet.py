"""A labelled sheet of samples: what a data set looks like, at a glance."""

from pathlib import Path

import numpy as np

from famba.config.image_folder import ListedFolder
from famba.data.dataset import Dataset
from famba.data.registry import load
from famba.errors import InputError
from famba.files import atomic_file
from famba.text import install, plain

_COLUMNS = 10
_SUFFIXES = (".png", ".svg", ".pdf")


def show(name: str, root: str | Path, out: str | Path, folder: ListedFolder | None = None) -> None:
    """Draw training images of every class to `out` (PNG, SVG or PDF by its suffix).

    Up to 20 classes: a row of 10 images for each. More: one image for each.
    """
    out = Path(out)
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{out}: a sheet is drawn as {', '.join(_SUFFIXES)}; name the file accordingly")
    data = load(name, root, folder)
    draw(data, out)


def draw(data: Dataset, out: Path) -> None:
    """`show` for a data set in memory."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - a plotting library is not needed to load data
    except ImportError as error:
        raise InputError(f"a sheet needs matplotlib ({error}): {install('pipeline')}") from error

    one_each = len(data.classes) > 2 * _COLUMNS
    rows = -(-len(data.classes) // _COLUMNS) if one_each else len(data.classes)
    figure = Figure(figsize=(0.85 * _COLUMNS, 1 + 0.95 * rows), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for label, name in enumerate(data.classes):
        places = [grid[divmod(label, _COLUMNS)]] if one_each else grid[label]
        for axes, index in zip(places, np.flatnonzero(data.train_labels == label), strict=False):
            image = np.asarray(data.train_images[int(index)]).squeeze()
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        places[0].set_title(
            plain(name.replace("_", " ")), fontsize=6.5 if one_each else 9, loc="center" if one_each else "left"
        )
    identity = data.identity
    figure.suptitle(
        f"{plain(data.name)}: {identity.train:,} training and {identity.test:,} test images, "
        f"{identity.classes} classes, {identity.pixels.replace('x', '×')}, "
        f"{'grey' if identity.channels == 1 else 'colour'}",
        fontsize=10,
    )
    standing = "" if identity.official else "  NOT THE PUBLISHED DATA SET"
    figure.supxlabel(f"{plain(identity.source)}  sha256 {identity.sha256[:16]}…{standing}", fontsize=7, color="0.35")
    with atomic_file(out, binary=True) as file:
        figure.savefig(file, format=out.suffix[1:].lower(), dpi=160)
