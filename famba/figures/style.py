"""The common look: panels in a column of a paper, one theme, provenance line, watermark, deterministic files."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from famba.figures import FORMATS, palette, svg
from famba.figures.captions import Caption
from famba.files import atomic_file, write_text
from famba.text import SMOKE_NOTE, plain

if TYPE_CHECKING:
    from famba.figures.results import Results

WIDTH = 3.4  # inches: a column of a paper, and what is legible on a telephone
FOOTER_SIZE = 5.5
LINE = 0.19  # inches that a bar takes, and a line of the legend
PAPER = "paper (1 seed, best epoch on test)"
PAPER_STYLE: dict[str, Any] = {
    "linestyle": "none", "marker": "*", "markersize": 9, "markerfacecolor": "white", "markeredgecolor": "black",
    "zorder": 5,
}  # fmt: skip
RC: dict[str, Any] = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "legend.handletextpad": 0.4, "legend.columnspacing": 1.2,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), palette.INK),
    "axes.linewidth": 0.6, "grid.linewidth": 0.4, "grid.color": palette.GRID, "lines.linewidth": 1.2,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "axes.facecolor": "none",  # the watermark stands behind the axes
    "axes.titlelocation": "left", "axes.titleweight": "bold",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    # what seaborn's style "ticks" sets beyond these; written out, for importing seaborn takes longer than drawing
    "grid.linestyle": "-", "lines.solid_capstyle": "round", "patch.edgecolor": "w", "patch.force_edgecolor": True,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType: text that a reader can select and a journal accepts
    "svg.fonttype": "none", "svg.hashsalt": "famba", "savefig.dpi": 200, "figure.dpi": 100,
}  # fmt: skip


def theme(inches: float = WIDTH) -> Any:
    """Context in which a figure of this width is made and saved."""
    look: dict[Any, Any] = {**RC, "figure.figsize": (inches, inches)}
    return mpl.rc_context(look)


def width() -> float:
    """Inches of the figures that are made in this context."""
    return float(mpl.rcParams["figure.figsize"][0])


def new_figure(height: float) -> Figure:
    """A figure that no window system and no pyplot state knows about. Inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(width(), height), layout=layout)
    FigureCanvasAgg(figure)
    figure.patch.set_gid(svg.PLATE)  # white; a page takes it away
    return figure


def stack(panels: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure of panels, one below the other, each `height` inches high, with room for legend and footer."""
    figure = new_figure(panels * height + 0.75)
    return figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def mean_interval(values: Any, step: float = 0.0) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean, as seaborn's `errorbar`; nothing to see for one value.

    `step`: of an accuracy, see `Results.step`.
    """
    from famba.results import summary  # noqa: PLC0415 (imports scipy)

    half = summary.interval([float(value) for value in values], step) or 0.0
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def tidy(axes: Axes, grid: str = "both") -> None:
    """No box, a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(True, axis=grid)  # type: ignore[arg-type]


def strategy_handles(results: Results, look: Literal["filled", "hollow", "line"] = "filled") -> list[Line2D]:
    """Legend entries of the strategies: a marker or a line."""
    colour, marker = results.colours, results.markers
    handles = [Line2D([], [], color=colour[name], label=results.label(name)) for name in results.strategies]
    if look != "line":
        for handle, name in zip(handles, results.strategies, strict=True):
            handle.set(linestyle="none", marker=marker[name], markersize=4.5)
            handle.set_markerfacecolor("none" if look == "hollow" else colour[name])
    return handles


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """A legend above the panels, never over data; the figure grows by the lines of a long one."""
    if not handles:
        return
    widest = max(len(str(handle.get_label())) for handle in handles) * 0.6 * 7 + 24  # points
    columns = min(len(handles), max(1, int(width() * 72 / widest)))
    lines = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + LINE * max(lines - 2, 0))
    figure.legend(handles=list(handles), loc="outside upper center", ncols=columns)


def footer(figure: Figure, results: Results, *notes: str) -> None:
    """What was run, and how to read the marks, in small print below the panels."""
    from famba.results import summary  # noqa: PLC0415 (imports scipy)

    text = f"Run: {summary.described(results.rows)}. {' '.join(notes)}"
    note(figure, f"{text} {SMOKE_NOTE}." if results.smoke else text)


def note(figure: Figure, text: str) -> None:
    """Small print below the panels."""
    lines = [plain(line) for line in textwrap.wrap(text, int(width() * 72 / (0.56 * FOOTER_SIZE)))]
    figure.set_figheight(figure.get_figheight() + 0.1 * max(len(lines) - 3, 0))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=FOOTER_SIZE, color=palette.FAINT, linespacing=1.3)


def watermark(figure: Figure) -> None:
    """SMOKE across the whole figure, light and behind everything."""
    width, height = figure.get_size_inches()
    angle = math.atan2(height, width)
    cos, sin, length = math.cos(angle), math.sin(angle), 3.9  # of the word, in units of the font size
    size = 72 * 0.85 * min(width / (length * cos + sin), height / (length * sin + cos))
    figure.text(
        0.5, 0.5, "SMOKE", rotation=math.degrees(angle), fontsize=size, color=palette.SMOKE, weight="bold",
        ha="center", va="center", rotation_mode="anchor", zorder=-10, gid=svg.WATERMARK,
    )  # fmt: skip


def save(
    figure: Figure,
    folder: Path,
    name: str,
    caption: Caption,
    prefix: str = "",
    formats: Collection[str] = FORMATS[:2],
    origin: svg.Origin = svg.NO_ROWS,
) -> None:
    """Write <name>.svg and <name>.png; no date inside, so that the same figure is the same file.

    `prefix`: before the name, where the SVG's ids must differ from those of another figure of this name; `formats`:
    of `FORMATS`, in place of these two.
    """
    if "svg" in formats:
        write_text(folder / f"{name}.svg", as_svg(figure, prefix + name, caption, origin))
    about = {"Title": caption.title, "Description": caption.text}
    undated = {"CreationDate": None, "Title": caption.title, "Subject": caption.text}
    for form, metadata in (("png", about), ("pdf", undated)):
        if form in formats:
            with atomic_file(folder / f"{name}.{form}", binary=True) as file:
                figure.savefig(file, format=form, metadata=metadata)


def as_svg(figure: Figure, name: str, caption: Caption, origin: svg.Origin = svg.NO_ROWS) -> str:
    """The figure as the text of an SVG file, whose ids begin with `name`; see `save`."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return svg.finish(drawn.getvalue(), name, caption, origin)
