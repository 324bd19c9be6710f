"""`famba plan`: what an experiment will cost, before anything is spent."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from famba.config import Experiment
from famba.cost import memory
from famba.cost.plan import ELSEWHERE, Prediction, plan
from famba.cost.roofline import PROFILES
from famba.errors import InputError
from famba.files import write_text
from famba.results import tables
from famba.results.row import grouped
from famba.results.tables import Column
from famba.text import count, time_unit


def table(predictions: Sequence[Prediction], notes: Sequence[str], experiment: Experiment) -> str:
    """The plan for people: the total, what it rests on, and a line for each model and strategy."""
    kinds = grouped(predictions, lambda p: (p.model, p.strategy)).values()
    unit, size = time_unit(max(p.cell_s for p in predictions))
    heads = ("seeds", "tokens", "share", "step (ms)", "images/s", "saved/image", "peak (GiB)", f"time of one ({unit})")
    body = [
        (
            p.model,
            p.strategy,
            str(n),
            f"{p.tokens_first} → {p.tokens_final}",
            f"{p.token_share:.3f}",
            f"{p.step_s * 1e3:,.0f}",
            f"{p.images_per_s:,.0f}",
            f"{p.saved_per_image / 2**20:.1f} MiB",
            f"{p.peak_bytes / 2**30:.2f}",
            f"{p.cell_s / size:,.2f}",
        )
        for p, n in ((group[0], len(group)) for group in kinds)
    ]
    cells = tables.table([Column("model"), Column("strategy"), *(Column(head, "r") for head in heads)], body)
    together, long = sum(p.hours for p in predictions) * 3600, {"h": "hours", "min": "minutes", "s": "seconds"}
    whole, of_whole = time_unit(together)
    device = notes[0].removeprefix("device: ").partition(",")[0]
    waiting = sum(p.limit == "data" for p in predictions)
    return "\n".join(
        [
            f"total: {together / of_whole:,.1f} {long[whole]} of one {device}, one cell after the other"
            + (f"; cells that wait for their data: {waiting}" if waiting else ""),
            f"{experiment.experiment}: {count(len(predictions), 'cell')}, "
            + " and ".join(dict.fromkeys(f"{count(r.epochs, 'epoch')}, {r.precision}" for r in experiment.recipes)),
            *notes,
            "",
            cells.plain,
        ]
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba plan`."""
    parser.description = (
        "Predict step time, memory and hours of every cell. Example: famba plan --config config/paper.yaml "
        "--device a100"
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="experiment file")
    parser.add_argument(
        "--device",
        choices=["measure", *PROFILES],
        help="measure probes on the experiment's device here, or calculate from a datasheet [measure; "
        f"{ELSEWHERE} for an experiment that asks for a GPU where there is none]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the predictions there")


def main(args: argparse.Namespace) -> None:
    experiment = Experiment.load(args.config)
    experiment.require_claims()
    elsewhere = args.device is None and experiment.device == "cuda" and not torch.cuda.is_available()

    def advice(error: BaseException) -> str:
        return f"{memory.lack(error)}; or calculate from a datasheet: --device {' or '.join(PROFILES)}"

    try:
        with memory.reported(experiment.experiment, advice):
            predictions, notes = plan(experiment, ELSEWHERE if elsewhere else args.device or "measure")
    except InputError as error:
        if args.device != "measure" or experiment.device != "cuda":
            raise
        raise InputError(f"{error}; or plan for a GPU that is elsewhere: --device {' or '.join(PROFILES)}") from None
    if elsewhere:
        notes.append(f"no GPU is here, so one that is elsewhere was planned for: --device {' or '.join(PROFILES)}")
    print(table(predictions, notes, experiment))
    if args.json:
        write_text(
            args.json,
            json.dumps(
                {"experiment": experiment.experiment, "basis": notes, "cells": list(map(asdict, predictions))}, indent=1
            ),
        )
