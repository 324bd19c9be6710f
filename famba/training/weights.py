"""Weights from a file, whoever has written it: read without running code, and fitted to a model.

This suite's weights.pt and checkpoint.pt (or the row.json beside them), Vim's official files, bare state dicts and
safetensors. What was taken, dropped, moved and resized is said in one line each.
"""

import argparse
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from famba import files
from famba.config import Architecture, Cell
from famba.config.experiment import weights_at
from famba.config.settings import ClsPosition
from famba.config.validation import from_json, short, validated
from famba.errors import InputError
from famba.model import VisionMamba
from famba.results.row import read_row
from famba.strategies import cls_index
from famba.text import count, install, one_line
from famba.training import checkpoint

Which = Literal["model", "ema"]
# where the weights and their moving average are: here and in Vim's files, in those of timm and of others
_KEYS: dict[Which, tuple[str, ...]] = {"model": ("model", "state_dict"), "ema": ("ema", "model_ema", "state_dict_ema")}
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True)
class Stored:
    """The weights of a file, and what it says about them.

    Attributes:
        path, sha256: of the file.
        weights: by the official names.
        cell: the training that they are of, where the file names it.
        architecture: of their model, and `model`, its name; None where the file does not say.
        cls_position: of the class token; None where the file does not say.
        notes: what was dropped in reading, a line each.
    """

    path: Path
    sha256: str
    weights: dict[str, Tensor]
    cell: Cell | None = None
    architecture: Architecture | None = None
    model: str | None = None
    cls_position: ClsPosition | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """How weights came into a model: a line for each change; whether the head is the model's own, untrained one."""

    notes: tuple[str, ...]
    new_head: bool


def read(path: Path, which: Which = "model") -> Stored:
    """Read a file of weights, or of a row that has weights.pt beside it; no code in it is run.

    `which`: the weights as trained, or their moving average. Raises InputError, in one line.
    """
    if path.suffix == ".json":
        read_row(path)
        path = weights_at(path)
    if path.is_dir():
        there = [name for name in ("row.json", checkpoint.NAME) if (path / name).is_file()]
        hint = f"name a file in it, such as {path / there[0]}" if there else "name a file"
        raise InputError(f"{path}: a folder; {hint}")
    try:
        with files.open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot read the weights ({error.strerror})") from None
    if path.suffix == ".safetensors":
        return _of_safetensors(path, sha256, which)
    state = _unpickled(path)
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds a {type(state).__name__}, and no weights")
    key = next((key for key in _KEYS[which] if isinstance(state.get(key), Mapping)), None)
    if key is None and which == "ema":
        raise InputError(f"{path}: has no moving average of the weights; leave --weights ema out")
    weights, renamed = _renamed(path, state if key is None else state[key])
    left = (
        []
        if key is None
        else sorted(one_line(name) for name in state if isinstance(name, str) and name not in (key, "cell"))
    )
    notes = [renamed] if renamed else []
    notes += [f"dropped: {', '.join(left)}"] if left else []
    cell = _cell(path, state["cell"]) if key is not None and isinstance(state.get("cell"), str) else None
    if cell is not None:
        shape = _matching(path, cell.architecture, weights)
        return Stored(path, sha256, weights, cell, shape, cell.model, shape.cls_position, tuple(notes))
    return Stored(path, sha256, weights, cls_position=_told_by(state.get("args")), notes=tuple(notes))


def fit(stored: Stored, model: VisionMamba, cls_position: ClsPosition | None = None) -> Fitted:
    """Load weights into a model of the same width and depth.

    Where they differ, the grid of position embeddings is interpolated around the class token, the class token moves to
    the model's place, and a head of other classes is dropped: the model keeps its own.

    `cls_position`: of the class token in the file, where that does not say; None: as in the model.

    Raises InputError for weights of another model, or that are not finite.
    """
    weights, wanted = dict(stored.weights), model.state_dict()
    notes = list(stored.notes)
    head = weights.get(_HEAD[0])
    new_head = head is None or head.ndim != 2 or len(head) != model.head.out_features
    if new_head:
        for name in _HEAD:
            weights.pop(name, None)
        were = "dropped" if head is not None else "none in the file"
        of = f" of {len(head)} classes" if head is not None and head.ndim else ""
        notes.append(f"head{of}: {were}; the model's, of {model.head.out_features}, is new")
    _refuse_others(stored.path, weights, wanted, new_head)
    said = stored.cls_position or cls_position
    weights["pos_embed"], moved = _placed(stored.path, weights["pos_embed"], model, said)
    notes += moved
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{list(tensor.shape)}, the model needs {list(wanted[name].shape)}"
            raise InputError(f"{stored.path}: {name} is of shape {shapes}")
        if not tensor.isfinite().all():
            raise InputError(f"{stored.path}: {name} is not finite")
    model.load_state_dict(weights, strict=not new_head)
    numbers = sum(tensor.numel() for tensor in weights.values())
    return Fitted((f"taken: {count(len(weights), 'tensor')} of {numbers:,} numbers", *notes), new_head)


def _placed(
    path: Path, embedding: Tensor, model: VisionMamba, position: ClsPosition | None
) -> tuple[Tensor, list[str]]:
    """Position embeddings (1, 1 + G², C) on the model's grid, with the class token in the model's place."""
    length, now = model.pos_embed.shape[1], model.cls_index
    patches = embedding.shape[1] - 1 if embedding.ndim == 3 else 0
    if patches < 1 or len(embedding) != 1 or math.isqrt(patches) ** 2 != patches:
        raise InputError(
            f"{path}: pos_embed is of shape {list(embedding.shape)}: no square grid of patches and a class token"
        )
    here: ClsPosition = "middle" if now else "head"
    then = cls_index(patches, position or here)
    grid, wanted = math.isqrt(patches), math.isqrt(length - 1)
    notes = []
    if position is None:
        notes.append(
            f"class token: taken to be at position {then}, {_place(here)}, as in the model: the file does not say"
        )
    elif position != here:
        notes.append(f"class token: moved from position {then}, {_place(position)}, to {now}, {_place(here)}")
    if (grid, then) == (wanted, now):
        return embedding, notes
    token = embedding[:, then : then + 1]
    others = torch.cat([embedding[:, :then], embedding[:, then + 1 :]], dim=1)
    if grid != wanted:
        square = others.float().unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        square = F.interpolate(square, size=(wanted, wanted), mode="bicubic", align_corners=False)
        others = square.flatten(2).mT.to(embedding.dtype)
        notes.append(
            f"pos_embed: {grid} x {grid} patches resized to {wanted} x {wanted}, bicubically, around the class token"
        )
    return torch.cat([others[:, :now], token, others[:, now:]], dim=1), notes


def _place(position: ClsPosition) -> str:
    return "in the middle" if position == "middle" else "at the head"


def _refuse_others(path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], headless: bool) -> None:
    """Names that only one of the two has are of another model, not to be left out."""
    layers, needed = _layers(weights), _layers(wanted)
    if layers and layers != needed:
        raise InputError(f"{path}: weights of {count(layers, 'layer')}, and the model has {needed}")
    for name in wanted:
        if name not in weights and not (headless and name in _HEAD):
            raise InputError(f"{path}: has no weights {name!r}; they must be of the model's own architecture")
    if more := sorted(weights.keys() - wanted.keys()):
        raise InputError(f"{path}: the model has no {more[0]!r}; the weights must be of its own architecture")


def _layers(names: Mapping[str, Tensor]) -> int:
    numbers = [int(found[1]) for name in names if (found := re.match(r"layers\.(\d{1,6})\.", name))]
    return 1 + max(numbers, default=-1)


def _renamed(path: Path, state: Mapping[Any, Any]) -> tuple[dict[str, Tensor], str]:
    """A state dict without the prefix that its names share, and a line about that; empty if there is none."""
    other = next((name for name, value in state.items() if not (isinstance(name, str) and _is_weight(value))), None)
    if other is not None or not state:
        what = f"{short(other)} is no tensor of floating-point numbers" if state else "it is empty"
        raise InputError(f"{path}: has no weights: {what}, and there is none under {' or '.join(_KEYS['model'])}")
    weights, removed = dict(state), ""
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
        removed += prefix
    return weights, f"prefix {removed!r} taken off {count(len(weights), 'name')}" if removed else ""


def _is_weight(value: Any) -> bool:
    return checkpoint.is_plain(value) and value.dtype in _TYPES


def _matching(path: Path, told: Architecture, weights: Mapping[str, Tensor]) -> Architecture:
    """What a file says of its model, if its weights are of that: memory is taken for it before they are compared."""
    inner = told.expand * told.embed_dim
    shapes = {
        "pos_embed": (1, told.tokens, told.embed_dim),
        "layers.0.mixer.A_log": (inner, told.d_state),
        "layers.0.mixer.conv1d.weight": (inner, 1, told.d_conv),
    }
    if told.depth != _layers(weights) or any(
        name in weights and weights[name].shape != shape for name, shape in shapes.items()
    ):
        raise InputError(f"{path}: its weights are not of the model that it says they are of; name it: --model")
    return told


def _told_by(args: Any) -> ClsPosition | None:
    """Where the class token is by the name of Vim's model, such as `vim_tiny_..._with_midclstoken_div2`."""
    name = getattr(args, "model", None)
    return "middle" if isinstance(name, str) and "midclstok" in name else None


def _cell(path: Path, text: str) -> Cell:
    return validated(Cell, from_json(text, str(path)), str(path))


def _of_safetensors(path: Path, sha256: str, which: Which) -> Stored:
    """A file of `famba export`, or another's with the official names."""
    if which == "ema":
        raise InputError(f"{path}: has one set of weights; leave --weights ema out")
    safe_open = safetensors().safe_open
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it cannot be iterated)
    except Exception as error:  # SafetensorError, and what a damaged header provokes
        raise InputError(f"{path}: not a readable safetensors file ({type(error).__name__})") from None
    weights, renamed = _renamed(path, state)
    notes = (renamed,) if renamed else ()
    cell = _cell(path, told["cell"]) if "cell" in told else None
    shape: Architecture | None = None
    if "architecture" in told:
        told_shape = validated(Architecture, from_json(told["architecture"], str(path)), str(path))
        shape = _matching(path, told_shape, weights)
    elif cell is not None:
        shape = _matching(path, cell.architecture, weights)
    model = one_line(told["model"]) if "model" in told else None
    return Stored(path, sha256, weights, cell, shape, model, shape.cls_position if shape else None, notes)


def safetensors() -> Any:
    """The package. Raises InputError, with how to get it, where it is missing."""
    try:
        import safetensors.torch  # noqa: PLC0415 (timm's dependency, which the paper's recipe alone needs)
    except ImportError:
        raise InputError(f"safetensors is not installed; {install('paper')}") from None
    return safetensors


def _unpickled(path: Path) -> Any:
    """What torch.save has written: tensors, containers, numbers, texts, and an argparse.Namespace of these."""
    try:
        flaw = files.flaw(path)
        if flaw != files.MISMATCH:  # of this suite, or from elsewhere
            flaw = checkpoint.flaw_of_archive(path, is_sealed=flaw is None)
        if flaw:
            raise InputError(f"{path}: damaged: {flaw}")
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory") from None
    except Exception as error:  # torch.load raises whatever a damaged archive provokes
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{path}: holds a {found[1]}, and to read that could run code; save its state dict by itself"
            ) from None
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None
