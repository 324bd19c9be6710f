"""Time and memory against the number of tokens, with the fitted lines and the distance from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from famba.cost.growth import MANY, STRAIGHT, Series
from famba.figures import palette, style, svg
from famba.figures.captions import GROWTH

_MARKERS = {"step": "o", "forward": "s", "matching": "x", "saved": "^"}
_UNITS = {"s": ("time (ms)", 1e3), "bytes": ("memory (MiB)", 2**-20)}


def draw(series: Sequence[Series], path: Path, note: str) -> None:
    """Write it as <path>, an .svg, and as a PNG beside it. `note`: what ran, and where."""
    with style.theme():
        style.save(growth(series, note), path.parent, path.stem, GROWTH)


def growth(series: Sequence[Series], note: str) -> Figure:
    """Two panels for each unit: the values with their lines, and by how much they are off these."""
    units = list(dict.fromkeys(one.unit for one in series))
    figure, panels = style.stack(2 * len(units), 1.9)
    colour = palette.colours(dict.fromkeys(one.strategy for one in series))
    for number, unit in enumerate(units):
        values, distances = panels[2 * number : 2 * number + 2]
        label, scale = _UNITS[unit]
        for one in (one for one in series if one.unit == unit):
            look: dict[str, Any] = {"color": colour[one.strategy], "marker": _MARKERS[one.what], "markersize": 3.5}
            line = [one.line.fixed + one.line.per_token * tokens for tokens in one.tokens]
            values.plot(one.tokens, [scale * value for value in one.values], linestyle="none", **look)
            off = [value / fitted - 1 for value, fitted in zip(one.values, line, strict=True)]
            if one.what == "matching":  # quadratic: a line would tell nothing
                continue
            values.plot(one.tokens, [scale * value for value in line], color=look["color"], linewidth=0.7)
            distances.plot(one.tokens, off, linewidth=0.7, **look)
        for tokens in series[0].tokens:
            tips = [f"{one.name}: {_UNITS[unit][1] * one.values[one.tokens.index(tokens)]:.4g}" for one in series
                    if one.unit == unit]  # fmt: skip
            svg.column_tooltip(values, tokens, 0.2 * tokens, [f"{tokens} tokens, {label}", *tips])
        values.set(xscale="log", yscale="log", ylabel=label)
        distances.axhspan(-STRAIGHT, STRAIGHT, color=palette.NOT_FUSED, linewidth=0, zorder=0)
        distances.set(xscale="log", ylabel="distance from the line", xlabel="tokens")
        distances.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for axes in (values, distances):
            style.tidy(axes)
    handles = [Line2D([], [], color=colour[name], label=name) for name in colour]
    what = dict.fromkeys(one.what for one in series)
    handles += [
        Line2D([], [], color=palette.FAINT, marker=_MARKERS[name], linestyle="none", markersize=3.5, label=name)
        for name in what
    ]
    style.legend(figure, handles)
    style.note(figure, f"{note} {' '.join(map(fit_words, series))}")
    return figure


def fit_words(one: Series) -> str:
    """How a quantity grows, in a sentence."""
    line = one.line
    power = ""
    if line.exponent is not None:
        power = f" from {MANY:,} tokens on like tokens^{line.exponent:.2f} ({line.low:.2f} to {line.high:.2f})"
    if one.what == "matching":
        return f"{one.name}: grows{power}."
    how = "linear within" if line.straight else "not linear: off its line by"
    return f"{one.name}: {how} {line.deviation:.0%}{power and ';'}{power}."
