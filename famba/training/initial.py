"""The weights that a training starts from: the seed's, or those of a checkpoint (fine-tuning)."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import torch
from torch import nn

from famba import files
from famba.errors import InputError
from famba.results.row import Initial

SCRATCH = Initial(weights="scratch", sha256=None)


def identify(path: Path | None) -> Initial:
    """What a row records of a checkpoint, or of none. Raises InputError if it cannot be read."""
    if path is None:
        return SCRATCH
    try:
        with path.open("rb") as file:
            return Initial(weights=path.name, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise InputError(f"{path}: cannot read the initial weights ({error.strerror})") from None


def load(path: Path, model: nn.Module) -> None:
    """Load weights: a state dict, or a file that has one under `model`, as weights.pt. Raises InputError."""
    try:
        flaw = files.flaw(path)
        if flaw == files.UNSEALED:  # from elsewhere: torch.load does not compare the checksums that its archive holds
            flaw = _flaw_of_archive(path)
        if flaw:
            raise InputError(f"{path}: damaged: {flaw}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch.load raises whatever a damaged archive provokes
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None
    state = state.get("model", state) if isinstance(state, dict) else {}
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        found = state.get(name)
        if not isinstance(found, torch.Tensor):
            raise InputError(f"{path}: has no weights {name!r}; initial weights must be of the cell's own model")
        if found.shape != tensor.shape:
            shapes = f"{list(found.shape)}, the cell's model needs {list(tensor.shape)}"
            raise InputError(f"{path}: {name} is of shape {shapes}")
        if not found.isfinite().all():
            raise InputError(f"{path}: {name} is not finite")
    if more := sorted(state.keys() - wanted.keys()):
        raise InputError(
            f"{path}: the cell's model has no {more[0]!r}; initial weights must be of the cell's own model"
        )
    model.load_state_dict(state)


def _flaw_of_archive(path: Path) -> str | None:
    """What is wrong with a zip archive, as torch writes them; None of files of another kind."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        member = archive.testzip()
    return member and f"the checksum of {member} does not match"


def digest(model: nn.Module) -> str:
    """sha256 of a model's parameters, to notice a change of them."""
    seen = hashlib.sha256()
    for tensor in model.state_dict().values():
        seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return seen.hexdigest()
