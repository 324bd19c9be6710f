"""Accuracy against cost of a leaderboard's lines: methods by colour, schedules by marker."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D

from famba import text
from famba.figures import palette, style, svg
from famba.figures.captions import Caption
from famba.figures.tradeoff import finish_panel, front_handle


@dataclass(frozen=True)
class Point:
    """A line: `cost` and top-1 (%) with the half-widths of their intervals, where there are any.

    `strategy`: a name of its schedule, the same for every method; `told`: what its tooltip says, line by line; `href`:
    its line in the table.
    """

    model: str
    method: str
    strategy: str
    cost: float
    top1: float
    cost_half: float | None
    top1_half: float | None
    told: list[str]
    href: str


def colours(points: Sequence[Point], methods: Sequence[str]) -> dict[str, str]:
    """A colour for each method, the same in every figure with these `methods`; of a single one, for each strategy."""
    if _several_methods(points):
        return palette.colours(["baseline", *methods])
    return palette.colours(dict.fromkeys(point.strategy for point in points))


def draw(points: Sequence[Point], methods: Sequence[str], cost: str, name: str, caption: Caption) -> str:
    """The SVG of a scatter, a panel for each model.

    `methods`: all those of the page; `cost`: the label of its axis; `name`: what its ids begin with.
    """
    models = list(dict.fromkeys(point.model for point in points))
    several, colour = _several_methods(points), colours(points, methods)
    marker = palette.markers(dict.fromkeys(point.strategy for point in points))
    with style.theme():
        figure, grid = style.stack(len(models), 2.4)
        for axes, model in zip(grid, models, strict=True):
            own = [point for point in points if point.model == model]
            for point in own:
                look: dict[str, Any] = {"color": colour[_coloured(point, several)]}
                axes.errorbar(
                    point.cost, point.top1, point.top1_half, point.cost_half, fmt="none", elinewidth=0.8, zorder=2,
                    ecolor=look["color"],
                )  # fmt: skip
                axes.plot(
                    point.cost, point.top1, marker[point.strategy], markersize=6, markeredgecolor="white",
                    markeredgewidth=0.5, zorder=3, **look,
                )  # fmt: skip
                svg.point_tooltip(axes, point.cost, point.top1, point.told, point.href)
            finish_panel(axes, text.model_name(model), [(point.cost, point.top1) for point in own], cost)
        there = dict.fromkeys(_coloured(point, several) for point in points)
        style.legend(figure, [*_handles({n: colour[n] for n in colour if n in there}, marker, several), front_handle()])
        return style.as_svg(figure, name, caption)


def _several_methods(points: Sequence[Point]) -> bool:
    return len({point.method for point in points if point.strategy != "baseline"}) > 1


def _coloured(point: Point, several_methods: bool) -> str:
    return point.method if several_methods and point.strategy != "baseline" else point.strategy


def _handles(colour: dict[str, str], marker: dict[str, str], several_methods: bool) -> list[Line2D]:
    """Of several methods a colour each, and the markers of the strategies in grey; else both in one."""
    if not several_methods:
        return [_handle(name, marker[name], colour[name]) for name in colour]
    methods = [_handle(name, "s" if name != "baseline" else marker[name], paint) for name, paint in colour.items()]
    return methods + [_handle(name, mark, palette.FAINT, "none") for name, mark in marker.items() if name != "baseline"]


def _handle(label: str, marker: str, colour: str, face: str | None = None) -> Line2D:
    """A name may be anybody's: no formula, nothing that the font lacks, no first underscore, which hides an entry."""
    shown = text.plain(label.encode("ascii", "backslashreplace").decode()[:40])
    shown = f" {shown}" if shown.startswith("_") else shown
    return Line2D(
        [], [], label=shown, color=colour, linestyle="none", marker=marker, markersize=4.5,
        markerfacecolor=face or colour,
    )  # fmt: skip
