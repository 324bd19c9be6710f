"""Charts as shapes in pixels: scales, axes, marks with their exact numbers. The template only writes them down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 400
TOP, RIGHT, LINE = 8, 14, 26  # pixels: above and right of the data, and the height of one line of a list
MARKERS = {  # the figures' markers (famba.figures.palette), as SVG paths around the origin
    "o": "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0z",
    "s": "M-4.2-4.2h8.4v8.4h-8.4z",
    "D": "M0-5.6 5.6 0 0 5.6-5.6 0z",
    "v": "M-5.2-4.2h10.4L0 5.2z",
    "^": "M-5.2 4.2h10.4L0-5.2z",
    "P": "M-1.8-5.2h3.6v3.4h3.4v3.6h-3.4v3.4h-3.6v-3.4h-3.4v-3.6h3.4z",
    "X": "M-2.4-4.9 0-2.5 2.4-4.9 4.9-2.4 2.5 0 4.9 2.4 2.4 4.9 0 2.5-2.4 4.9-4.9 2.4-2.5 0-4.9-2.4z",
    "p": "M0-5.4 5.1-1.7 3.2 4.4h-6.4L-5.1-1.7z",
    "h": "M0-5.4 4.7-2.7v5.4L0 5.4-4.7 2.7v-5.4z",
    "<": "M4.2-5.2v10.4L-5.2 0z",
    "*": "M0-7 1.8-2.3 6.7-2.2 2.9.9 4.1 5.7 0 3-4.1 5.7-2.9.9-6.7-2.2-1.8-2.3z",
}


@dataclass(frozen=True)
class Shape:
    """One SVG element."""

    tag: str
    attributes: dict[str, str | float]
    text: str = ""


@dataclass(frozen=True)
class Mark:
    """Shapes that answer hover, focus and, with `href`, a click. `tip`: the numbers, line by line."""

    tip: str
    shapes: Sequence[Shape]
    href: str | None = None


@dataclass(frozen=True)
class Scale:
    """A linear map of values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


@dataclass
class Panel:
    """One coordinate system: what stands behind, and the marks."""

    title: str
    x: Scale
    y: Scale
    height: float
    back: list[Shape] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    width: float = WIDTH

    def add(self, tag: str, look: str, text: str = "", **attributes: str | float) -> None:
        self.back.append(shape(tag, look, text, **attributes))


def shape(tag: str, look: str, text: str = "", **attributes: str | float) -> Shape:
    """An element of the classes `look`; `text_anchor=…` becomes text-anchor."""
    return Shape(tag, {"class": look, **{key.replace("_", "-"): value for key, value in attributes.items()}}, text)


def marker(kind: str, look: str, x: float, y: float) -> Shape:
    """One of the markers at a place in pixels."""
    return shape("path", look, d=MARKERS[kind], transform=f"translate({x:g} {y:g})")


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Path data through points in pixels."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def widened(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """Ends of a scale that holds the values with some room; never empty."""
    low, high = min(values), max(values)
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values (1, 2, 5 times a power of ten) inside the ends, about `count`."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if raw <= m * power * 1.0001)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float, marks: Sequence[float]) -> str:
    """A tick's value with as many decimals as tell it from the next one."""
    step = marks[1] - marks[0] if len(marks) > 1 else 1.0
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def x_axis(panel: Panel, label: str, whole: bool = False) -> None:
    """Grid, ticks and label below the data."""
    at = panel.y.start
    marks = [v for v in ticks(panel.x.low, panel.x.high) if not whole or v == int(v)]
    for value in marks:
        x = panel.x(value)
        panel.add("line", "grid", x1=x, x2=x, y1=TOP, y2=at)
        panel.add("text", "tick", tick_label(value, marks), x=x, y=at + 16, text_anchor="middle")
    middle = (panel.x.start + panel.x.end) / 2
    panel.add("text", "label", label, x=middle, y=at + 34, text_anchor="middle")


def y_axis(panel: Panel, label: str) -> None:
    """Grid, ticks and label left of the data."""
    marks = ticks(panel.y.low, panel.y.high)
    for value in marks:
        y = panel.y(value)
        panel.add("line", "grid", x1=panel.x.start, x2=panel.x.end, y1=y, y2=y)
        panel.add("text", "tick", tick_label(value, marks), x=panel.x.start - 7, y=y + 4, text_anchor="end")
    middle = (panel.y.start + panel.y.end) / 2
    panel.add("text", "label", label, transform=f"translate(13 {middle:g}) rotate(-90)", text_anchor="middle")


def plane(title: str, x: tuple[float, float], y: tuple[float, float], smoke: bool, height: float = 250) -> Panel:
    """A panel with room for two numeric axes."""
    bottom = height - 44
    panel = Panel(title, Scale(*x, 58, WIDTH - RIGHT), Scale(*y, bottom, TOP), height)
    _watermark(panel, smoke)
    return panel


def listing(title: str, names: Sequence[str], x: tuple[float, float], smoke: bool) -> Panel:
    """A panel with a line for each name, its labels on the left and room for a value on the right."""
    left = min(150.0, 16 + 7.0 * max(map(len, names)))
    bottom = TOP + LINE * len(names)
    panel = Panel(title, Scale(*x, left, WIDTH - 62), Scale(len(names), 0, bottom, TOP), bottom + 42)
    _watermark(panel, smoke)
    for i, name in enumerate(names):
        panel.add("text", "name", name, x=left - 8, y=panel.y(i + 0.5) + 4, text_anchor="end")
    return panel


def _watermark(panel: Panel, smoke: bool) -> None:
    if smoke:
        middle = (panel.x.start + panel.x.end) / 2, (panel.y.start + panel.y.end) / 2 + 22
        panel.add("text", "smoke", "SMOKE", x=middle[0], y=middle[1], text_anchor="middle")
