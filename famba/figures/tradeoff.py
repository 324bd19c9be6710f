"""Accuracy against training time and against memory, with the Pareto front."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from famba.figures import palette, style, svg
from famba.figures.results import Measure, Results
from famba.results.anchors import line_href

FRONT: dict[str, Any] = {"color": palette.FAINT, "linewidth": 0.9, "linestyle": (0, (4, 2)), "zorder": 1}
ACCURACY = Measure("top1_last_percent", "top-1, last epoch", "%")


def accuracy_time(results: Results) -> Figure:
    """Top-1 of the last epoch against training time. No published point has both."""
    return _scatter(results, results.time)


def accuracy_memory(results: Results) -> Figure:
    """Top-1 of the last epoch against peak device memory; on a CPU against saved activations, since the host's
    resident set is mostly the interpreter."""
    if results.memory_kind == "device":
        return _scatter(results, Measure("peak_memory_mib", "peak memory, device", "GiB", 1024))
    return _scatter(results, Measure("saved_activations_mib_per_image", "saved activations", "MiB per image"))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, accuracy) that no other point beats in one and at least equals in the other."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def _scatter(results: Results, cost: Measure) -> Figure:
    figure, grid = style.stack(len(results.models), 2.4)
    colour, marker = results.colours, results.markers
    for axes, model in zip(grid, results.models, strict=True):
        points = []
        for name in results.strategies:
            costs, accuracies = results.values(model, name, cost), results.values(model, name, ACCURACY)
            if costs.empty:
                continue
            x, y = costs.mean(), accuracies.mean()
            points.append((x, y))
            of_strategy: dict[str, Any] = {"color": colour[name]}
            if results.several_seeds:
                axes.plot(costs, accuracies, ".", markersize=3, alpha=0.6, zorder=2, **of_strategy)
                axes.plot(style.mean_interval(costs), (y, y), linewidth=0.8, zorder=2, **of_strategy)
                across = style.mean_interval(accuracies, results.step(ACCURACY.column))
                axes.plot((x, x), across, linewidth=0.8, zorder=2, **of_strategy)
            axes.plot(
                x, y, marker[name], markersize=6.5, markeredgecolor="white", markeredgewidth=0.5, zorder=3,
                **of_strategy,
            )  # fmt: skip
            svg.point_tooltip(axes, x, y, results.tooltip(model, name, ACCURACY, cost), line_href(model, name))
        finish_panel(axes, results.model_label(model), points, cost.label)
    style.legend(figure, [*style.strategy_handles(results), front_handle()])
    marks = results.marks("Marker: mean; lines: 95 % intervals over seeds (Student t); dots: seeds.")
    style.footer(figure, results, marks)
    return figure


def finish_panel(axes: Axes, title: str, points: Sequence[tuple[float, float]], cost: str) -> None:
    """The Pareto front of a panel's points (cost, accuracy), the labels of its axes, its title."""
    axes.margins(0.08)
    front = [points[j] for j in pareto_front(points)]
    right = axes.get_xlim()[1]  # the best of the front stays the best for any larger cost
    axes.step([*(x for x, _ in front), right], [*(y for _, y in front), front[-1][1]], where="post", **FRONT)
    axes.set(xlabel=cost, ylabel=ACCURACY.label, xlim=(None, right))
    axes.set_title(title)
    axes.set_title("↖ better", loc="right", fontsize=7, fontweight="normal", color=palette.FAINT)
    style.tidy(axes)


def front_handle() -> Line2D:
    """The front's entry in a legend."""
    return Line2D([], [], label="Pareto front", **FRONT)
