"""What a training remembers from epoch to epoch, and the file that keeps it.

checkpoint.pt is there while a training is under way; once its cell is finished it becomes weights.pt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from famba.config import Cell
from famba.errors import InputError
from famba.record import EPOCH_FIELDS, Accuracy, Initial, atomic_file

NAME = "checkpoint.pt"


@dataclass
class History:
    """The part of a training that is neither weights nor optimiser."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    step_cpu_ms: list[float] = field(default_factory=list)
    total_s: float = 0.0
    warmup_s: float = 0.0
    warmup_cpu_s: float = 0.0
    thread_cpu_s: float = 0.0  # without the warm-up
    loop_cpu_s: float = 0.0
    runs: int = 0
    device_peak: int = 0
    host_peak: int = 0
    energy_joules: float | None = 0.0
    started: str = ""
    init: dict[str, str | None] = field(default_factory=dict)

    def sum(self, key: str) -> float:
        return sum(epoch[key] for epoch in self.epochs)

    def accuracy(self, epoch: dict[str, float], prefix: str = "") -> Accuracy:
        return Accuracy(epoch=int(epoch["epoch"]), top1=epoch[f"{prefix}top1"], top5=epoch[f"{prefix}top5"])

    def last(self, prefix: str = "") -> Accuracy:
        return self.accuracy(self.epochs[-1], prefix)

    def best(self, prefix: str = "") -> Accuracy:
        """The epoch with the highest top-1, the first of equals: chosen on the test set, as the paper's number is."""
        return self.accuracy(max(self.epochs, key=lambda epoch: epoch[f"{prefix}top1"]), prefix)


def write(path: Path, cell: Cell, data: str, history: History, states: Mapping[str, Any]) -> None:
    """Replace the checkpoint, whole or not at all. `states`: state dicts of model, ema and optimizer."""
    state = {"cell": cell.model_dump_json(), "data": data, **states, "history": asdict(history)}
    with atomic_file(path, binary=True) as file:
        torch.save(state, file)


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """What `write` wrote. Raises InputError for a file that is something else."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        missing = {"cell", "data", "model", "ema", "optimizer", "history"} - state.keys()
    except Exception as error:  # torch.load raises whatever a damaged archive provokes
        raise InputError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); delete it to start anew"
        ) from None
    if missing:
        raise InputError(f"{path}: not a checkpoint (no {', '.join(sorted(missing))}); delete it to start anew")
    return state


def foreign(state: Mapping[str, Any], cell: Cell, data: str, parameters: set[str], init: Initial) -> str | None:
    """Of what else a checkpoint is, if a training of this cell, data and model cannot take it up."""
    if state["cell"] != cell.model_dump_json():
        return "other settings"
    if state["data"] != data:
        return "other data"
    history = state["history"]
    known = {entry.name for entry in fields(History)}
    whole = history.keys() == known and all(epoch.keys() == set(EPOCH_FIELDS) for epoch in history["epochs"])
    if not whole or state["model"].keys() != parameters:
        return "another version of famba"
    return None if history["init"] == init.model_dump() else "other initial weights"


def set_aside(path: Path) -> Path:
    """Rename a checkpoint to the first name that is free, so that none is ever lost; returns that."""
    number, aside = 1, path.with_name("checkpoint.other-settings.pt")
    while aside.exists():
        number += 1
        aside = path.with_name(f"checkpoint.other-settings-{number}.pt")
    return path.replace(aside)
