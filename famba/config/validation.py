"""One line about the first thing that is wrong with settings or a file, with the nearest name where one is misspelt."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from famba.errors import InputError
from famba.files import read_bytes
from famba.text import nearest

NAME, FOLDER_NAME = r"^[a-z0-9_]+$", r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
_NAMES = {
    NAME: "it has lower-case letters, digits and _; famba figures --style gives a strategy another in figures",
    FOLDER_NAME: "it has letters, digits, _, . and -, and does not begin with . or -",
}
_SHOWN = 100  # characters of a wrong value that are shown
# what settings are called elsewhere, where the spelling does not lead to famba's name: mamba-ssm, timm, transformers
SYNONYMS = {
    **dict.fromkeys(("width", "dim", "d_model", "hidden_dim", "hidden_size", "channels"), "embed_dim"),
    **dict.fromkeys(("layers", "n_layer", "n_layers", "num_layers", "num_hidden_layers", "blocks"), "depth"),
    **dict.fromkeys(("resolution", "input_size", "image_size"), "img_size"),
    **dict.fromkeys(("state_size", "d_ssm", "ssm_state"), "d_state"),
    **dict.fromkeys(("conv_kernel", "kernel_size", "kernel"), "d_conv"),
    **dict.fromkeys(("class_token", "cls_token", "cls"), "cls_position"),
    **dict.fromkeys(("batch", "batch_size", "train_batch_size", "bs"), "global_batch"),
    **dict.fromkeys(("learning_rate", "max_lr", "base_lr"), "lr"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("warmup", "warmup_steps"), "warmup_epochs"),
    **dict.fromkeys(("num_epochs", "max_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("dtype", "amp", "bf16", "mixed_precision"), "precision"),
    **dict.fromkeys(("aa", "auto_augment", "randaugment"), "rand_augment"),
    **dict.fromkeys(("reprob", "erasing"), "random_erasing"),
    **dict.fromkeys(("repeated_aug", "num_repeats"), "repeats"),
    **dict.fromkeys(("model_ema", "ema"), "ema_decay"),
    **dict.fromkeys(("num_workers", "loaders"), "workers"),
    **dict.fromkeys(("checkpoint", "weights", "pretrained", "finetune"), "init"),
    **dict.fromkeys(("gpus", "n_gpus", "num_gpus", "world_size"), "processes"),
    "smoothing": "label_smoothing",
    "backend": "scan",
    "name": "experiment",
    "ledger": "claims",
}


class Strict(BaseModel):
    """Base of all settings and records: frozen; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


Settings = TypeVar("Settings", bound=BaseModel)


def validated(cls: type[Settings], data: Any, source: str) -> Settings:
    """Validate, or raise one line about the first thing that is wrong."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{source}: {_first(error, cls)}") from None


def read_json(
    cls: type[Settings], path: Path, what: str, absent: str = "", invalid: str = "", root: Path = Path()
) -> Settings:
    """Read and validate the JSON file `root / path`.

    For messages: `what` it is, and what to do where it is `absent` or `invalid`.

    Raises InputError, one line naming file and field.
    """
    try:
        return cls.model_validate_json(read_bytes(root / path).decode("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the {what} ({error.strerror}){absent}") from None
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except ValidationError as error:
        problem = _first(error, cls)
        if other := next((e["input"] for e in error.errors() if e["loc"] == ("version",)), None):
            known = cls.model_fields["version"].default
            problem = f"format version {other}, but this famba reads version {known}"
    raise InputError(f"{path}: not a valid {what}: {problem}{invalid}")


def _first(error: ValidationError, cls: type[BaseModel]) -> str:
    """The first thing that is wrong, beginning with its place."""
    # a misspelt key before the required one that it leaves missing: its nearest name says both
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    where = ".".join(str(part)[:_SHOWN] for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        message = f"unknown key{_meant(str(first['loc'][-1])[:_SHOWN], _class_at(cls, first['loc'][:-1]))}"
    else:
        message = re.sub(r"\S{200,}", lambda word: f"{word[0][:_SHOWN]}…", first["msg"].removeprefix("Value error, "))
        rule = _NAMES.get(str(first.get("ctx", {}).get("pattern")))
        if rule:
            message = f"{short(first['input'])} is no such name: {rule}"
        elif first["type"] not in ("value_error", "missing", "json_invalid"):
            message += f", found {short(first['input'])}"
        if first["type"] == "literal_error":
            message += nearest(short(first["input"]), re.findall(r"'([^']+)'", first["ctx"]["expected"]), others="")
    return f"{where + ': ' if where else ''}{message}"


def from_json(text: str, source: str) -> Any:
    """Parse JSON. Raises InputError, one line that begins with `source`."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{source} is not JSON ({reason})") from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {short(next(key for key in keys if keys.count(key) > 1))} is there twice")
    return found


def short(value: Any) -> str:
    """A value as Python writes it, or the beginning of that."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return leaves


def _meant(key: str, cls: type[BaseModel]) -> str:
    """What is said of an unknown key of a settings class: the known one of this meaning or spelling, or its place."""
    meant = SYNONYMS.get(key.lower().replace("-", "_"), key)
    known = _keys(cls)
    for name in known if meant not in known else ():
        inner = _settings_in(cls.model_fields[name].annotation) if name in cls.model_fields else None
        if inner and inner is not cls and meant in _keys(inner):
            return f"; did you mean {meant!r} under {name!r}?"
    return nearest(meant if meant in known else key, known)


def _keys(cls: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in cls.model_fields.items()]


def _class_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The class of the settings at a location inside a settings class."""
    for part in loc:
        field = cls.model_fields.get(str(part))
        cls = (_settings_in(field.annotation) if field else None) or cls
    return cls


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class in a type such as `dict[str, Architecture]`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _settings_in(a))), None)
