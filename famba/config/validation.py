"""One line about the first thing that is wrong with settings, with the nearest name where one is misspelt."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from famba.errors import InputError
from famba.text import one_line

_SHOWN = 100  # characters of a wrong value that are shown


def validated(cls: type[Any], data: Any, source: str) -> Any:
    """Validate, or raise one line about the first thing that is wrong."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        # a misspelt key before the required one that it leaves missing: its nearest name says both
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        where = ".".join(str(part)[:_SHOWN] for part in first["loc"])
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])[:_SHOWN]
            message = f"unknown key{nearest(key, _fields_at(cls, first['loc'][:-1]))}"
        else:
            message = re.sub(
                r"\S{200,}", lambda word: f"{word[0][:_SHOWN]}…", first["msg"].removeprefix("Value error, ")
            )
            if first["type"] != "value_error" and first["type"] != "missing":
                message += f", found {short(first['input'])}"
            if first["type"] == "literal_error":
                message += nearest(short(first["input"]), re.findall(r"'([^']+)'", first["ctx"]["expected"]), others="")
        raise InputError(one_line(f"{source}: {where + ': ' if where else ''}{message}")) from None


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


def _fields_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the keys allowed at a location inside a settings class."""
    for part in loc:
        field = cls.model_fields.get(str(part))
        found = _settings_in(field.annotation) if field else None
        cls = found or cls
    return [field.alias or name for name, field in cls.model_fields.items()]


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class in a type such as `dict[str, Architecture]`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _settings_in(a))), None)


def nearest(name: str, known: Iterable[str], others: str | None = None) -> str:
    """`; did you mean 'x'?`, or the list of what there is; `others` in its place where that has been told."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if others is None else others
