"""Predicted cost against predicted and measured accuracy, of schedules that were found and of the paper's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from famba.figures import palette, style, svg
from famba.figures.captions import SEARCH
from famba.figures.tradeoff import FRONT

_FOUND: dict[str, Any] = {"marker": "o", "color": palette.MODELS["vim_small"]}


@dataclass(frozen=True)
class Point:
    """A schedule. `cost`: as a share of the unreduced model's; losses in points of top-1; `rival`: of the same cost."""

    name: str
    rival: str
    cost: float
    predicted: float
    checked: float
    top1: float | None


def draw(points: Sequence[Point], front: Sequence[tuple[float, float]], path: Path, cost: str, note: str) -> None:
    """Write it as <path>, an .svg, and as a PNG beside it. `front`: (cost, predicted loss) of the best schedules."""
    with style.theme():
        style.save(search(points, front, cost, note), path.parent, path.stem, SEARCH)


def search(points: Sequence[Point], front: Sequence[tuple[float, float]], cost: str, note: str) -> Figure:
    """Above: points lost on training images, predicted and measured. Below: top-1 on test images."""
    figure, (above, below) = style.stack(2, 2.3)
    above.step([100 * x for x, _ in front], [-y for _, y in front], where="post", **FRONT)
    for one in points:
        look = _look(one)
        above.plot(100 * one.cost, -one.checked, markersize=5, linestyle="none", markerfacecolor="none", **look)
        above.plot(100 * one.cost, -one.predicted, markersize=3, linestyle="none", **look)
        svg.point_tooltip(above, 100 * one.cost, -one.checked, _words(one))
        if one.top1 is not None:
            below.plot(100 * one.cost, one.top1, markersize=5, linestyle="none", **look)
            svg.point_tooltip(below, 100 * one.cost, one.top1, _words(one))
    by_name = {one.name: one for one in points}
    for one in points:  # of equal cost
        if one.rival in by_name and one.top1 is not None and by_name[one.rival].top1 is not None:
            other = by_name[one.rival]
            line: dict[str, Any] = {"color": palette.FAINT, "linewidth": 0.7, "zorder": 1}
            below.plot((100 * other.cost, 100 * one.cost), (other.top1 or 0, one.top1), **line)
    above.set(ylabel="top-1, training images (points)", xlabel=f"predicted cost ({cost}, % of the model)")
    below.set(ylabel="top-1, test images (%)", xlabel=f"predicted cost ({cost}, % of the model)")
    lowest = min(100 * one.cost for one in points)
    for axes in (above, below):
        axes.set_xlim(lowest - 5, 103)
        style.tidy(axes)
    highest = max(max(one.checked, one.predicted) for one in points)
    above.set_ylim(-1.3 * highest - 1, max(1.0, -min(one.checked for one in points) + 1))
    named = [one for one in points if not one.name.startswith("found_")]
    handles = [Line2D([], [], linestyle="none", markersize=4.5, label=one.name, **_look(one)) for one in named]
    handles += [
        Line2D([], [], linestyle="none", markersize=4.5, label="found", **_FOUND),
        Line2D([], [], label="best predicted", **FRONT),
    ]
    style.legend(figure, handles)
    style.note(figure, f"Above: small marks predicted, open ones measured on other training images. Below: {note}")
    return figure


def _look(one: Point) -> dict[str, Any]:
    if one.name.startswith("found_"):
        return _FOUND
    return {"color": palette.STRATEGY_COLOURS[one.name], "marker": palette.STRATEGY_MARKERS[one.name]}


def _words(one: Point) -> list[str]:
    words = [one.name, f"cost {one.cost:.1%}", f"predicted loss {one.predicted:.2f} points"]
    words.append(f"on other training images {one.checked:.2f} points")
    return words if one.top1 is None else [*words, f"top-1 on test images {one.top1:.2f} %"]
