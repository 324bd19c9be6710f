"""What a training remembers from epoch to epoch, and the file that keeps it.

checkpoint.pt is there while a training is under way, and checkpoint.previous.pt, of an epoch before, in case that it is
damaged. Once its cell is finished the checkpoint becomes weights.pt. All are sealed (famba/seal.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from famba import seal
from famba.config import Cell
from famba.record import EPOCH_FIELDS, Accuracy, Initial

NAME, PREVIOUS, WEIGHTS = "checkpoint.pt", "checkpoint.previous.pt", "weights.pt"


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


def write(folder: Path, cell: Cell, data: str, history: History, states: Mapping[str, Any]) -> None:
    """Write the checkpoint, whole or not at all; the one before it stays as the previous one.

    `states`: state dicts of model, ema and optimizer. Raises InputError if it cannot be written.
    """
    path = folder / NAME
    state = {"cell": cell.model_dump_json(), "data": data, **states, "history": asdict(history)}
    with seal.sealed_file(path) as file:
        torch.save(state, file)  # type: ignore[arg-type] # it only writes
        if path.exists():
            path.replace(folder / PREVIOUS)


def present(folder: Path) -> list[Path]:
    """The checkpoints of a training that has begun and not ended, the newest first."""
    return [path for name in (NAME, PREVIOUS) if (path := folder / name).exists()]


def finish(folder: Path) -> None:
    """Turn the checkpoint into the weights of a cell that is done."""
    (folder / PREVIOUS).unlink(missing_ok=True)
    (folder / NAME).replace(folder / WEIGHTS)


def remove_partial(folder: Path) -> None:
    """Delete the half-written files of a training that was killed. Only for who holds the folder's lock."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """What `write` wrote. Raises Damaged, with the reason, for any other file."""
    try:
        if reason := seal.flaw(path):
            raise Damaged(reason)
        state = torch.load(path, map_location=device, weights_only=True)
    except Damaged:
        raise
    except Exception as error:  # torch.load raises whatever an archive provokes
        raise Damaged(f"cannot be read: {type(error).__name__}") from None
    if not isinstance(state, dict) or not {"cell", "data", "model", "ema", "optimizer", "history"} <= state.keys():
        raise Damaged("is no checkpoint")
    return state


class Damaged(Exception):
    """A checkpoint that cannot be read."""


def mismatch(state: Mapping[str, Any], cell: Cell, data: str, states: Mapping[str, Any], init: Initial) -> str | None:
    """Why this checkpoint cannot be resumed by a training of this cell, data and initial weights; None if it can.

    `states`: the state dicts of the training's own model, ema and optimizer.
    """
    if state["cell"] != cell.model_dump_json():
        return "other settings"
    if state["data"] != data:
        return "other data"
    if not (_whole(state["history"]) and _alike(state, states)):
        return "another version of famba"
    return None if state["history"]["init"] == init.model_dump() else "other initial weights"


def _whole(history: Any) -> bool:
    """Whether a history has every field, and an entry with every number of every epoch."""
    known = {entry.name for entry in fields(History)}
    if not isinstance(history, dict) or history.keys() != known or not isinstance(history["epochs"], list):
        return False
    return all(
        isinstance(epoch, dict)
        and epoch.keys() == set(EPOCH_FIELDS)
        and all(isinstance(value, int | float) for value in epoch.values())
        for epoch in history["epochs"]
    )


def _alike(state: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether all tensors have the names, types and shapes of the training's own."""
    if any(_forms(state[part]) != _forms(own[part]) for part in ("model", "ema")):
        return False
    groups, own_groups = (found.get("param_groups", ()) for found in (state["optimizer"], own["optimizer"]))
    if [group.get("params") for group in groups] != [group["params"] for group in own_groups]:
        return False
    shapes = sorted(tuple(value.shape) for value in own["model"].values())
    moments = list(state["optimizer"].get("state", {}).values())
    named = all({"step", "exp_avg", "exp_avg_sq"} <= moment.keys() for moment in moments)
    return named and shapes == sorted(tuple(moment["exp_avg"].shape) for moment in moments)


def _forms(tensors: Any) -> Any:
    if not isinstance(tensors, Mapping):
        return None
    return {name: (getattr(t, "dtype", None), getattr(t, "shape", None)) for name, t in tensors.items()}


def archive(path: Path, why: str) -> Path:
    """Rename a checkpoint to the first free name, checkpoint.<why>[-N].pt, so that none is lost; returns that."""
    number, aside = 1, path.with_name(f"checkpoint.{why}.pt")
    while aside.exists():
        number += 1
        aside = path.with_name(f"checkpoint.{why}-{number}.pt")
    return path.replace(aside)
