"""The audit's figures: fitted memory, time per epoch against tokens, top-1 against starting layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from famba.claims.audit import epoch_time, memory
from famba.claims.audit.readings import trainings
from famba.claims.audit.statements import MODELS
from famba.claims.published import PublishedRow
from famba.figures import style
from famba.files import atomic_file
from famba.text import model_name

_COLOUR = {"vim_tiny": "#0072b2", "vim_small": "#d55e00"}  # Okabe and Ito


def draw(rows: Sequence[PublishedRow], folder: Path) -> None:
    """Write every figure as SVG and PNG. Raises InputError if one cannot be written."""
    with style.theme():
        for name, figure in (
            ("memory", _memory(rows)),
            ("time", _time(rows)),
            ("starting_layer", _starting_layer(rows)),
        ):
            for kind in ("svg", "png"):
                with atomic_file(folder / f"{name}.{kind}", binary=True) as file:
                    figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})


def _memory(rows: Sequence[PublishedRow]) -> Figure:
    figure = style.new_figure(style.COLUMN, 2.8)
    axes = figure.add_subplot()
    for model in MODELS:
        found = trainings(rows, model)
        best = memory.fits(found)[0]
        measured = memory.peaks(found)
        label = f"{model_name(model)}, rms {best.rms:.0f} MiB"
        axes.plot(
            (measured - best.residuals) / 1024, measured / 1024, "o", color=_COLOUR[model], markersize=3, label=label
        )
    low, high = axes.get_xlim()
    axes.plot((low, high), (low, high), color=style.FAINT, linewidth=0.6, zorder=0)
    axes.set(
        xlabel="fitted peak memory (GiB)", ylabel="published peak memory (GiB)", title="best reading of each model"
    )
    axes.legend()
    return figure


def _time(rows: Sequence[PublishedRow]) -> Figure:
    figure = style.new_figure(style.COLUMN, 2.8)
    axes = figure.add_subplot()
    for model in MODELS:
        found = [one for one in trainings(rows, model) if one.row.table == 1]
        split = epoch_time.split(found, epoch_time.TOLD)
        share = np.array((0.0, 1.0))
        axes.plot(100 * share, split.fixed + split.token * share, color=_COLOUR[model], linewidth=0.8)
        label = f"{model_name(model)}: {split.fixed:.0f} s fixed"
        axes.plot(100 * split.shares, split.seconds, "o", color=_COLOUR[model], markersize=3.5, label=label)
    axes.set(xlabel="mean share of the tokens (%)", ylabel="published time per epoch (s)", title="Table 1")
    axes.set_xlim(0, 105)
    axes.set_ylim(0)
    axes.legend()
    return figure


def _starting_layer(rows: Sequence[PublishedRow]) -> Figure:
    figure = style.new_figure(style.COLUMN, 2.8)
    axes = figure.add_subplot()
    study = [row for row in rows if row.table == 2]
    unfused = next(row for row in rows if (row.table, row.model, row.strategy) == (1, "vim_tiny", "baseline"))
    axes.plot(
        [row.start or 0 for row in study], [row.top1 for row in study], "o-", color=_COLOUR["vim_tiny"], markersize=3.5
    )
    axes.axhline(unfused.top1, color=style.FAINT, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.annotate("without fusion", (15, unfused.top1), (0, -9), textcoords="offset points", ha="right", fontsize=7)
    axes.set(xlabel="starting layer, counted from 1", ylabel="published top-1 (%)", title="Vim-Ti, upper (Table 2)")
    return figure
