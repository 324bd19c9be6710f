"""An unpickler for the python archive of CIFAR-100: plain containers and numpy arrays, and nothing that runs.

A pickle is a program, and every name it may call comes through `find_class`. Four names are enough for an array; any
other is refused before it is imported.
"""

import pickle
from typing import IO, Any

import numpy as np

from famba.data.plain_pickle import PlainUnpickler
from famba.errors import IntegrityError


def _latin1(text: str, encoding: str) -> bytes:
    """Stands in for `_codecs.encode`, with which Python 3 writes bytes in the old protocols: always as latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}, expected 'latin1'")
    return text.encode("latin1")


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> np.ndarray:
    """Stands in for numpy's, which makes an empty array; its shape comes with its bytes."""
    return np.empty(0, np.uint8)


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): "ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _ArrayUnpickler(PlainUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _ADMITTED.get((module, name)) or super().find_class(module, name)


def unpickle(stream: IO[bytes], where: str) -> dict[str, Any]:
    """The one dict in `stream`, its keys as text; strings of Python 2 stay bytes. InputError for anything else."""
    try:
        value = _ArrayUnpickler(stream, encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise nearly any exception, as pickle's documentation says
        raise IntegrityError(
            f"{where}: refused, only plain containers and numpy arrays are admitted: {error}"
        ) from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{where}: holds a {type(value).__name__}, expected a dict")
    names = {key: key.decode("latin1") if isinstance(key, bytes) else key for key in value}
    return {name: value[key] for key, name in names.items() if isinstance(name, str)}


def field(fields: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """`fields[key]`, which must be a `kind`."""
    if not isinstance(value := fields.get(key), kind):
        found = "missing" if value is None else f"a {type(value).__name__}"
        raise IntegrityError(f"{where}: {key} is {found}, expected a {kind.__name__}")
    return value
