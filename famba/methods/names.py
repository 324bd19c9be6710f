"""The methods by their names in an experiment. No torch here: Snakemake reads them at start."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from famba.config.methods import Placement, code_of, file_of, installed
from famba.config.validation import short
from famba.errors import InputError
from famba.files import read_bytes
from famba.text import nearest

if TYPE_CHECKING:
    from famba.methods.interface import Method

METHODS = {
    "famba_v": "famba.methods.famba_v:FambaV",
    "random_merge": "famba.methods.random_controls:RandomMerge",
    "random_prune": "famba.methods.random_controls:RandomPrune",
    "rmeeto": "famba.methods.rmeeto:RMeeTo",
    "hsa": "famba.methods.hsa:HSA",
    "utr": "famba.methods.utr:UTR",
    "mtr": "famba.methods.mtr:MTR",
}


def method_class(name: str) -> type[Method]:
    """The class of a method: a name of `METHODS`, an installed entry point, or `FILE.py:CLASS`, whose file is run.

    Raises InputError where there is none, or its file or package cannot be imported.
    """
    from famba.methods.interface import Method  # noqa: PLC0415 (torch)

    found = _found(name)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(f"method {name}: {short(found)} is not a class that extends famba.methods.Method")
    if found.reduce is Method.reduce:
        raise InputError(f"method {name}: the class has no `reduce`, which says what becomes of the tokens")
    return found


def settings_of(cls: type[Method]) -> dict[str, inspect.Parameter]:
    """The settings of a method by name: the keyword arguments of its class."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return {name: one for name, one in inspect.signature(cls).parameters.items() if one.kind not in kinds}


def build(name: str, options: Mapping[str, Any], placement: Placement | None = None) -> Method:
    """A new instance with these settings, at its own placement or another.

    Raises InputError for a setting that is unknown, missing or of another type than the class says, and where the class
    cannot be made.
    """
    cls = method_class(name)
    known = settings_of(cls)
    for key in options:
        if key not in known:
            has = f"its settings are {', '.join(known)}" if known else "it has none"
            raise InputError(f"method {name}: unknown setting {key!r}{nearest(str(key), known, '')}; {has}")
    for key, one in known.items():
        if one.default is one.empty and key not in options:
            raise InputError(f"method {name}: setting {key!r} is missing, and has no default")
    types = _types(cls)
    values = {key: _checked(f"method {name}: {key}", types.get(key), value) for key, value in options.items()}
    try:
        method = cls(**values)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_because(f"method {name} cannot be made with {short(values)}", error)) from error
    if "_parameters" not in vars(method):
        raise InputError(f"method {name}: its __init__ does not call super().__init__()")
    if placement is not None:
        method.placement = placement
    places = get_args(Placement)
    if method.placement not in places:
        raise InputError(f"method {name}: placement {short(method.placement)} is none of {', '.join(places)}")
    return method


def _found(name: str) -> Any:
    code_of(name)  # that there is one
    _, _, attribute = name.rpartition(":")
    if (path := file_of(name)) is not None:
        module = _from_file(path)
        if not hasattr(module, attribute):
            has = [key for key, value in vars(module).items() if _defined_in(module, value)]
            raise InputError(f"method {name}: {path} has no class {attribute!r}{nearest(attribute, has)}")
        return getattr(module, attribute)
    if name in METHODS:
        where, _, attribute = METHODS[name].partition(":")
        return getattr(importlib.import_module(where), attribute)
    point = installed()[name]
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise InputError(_because(f"method {name}: {point.value} cannot be imported", error)) from error


def _from_file(path: Path) -> Any:
    try:
        return _module(path.resolve(), read_bytes(path))
    except (Exception, SystemExit) as error:
        raise InputError(_because(f"method {path}: it cannot be imported", error)) from error


@functools.cache
def _module(path: Path, text: bytes) -> Any:
    """The file run once as long as its text is the same: the class is then one and the same in every layer."""
    # files of the same name in two folders are two modules
    name = f"famba_method_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        exec(compile(text, path, "exec"), module.__dict__)  # the very text that is cached, and no .pyc of another
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _defined_in(module: Any, value: Any) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _types(cls: type[Method]) -> dict[str, Any]:
    """The types of the settings, as far as they are given and can be resolved."""
    try:
        return get_type_hints(cls.__init__, include_extras=True)
    except (NameError, TypeError):
        return {}


def _checked(where: str, hint: Any, value: Any) -> Any:
    """The value, if it is of the type; of a class's own types it is what its class makes of it."""
    if hint is None:
        return value
    try:
        adapter = TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return value
    # strict: '3' and true are no numbers, and 1 is no boolean
    strict = getattr(hint, "__origin__", hint) in (bool, int, float)
    try:
        return adapter.validate_python(value, strict=strict)
    except ValidationError as error:
        raise InputError(f"{where}: {error.errors()[0]['msg']}, found {short(value)}") from None


def _because(what: str, error: BaseException) -> str:
    return f"{what} ({type(error).__name__}: {error})"
