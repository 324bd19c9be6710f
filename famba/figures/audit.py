"""The audit's figures: fitted memory, time per epoch against tokens, top-1 against starting layer."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from famba.claims.audit import epoch_time, memory
from famba.claims.audit.readings import AS_PRINTED, trainings
from famba.claims.audit.statements import MODELS
from famba.claims.published import PublishedRow
from famba.figures import palette, style, svg
from famba.figures.captions import AUDIT
from famba.text import model_name


def draw(rows: Sequence[PublishedRow], folder: Path) -> None:
    """Write every figure as SVG and PNG. Raises InputError if one cannot be written."""
    with style.theme():
        for name, figure in {"memory": _memory, "time": _time, "starting_layer": _starting_layer}.items():
            style.save(figure(rows), folder, name, AUDIT[name], prefix="audit-")


def _memory(rows: Sequence[PublishedRow]) -> Figure:
    figure = style.new_figure(2.8)
    axes = figure.add_subplot()
    for model in MODELS:
        found = trainings(rows, model)
        best = memory.fits(found)[0]
        measured = memory.peaks(found)
        label = f"{model_name(model)}, rms {best.rms_mib:.0f} MiB"
        fitted = memory.fitted(found, best)
        axes.plot(fitted / 1024, measured / 1024, "o", color=palette.MODELS[model], markersize=3, label=label)
        for one, x, y in zip(found, fitted, measured, strict=True):
            tooltip = [f"{model_name(model)}, {one.name}", f"published {y:,.0f} MiB", f"fitted {x:,.0f} MiB"]
            svg.point_tooltip(axes, x / 1024, y / 1024, tooltip, size=6)
    low, high = axes.get_xlim()
    axes.plot((low, high), (low, high), color=palette.FAINT, linewidth=0.6, zorder=0)
    axes.set(
        xlabel="fitted peak memory (GiB)", ylabel="published peak memory (GiB)", title="best reading of each model"
    )
    axes.legend()
    return figure


def _time(rows: Sequence[PublishedRow]) -> Figure:
    figure = style.new_figure(2.8)
    axes = figure.add_subplot()
    for model in MODELS:
        found = [one for one in trainings(rows, model) if one.row.table == 1]
        split = epoch_time.split(found, AS_PRINTED)
        line = split.fixed_s_per_epoch, split.fixed_s_per_epoch + split.token_s_per_epoch
        axes.plot((0, 100), line, color=palette.MODELS[model], linewidth=0.8)
        label = f"{model_name(model)}: {split.fixed_s_per_epoch:.0f} s fixed"
        shares, seconds = epoch_time.shares(found, AS_PRINTED)[:, 0], epoch_time.seconds_per_epoch(found)
        axes.plot(100 * shares, seconds, "o", color=palette.MODELS[model], markersize=3.5, label=label)
        for one, x, y in zip(found, shares, seconds, strict=True):
            tooltip = [f"{model_name(model)}, {one.row.strategy}", f"{x:.1%} of the tokens", f"published {y:.1f} s"]
            svg.point_tooltip(axes, 100 * x, y, tooltip)
    axes.set(xlabel="mean share of the tokens (%)", ylabel="published time per epoch (s)", title="Table 1")
    axes.set_xlim(0, 105)
    axes.set_ylim(0)
    axes.legend()
    return figure


def _starting_layer(rows: Sequence[PublishedRow]) -> Figure:
    figure = style.new_figure(2.8)
    axes = figure.add_subplot()
    study = [row for row in rows if row.table == 2]
    unfused = next(row for row in rows if (row.table, row.model, row.strategy) == (1, "vim_tiny", "baseline"))
    axes.plot(
        [row.start or 0 for row in study],
        [row.top1 for row in study],
        "o-",
        color=palette.MODELS["vim_tiny"],
        markersize=3.5,
    )
    for row in study:
        svg.column_tooltip(axes, row.start or 0, 1, [f"starting layer {row.start}", f"published top-1 {row.top1} %"])
    axes.axhline(unfused.top1, color=palette.FAINT, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.annotate("without fusion", (15, unfused.top1), (0, -9), textcoords="offset points", ha="right", fontsize=7)
    axes.set(xlabel="starting layer, counted from 1", ylabel="published top-1 (%)", title="Vim-Ti, upper (Table 2)")
    return figure
