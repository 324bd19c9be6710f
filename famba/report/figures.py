"""The page's figures: the same data as `famba figures`, drawn so that every number can be read off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from famba.figures.results import Results
from famba.figures.style import PAPER
from famba.figures.tradeoff import pareto_front
from famba.report.charts import (
    TOP,
    Mark,
    Panel,
    Shape,
    listing,
    marker,
    plane,
    polyline,
    shape,
    widened,
    x_axis,
    y_axis,
)
from famba.report.drawing import Drawing, Figure, value
from famba.results.summary import Line
from famba.results.tables import line_href
from famba.text import model_name, time_unit

HOURS = 3600.0


def figures(results: Results, lines: Sequence[Line]) -> list[Figure]:
    """All figures of the page, in its order."""
    drawing = Drawing(results, lines)
    return [make(drawing) for make in FIGURES]


def top1(d: Drawing) -> Figure:
    panels, stars = [], False
    for model in d.results.models:
        numbers = [n for n in d.results.published[model] if n.quantity == "top1"]
        when = "best" if numbers else "last"
        measure = f"top1_{when}_percent"
        ends = [end for *_, line in d.of(model) for end in d.span(line, measure)]
        ends += [v for _, name, _ in d.of(model) for _, v in d.seeds(model, name, measure)]
        shown = [n for n in numbers if (model, n.strategy) in d.lines]
        panel = listing(
            model_name(model), d.results.strategies, widened([*ends, *(n.point for n in shown)]), d.results.smoke
        )
        x_axis(panel, f"top-1, {'best epoch on test' if numbers else 'last epoch'} (%)")
        for i, name, line in d.of(model):
            shapes = _dot(d, panel, i, name, line, measure)
            tip = d.tip(line, (measure, f"top-1, {when} epoch", 1, "%"))
            for number in shown:
                if number.strategy == name:
                    stars = True
                    shapes.append(marker("*", "paper", panel.x(number.point), panel.y(i + 0.5)))
                    tip += f"\n{PAPER}: {number.point:g} %"
            panel.marks.append(Mark(tip, shapes, line_href(line)))
        panels.append(panel)
    caption = _spread(d, "Marker: mean")
    return Figure("top1", "Accuracy", caption, panels, False, paper=PAPER if stars else None)


def time(d: Drawing) -> Figure:
    column, name = d.results.time
    unit, size = time_unit(float(d.results.seeds[column].max()))
    panels, stars = [], False
    for model in d.results.models:
        limits = {
            str(n.strategy): (n.point * HOURS, str(n.says))
            for n in d.results.published[model]
            if (n.quantity, n.unit) == ("training_time", "hours") and (model, n.strategy) in d.lines
        }
        stars |= bool(limits)
        panels.append(_bars(d, model, column, name, unit, size, limits=limits))
        panels.append(_bars(d, model, "step_ratio", d.results.step_ratio_name, "", 1, predicted=True))
    caption = "Training without evaluation and each run's first step; of a step, the median. " + _spread(d, "Bar: mean")
    return Figure(
        "time",
        "Training time",
        caption,
        panels,
        False,
        True,
        "paper (1 seed, whole loop, A100)" if stars else None,
    )


def memory(d: Drawing) -> Figure:
    size, unit = (1024.0, "GiB") if d.results.seeds["peak_memory_mib"].max() >= 4096 else (1.0, "MiB")
    kind = d.results.memory_kind
    panels = []
    for model in d.results.models:
        panels.append(_bars(d, model, "peak_memory_mib", f"peak memory, {kind}", unit, size))
        panels.append(
            _bars(d, model, "saved_activations_ratio", "saved activations / baseline's", "", 1, predicted=True)
        )
    caption = "Saved activations: what the forward pass keeps for the backward pass. " + _spread(d, "Bar: mean")
    return Figure("memory", "Memory", caption, panels, False, True)


def accuracy_time(d: Drawing) -> Figure:
    column, name = d.results.time
    unit, size = time_unit(float(d.results.seeds[column].max()))
    return _tradeoff(d, "accuracy_time", "Accuracy against time", column, name, unit, size)


def accuracy_memory(d: Drawing) -> Figure:
    """Against the device's peak; on a CPU against saved activations, since the host's peak is the interpreter's."""
    name, title = "accuracy_memory", "Accuracy against memory"
    if d.results.memory_kind == "device":
        return _tradeoff(d, name, title, "peak_memory_mib", "peak memory, device", "GiB", 1024)
    measure = "saved_activations_mib_per_image"
    return _tradeoff(d, name, title, measure, "saved activations", "MiB per image", 1)


def tokens(d: Drawing) -> Figure:
    panels = []
    for model in d.results.models:
        traces = {
            name: next(r.tokens for r in d.results.rows.values() if (r.cell.model, r.cell.strategy) == (model, name))
            for _, name, _ in d.of(model)
        }
        most = max(max(trace.measured) for trace in traces.values())
        depth = max(len(trace.measured) - 1 for trace in traces.values())
        panel = plane(model_name(model), (-0.5, depth - 0.5), (0, most * 1.06), d.results.smoke)
        x_axis(panel, "layer", whole=True)
        y_axis(panel, "tokens seen by the mixer")
        for i, name, _ in d.of(model):
            seen = traces[name].scheduled[:-1]
            steps = [(panel.x(layer + side), panel.y(n)) for layer, n in enumerate(seen) for side in (-0.5, 0.5)]
            panel.add("path", f"curve s{i}", d=polyline(steps))
            panel.back += [
                marker(d.markers[name], f"hollow s{i}", panel.x(layer), panel.y(n))
                for layer, n in enumerate(traces[name].measured[:-1])
            ]
        for layer in range(depth):
            told = [f"{name}: {t.measured[layer]}" for name, t in traces.items() if layer < len(t.measured) - 1]
            panel.marks.append(_column(panel, layer, 0.5, "\n".join([f"layer {layer}", *told])))
        panels.append(panel)
    caption = (
        "Line: the schedule; hollow marker: measured in a forward pass of the trained model. Layers count from 0; "
        "the class token is one of the tokens."
    )
    return Figure("tokens", "Tokens per layer", caption, panels, True)


def curves(d: Drawing) -> Figure:
    panels = []
    for field, label in (("top1", "top-1 on test (%)"), ("train_loss", "training loss")):
        for model in d.results.models:
            table = d.results.epochs[d.results.epochs["model"] == model]
            low, high = widened(table[field].tolist(), 0.04)
            last = int(table["epoch"].max())
            panel = plane(model_name(model), (-0.5, last + 0.5), (low, high), d.results.smoke)
            x_axis(panel, "epoch", whole=True)
            y_axis(panel, label)
            means = {}
            for i, name, _ in d.of(model):
                by_epoch = table[table["strategy"] == name].groupby("epoch")[field]
                means[name] = by_epoch.mean().tolist()
                if d.several:
                    lows, highs = by_epoch.min().tolist(), by_epoch.max().tolist()
                    band = [(e, v) for e, v in enumerate(highs)] + [(e, v) for e, v in enumerate(lows)][::-1]
                    panel.add("path", f"range s{i}", d=polyline([(panel.x(e), panel.y(v)) for e, v in band]) + "z")
                points = [(panel.x(e), panel.y(v)) for e, v in enumerate(means[name])]
                panel.add("path", f"curve s{i}", d=polyline(points))
            for epoch in range(last + 1):
                told = [f"{name}: {value(mean[epoch])}" for name, mean in means.items()]
                panel.marks.append(_column(panel, epoch, 0.5, "\n".join([f"epoch {epoch}, {label}", *told])))
            panels.append(panel)
    caption = "Line: mean over seeds; band: range of the seeds. " if d.several else "One seed. "
    return Figure("curves", "Training curves", caption + "Epochs count from 0.", panels, True)


FIGURES: Sequence[Callable[[Drawing], Figure]] = (
    top1,
    time,
    memory,
    accuracy_time,
    accuracy_memory,
    tokens,
    curves,
)


def _dot(d: Drawing, panel: Panel, i: int, name: str, line: Line, measure: str) -> list[Shape]:
    y = panel.y(i + 0.5)
    low, high = d.span(line, measure)
    panel.add("text", "value", f"{line[measure]:.2f}", x=panel.width - 4, y=y + 4, text_anchor="end")
    return [
        shape("rect", "hit", x=0, y=panel.y(i), width=panel.width, height=panel.y(i + 1) - panel.y(i)),
        shape("line", f"interval s{i}", x1=panel.x(low), x2=panel.x(high), y1=y, y2=y),
        *_seeds(d, panel, i, line, measure, 1),
        marker(d.markers[name], f"dot s{i}", panel.x(line[measure]), y),
    ]


def _bars(
    d: Drawing,
    model: str,
    measure: str,
    label: str,
    unit: str,
    size: float,
    predicted: bool = False,
    limits: Mapping[str, tuple[float, str]] = MappingProxyType({}),
) -> Panel:
    """Bars from zero; `predicted`: what the tokens say beside the measured ratio; `limits`: the paper's value,
    and as it is printed, by strategy."""
    there = [(i, line) for i, _, line in d.of(model) if line[measure] is not None]
    ends = [d.span(line, measure)[1] / size for _, line in there]
    ends += [v / size for _, line in there for _, v in d.seeds(model, line["strategy"], measure)]
    ends += [line["token_share"] for *_, line in d.of(model)] + [1.0] if predicted else []
    ends += [limit / size for limit, _ in limits.values()]
    panel = listing(model_name(model), d.results.strategies, (0, max(ends) * 1.04), d.results.smoke)
    x_axis(panel, f"{label} ({unit})" if unit else label)
    if predicted:
        panel.add("line", "one", x1=panel.x(1), x2=panel.x(1), y1=TOP, y2=panel.y.start)
    for i, name, line in d.of(model):
        y, mean = panel.y(i + 0.5), line[measure]
        shapes = [shape("rect", "hit", x=0, y=panel.y(i), width=panel.width, height=panel.y(i + 1) - panel.y(i))]
        tip = d.tip(line, (measure, label, size, unit))
        if mean is not None:
            low, high = (panel.x(end / size) for end in d.span(line, measure))
            wide = round(panel.x(mean / size) - panel.x(0), 1)
            shapes.append(shape("rect", f"bar s{i}", x=panel.x(0), y=y - 7, width=wide, height=14))
            shapes += _seeds(d, panel, i, line, measure, size)
            if high > low:
                shapes.append(shape("line", "whisker", x1=low, x2=high, y1=y, y2=y))
            digits = 3 if predicted else 2
            panel.add("text", "value", f"{mean / size:.{digits}f}", x=panel.width - 4, y=y + 4, text_anchor="end")
        if predicted:
            at = panel.x(line["token_share"])
            shapes.append(shape("path", "predicted", d=f"M{at - 4:g} {y - 13:g}h8l-4 6z"))
            tip += f"\npredicted from the tokens: {value(line['token_share'])}"
        if name in limits:
            shapes.append(marker("*", "paper", panel.x(limits[name][0] / size), y))
            tip += f"\npaper: {limits[name][1]} (1 seed, whole loop)"
        panel.marks.append(Mark(tip, shapes, line_href(line)))
    return panel


def _seeds(d: Drawing, panel: Panel, i: int, line: Line, measure: str, size: float) -> list[Shape]:
    if not d.several:
        return []
    each = d.seeds(line["model"], line["strategy"], measure)
    return [shape("circle", "seed", cx=panel.x(v / size), cy=panel.y(i + 0.72), r=1.8) for _, v in each]


def _tradeoff(d: Drawing, id_: str, title: str, measure: str, label: str, unit: str, size: float) -> Figure:
    panels = []
    for model in d.results.models:
        there = d.of(model)
        xs = [end / size for *_, line in there for end in d.span(line, measure)]
        ys = [end for *_, line in there for end in d.span(line, "top1_last_percent")]
        panel = plane(model_name(model), widened(xs), widened(ys), d.results.smoke)
        x_axis(panel, f"{label} ({unit})")
        y_axis(panel, "top-1, last epoch (%)")
        panel.add("text", "hint", "↖ better", x=panel.x.start + 6, y=TOP + 10)
        points = [(line[measure] / size, line["top1_last_percent"]) for *_, line in there]
        front = [points[j] for j in pareto_front(points)]
        steps, level = [(panel.x(front[0][0]), panel.y(front[0][1]))], panel.y(front[0][1])
        for x, y in front[1:]:
            steps += [(panel.x(x), level), (panel.x(x), panel.y(y))]
            level = panel.y(y)
        panel.add("path", "front", d=polyline([*steps, (panel.x.end, level)]))  # best at any larger cost, too
        for i, name, line in there:
            x, y = panel.x(line[measure] / size), panel.y(line["top1_last_percent"])
            (left, right), (below, above) = d.span(line, measure), d.span(line, "top1_last_percent")
            shapes = [shape("circle", "hit", cx=x, cy=y, r=13)]
            if d.several:
                shapes += [
                    shape("line", f"interval s{i}", x1=panel.x(left / size), x2=panel.x(right / size), y1=y, y2=y),
                    shape("line", f"interval s{i}", x1=x, x2=x, y1=panel.y(below), y2=panel.y(above)),
                ]
            shapes.append(marker(d.markers[name], f"dot s{i}", x, y))
            tip = d.tip(line, ("top1_last_percent", "top-1, last epoch", 1, "%"), (measure, label, size, unit))
            panel.marks.append(Mark(tip, shapes, line_href(line)))
        panels.append(panel)
    caption = "Dashed: the Pareto front, strategies that no other one beats in both. "
    lines = "Marker: mean; lines: 95 % intervals over seeds (Student t)." if d.several else "One seed: no interval."
    return Figure(id_, title, caption + lines, panels, True)


def _column(panel: Panel, at: float, half: float, tip: str) -> Mark:
    """A strip over all of the height, that tells the values of all lines there."""
    left, right = panel.x(at - half), panel.x(at + half)
    height = panel.y.start - panel.y.end
    return Mark(tip, [shape("rect", "strip", x=left, y=panel.y.end, width=round(right - left, 1), height=height)])


def _spread(d: Drawing, mean: str) -> str:
    return (
        f"{mean}; line: 95 % interval over seeds (Student t); dots: seeds." if d.several else "One seed: no interval."
    )
