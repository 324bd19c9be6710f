"""What a training remembers from one run to the next, and the file that keeps it.

checkpoint.pt is there while a training is under way, and checkpoint.previous.pt, of an epoch before, in case that it is
damaged. Once its cell is finished the checkpoint becomes weights.pt. All are sealed (famba/files.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from famba import files
from famba.config import Cell
from famba.errors import InputError
from famba.results.epochs import EPOCH_FIELDS
from famba.results.row import Accuracy, Initial

NAME, PREVIOUS, WEIGHTS = "checkpoint.pt", "checkpoint.previous.pt", "weights.pt"


@dataclass
class EpochSoFar:
    """The steps of an epoch that is not over: how many there are, and their times in seconds, summed."""

    steps: int = 0
    train_s: float = 0.0
    cpu_s: float = 0.0
    data_wait_s: float = 0.0


@dataclass
class History:
    """The part of a training that is neither weights nor optimiser."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    epoch_so_far: EpochSoFar = field(default_factory=EpochSoFar)
    losses: list[float] = field(default_factory=list)  # of every step
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

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> History:
        """What `asdict` made of one."""
        return cls(**{**saved, "epoch_so_far": EpochSoFar(**saved["epoch_so_far"])})

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
    with files.sealed_file(path) as file:
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
    """What `write` wrote.

    Raises:
        Damaged: with the reason, for any other file.
        InputError: the file cannot be read now, which says nothing about what it holds. Memory errors pass, too.
    """
    try:
        if reason := files.flaw(path):
            raise Damaged(reason)
        state = torch.load(path, map_location=device, weights_only=True)
    except (Damaged, MemoryError, torch.OutOfMemoryError):
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot read the checkpoint ({error.strerror}); it stays; run again") from None
    except Exception as error:  # torch.load raises whatever an archive provokes
        raise Damaged(f"cannot be read: {type(error).__name__}") from None
    if not isinstance(state, dict) or not {"cell", "data", "model", "ema", "optimizer", "history"} <= state.keys():
        raise Damaged("is no checkpoint")
    return state


class Damaged(Exception):
    """A checkpoint that cannot be read."""


def mismatch(
    state: Mapping[str, Any],
    cell: Cell,
    data: str,
    states: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    init: Initial,
) -> str | None:
    """Why this checkpoint cannot be resumed by a training of this cell, data and initial weights; None if it can.

    `states`: the state dicts of the training's own model, ema and optimizer. Compared before anything is loaded: fused
    optimisers take the shapes of their state as given.
    """
    if state["cell"] != cell.model_dump_json():
        return "other settings"
    if state["data"] != data:
        return "other data"
    if not (_whole(state["history"], cell.recipe.epochs) and _alike(state, states, optimizer)):
        return "another version of famba"
    moments = (value for moment in state["optimizer"]["state"].values() for value in moment.values())
    if not all(tensor.isfinite().all() for tensor in (*state["model"].values(), *state["ema"].values(), *moments)):
        return "values that are not finite"
    return None if state["history"]["init"] == init.model_dump() else "other initial weights"


def _whole(history: Any, epochs: int) -> bool:
    """Whether a history has every field in its type, and every number of every epoch so far, of at most `epochs`."""
    empty = asdict(History())
    if not isinstance(history, dict) or history.keys() != empty.keys():
        return False
    numbers = [value for name, value in history.items() if isinstance(empty[name], int | float)]
    texts = isinstance(history["started"], str) and isinstance(history["init"], dict)
    so_far = history["epoch_so_far"]
    if not isinstance(so_far, dict) or so_far.keys() != empty["epoch_so_far"].keys():
        return False
    numbers += so_far.values()
    lists = [history[name] for name in ("epochs", "step_ms", "step_cpu_ms", "losses")]
    if not texts or not all(isinstance(found, list) for found in lists) or len(lists[0]) > epochs:
        return False
    if len(lists[0]) == (epochs if so_far["steps"] else 0):  # a step beyond the last epoch, or none at all
        return False
    for number, epoch in enumerate(lists[0]):
        if not isinstance(epoch, dict) or epoch.keys() != set(EPOCH_FIELDS) or epoch["epoch"] != number:
            return False
        numbers += epoch.values()
    if history["energy_joules"] is None:
        numbers.remove(None)
    return all(
        isinstance(value, int | float) and math.isfinite(value) for value in (*numbers, *lists[1], *lists[2], *lists[3])
    )


def _alike(state: Mapping[str, Any], own: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether all tensors have the names, types and shapes of the training's own, and the optimiser its settings."""
    if any(_forms(state[part]) != _forms(own[part]) for part in ("model", "ema")):
        return False
    theirs = state["optimizer"]
    if not isinstance(theirs, dict) or theirs.keys() != {"state", "param_groups"}:
        return False
    groups, moments = theirs["param_groups"], theirs["state"]
    if not isinstance(groups, list) or not isinstance(moments, dict):
        return False
    settings = [{**group, "lr": None} for group in own["optimizer"]["param_groups"]]  # the rate changes as it trains
    found = [{**g, "lr": None} if isinstance(g, dict) and isinstance(g.get("lr"), float) else None for g in groups]
    forms = {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        form = (parameter.dtype, parameter.shape)
        forms[index] = {"step": (torch.float32, torch.Size()), "exp_avg": form, "exp_avg_sq": form}
    return found == settings and {index: _forms(moment) for index, moment in moments.items()} == forms


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
