"""The weights that a training starts from: the seed's, or those of a checkpoint (fine-tuning)."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from famba.config import Cell
from famba.config.experiment import weights_at
from famba.errors import InputError
from famba.files import open_regular
from famba.model import VisionMamba
from famba.results.row import Initial
from famba.training import weights

SCRATCH = Initial(weights="scratch", sha256=None)


def chosen(cell: Cell, path: Path | None) -> Path | None:
    """The checkpoint to start from: that of the command line, else the recipe's. Raises InputError where both say."""
    if cell.init is None:
        return None if path is None else weights_at(path)
    if path is not None:
        raise InputError(f"--init {path}: the cell's recipe says init: {cell.init}; leave one of the two out")
    return cell.init


def identify(path: Path | None) -> Initial:
    """What a row records of a checkpoint, or of none. Raises InputError if it cannot be read."""
    if path is None:
        return SCRATCH
    try:
        with open_regular(path) as file:
            return Initial(weights=path.name, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise InputError(f"{path}: cannot read the initial weights ({error.strerror})") from None


def load(path: Path, model: VisionMamba) -> tuple[str, ...]:
    """Load weights from a file; returns a line for each thing taken, dropped, moved and resized. Raises InputError."""
    return weights.fit(weights.read(path), model).notes


def digest(model: nn.Module) -> str:
    """sha256 of a model's parameters, to notice a change of them."""
    seen = hashlib.sha256()
    for tensor in model.state_dict().values():
        seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return seen.hexdigest()
