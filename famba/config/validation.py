"""One line about the first thing that is wrong with settings or a file, with the nearest name where one is misspelt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from famba.errors import InputError
from famba.text import nearest, one_line

_SHOWN = 100  # characters of a wrong value that are shown


class Strict(BaseModel):
    """Base of all settings and records: frozen; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def validated(cls: type[Any], data: Any, source: str) -> Any:
    """Validate, or raise one line about the first thing that is wrong."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise InputError(one_line(f"{source}: {_first(error, cls)}")) from None


def read_json(cls: type[Any], path: Path, what: str, absent: str = "", invalid: str = "", root: Path = Path()) -> Any:
    """Read and validate the JSON file `root / path`.

    For messages: `what` it is, and what to do where it is `absent` or `invalid`.

    Raises InputError, one line naming file and field.
    """
    try:
        return cls.model_validate_json((root / path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the {what} ({error.strerror}){absent}") from None
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except ValidationError as error:
        problem = _first(error, cls)
        if other := next((e["input"] for e in error.errors() if e["loc"] == ("version",)), None):
            known = cls.model_fields["version"].default
            problem = f"format version {other}, but this famba reads version {known}"
    raise InputError(one_line(f"{path}: not a valid {what}: {problem}{invalid}"))


def _first(error: ValidationError, cls: type[BaseModel]) -> str:
    """The first thing that is wrong, beginning with its place."""
    # a misspelt key before the required one that it leaves missing: its nearest name says both
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    where = ".".join(str(part)[:_SHOWN] for part in first["loc"])
    if first["type"] == "extra_forbidden":
        message = f"unknown key{nearest(str(first['loc'][-1])[:_SHOWN], _fields_at(cls, first['loc'][:-1]))}"
    else:
        message = re.sub(r"\S{200,}", lambda word: f"{word[0][:_SHOWN]}…", first["msg"].removeprefix("Value error, "))
        if first["type"] not in ("value_error", "missing", "json_invalid"):
            message += f", found {short(first['input'])}"
        if first["type"] == "literal_error":
            message += nearest(short(first["input"]), re.findall(r"'([^']+)'", first["ctx"]["expected"]), others="")
    return f"{where + ': ' if where else ''}{message}"


def from_json(text: str, source: str) -> Any:
    """Parse JSON. Raises InputError, one line that begins with `source`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise InputError(one_line(f"{source} is not JSON ({reason})")) from None


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


def _fields_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the keys allowed at a location inside a settings class."""
    for part in loc:
        field = cls.model_fields.get(str(part))
        cls = (_settings_in(field.annotation) if field else None) or cls
    return [field.alias or name for name, field in cls.model_fields.items()]


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class in a type such as `dict[str, Architecture]`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _settings_in(a))), None)
