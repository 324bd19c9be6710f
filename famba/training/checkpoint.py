"""The files that a training resumes from: its history, weights, moving average and optimiser.

checkpoint.pt is there while a training is under way, and checkpoint.previous.pt, of an epoch before, in case that it is
damaged. Once its cell is finished the checkpoint becomes weights.pt. All are sealed (famba/files.py).
"""

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from famba import files
from famba.config import Cell
from famba.config.experiment import WEIGHTS
from famba.errors import InputError
from famba.results.row import Initial
from famba.training.history import History, is_whole
from famba.training.status import CHECKPOINTS

NAME, PREVIOUS = CHECKPOINTS


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
    return [path for name in CHECKPOINTS if (path := folder / name).exists()]


def finish(folder: Path) -> None:
    """Turn the checkpoint into the weights of a cell that is done."""
    (folder / PREVIOUS).unlink(missing_ok=True)
    (folder / NAME).replace(folder / WEIGHTS)


def remove_partial(folder: Path) -> None:
    """Delete the half-written files of a training that was killed. The caller must hold the folder's lock."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        Damaged: with the reason, for any other file.
        InputError: the file cannot be read now, which says nothing about its content. Memory errors pass through.
    """
    try:
        if reason := files.flaw(path) or flaw_of_archive(path, is_sealed=True):
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
    if not isinstance(state["cell"], str) or not isinstance(state["data"], str):
        raise Damaged("is no checkpoint")
    return state


def flaw_of_archive(path: Path, is_sealed: bool) -> str | None:
    """What is wrong with a zip archive, as torch writes them; None of files of another kind. Raises as zipfile does.

    torch.load would unpack gigabytes from a few thousand bytes, and compares no checksum: a seal covers them all.
    """
    with files.open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            return None
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            packed = any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members)
            if packed or sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
                return "its members are compressed or encrypted, or overlap"
            member = None if is_sealed else archive.testzip()
    return member and f"the checksum of {member} does not match"


class Damaged(Exception):
    """A checkpoint that cannot be read."""


class Rejected(NamedTuple):
    """A checkpoint that is not resumed: `why`, for its new name, and the reason in words."""

    path: Path
    why: str
    reason: str


def newest(
    folder: Path, device: torch.device, mismatch: Callable[[Mapping[str, Any]], str | None]
) -> tuple[dict[str, Any] | None, list[Rejected]]:
    """The newest checkpoint that can be resumed, if there is one, and those that had to be rejected before it.

    `mismatch`: why a checkpoint cannot be resumed by this training; None if it can. Raises as `read`.
    """
    rejected: list[Rejected] = []
    for path in present(folder):
        try:
            state = read(path, device)
        except Damaged as damage:
            rejected.append(Rejected(path, "damaged", f"{path} is damaged ({damage})"))
            continue
        other = mismatch(state)
        if other is None:
            return state, rejected
        rejected.append(Rejected(path, "other-settings", f"{path} is a checkpoint of {other}"))
    return None, rejected


def mismatch(
    state: Mapping[str, Any],
    cell: Cell,
    data: str,
    states: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    init: Initial,
    steps: int,
) -> str | None:
    """Why this checkpoint cannot be resumed by this cell, data and initial weights; None if it can.

    `states`: the state dicts of the training's own model, ema and optimizer; `steps`: of an epoch. Compared before
    anything is loaded: fused optimisers take the shapes of their state as given.
    """
    if state["cell"] != cell.model_dump_json():
        return "other settings"
    if state["data"] != data:
        return "other data"
    if not (is_whole(state["history"], cell.recipe.epochs, steps) and _alike(state, states, optimizer)):
        return "another version of famba"
    moments = (value for moment in state["optimizer"]["state"].values() for value in moment.values())
    if not all(tensor.isfinite().all() for tensor in (*state["model"].values(), *state["ema"].values(), *moments)):
        return "values that are not finite"
    return None if state["history"]["init"] == init.model_dump() else "other initial weights"


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
    found = [{**g, "lr": None} if _is_group(g) else None for g in groups]
    forms = {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        form = (parameter.dtype, parameter.shape)
        forms[index] = {"step": (torch.float32, torch.Size()), "exp_avg": form, "exp_avg_sq": form}
    return found == settings and {index: _forms(moment) for index, moment in moments.items()} == forms


def _is_group(found: Any) -> bool:
    """Whether it has a rate, and no value that a comparison could stumble over, as it does over a tensor."""
    if not isinstance(found, dict) or not isinstance(found.get("lr"), float):
        return False
    parts = [part for value in found.values() for part in (value if isinstance(value, list | tuple) else [value])]
    return all(isinstance(part, int | float | str | None) for part in parts)


def _forms(tensors: Any) -> Any:
    if not isinstance(tensors, Mapping):
        return None
    return {name: (t.dtype, t.shape) if is_plain(t) else None for name, t in tensors.items()}


def is_plain(tensor: Any) -> bool:
    """Whether it is a tensor as modules have them: dense, and every element in its own place of the file.

    An expanded one may stand for more elements than any memory holds.
    """
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type != "meta"
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def archive(path: Path, why: str) -> Path:
    """Rename a checkpoint to the first free name, checkpoint.<why>[-N].pt, so that none is lost; returns that."""
    number, aside = 1, path.with_name(f"checkpoint.{why}.pt")
    while aside.exists():
        number += 1
        aside = path.with_name(f"checkpoint.{why}-{number}.pt")
    return path.replace(aside)
