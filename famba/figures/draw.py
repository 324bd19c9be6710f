"""Draw every figure of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from famba.figures import bars, lines, style, tradeoff
from famba.figures.results import Results, read_results

FIGURES: Mapping[str, Callable[[Results], Figure]] = {
    "top1": bars.top1,
    "time": bars.time,
    "memory": bars.memory,
    "accuracy_time": tradeoff.accuracy_time,
    "accuracy_memory": tradeoff.accuracy_memory,
    "tokens": lines.tokens,
    "curves": lines.curves,
}


def draw(rows: Sequence[Path], out: Path, claims: Path) -> None:
    """Read rows and write every figure to `out` as <name>.svg and <name>.png. Raises InputError."""
    results = read_results(rows, claims)
    for name in FIGURES:
        with style.theme():
            style.save(figure(name, results), out, name)


def figure(name: str, results: Results) -> Figure:
    """One figure by its name, watermarked where the rows are a smoke run's."""
    with style.theme():
        made = FIGURES[name](results)
        if results.smoke:
            style.watermark(made)
        return made
