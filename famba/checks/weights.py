"""What weights.pt holds beside its tensors, read without torch."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any


def without_tensors(path: Path) -> Any:
    """What a checkpoint or weights.pt holds, None in place of each tensor. Raises whatever a file provokes."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(pickled) as file:
            return _WithoutTensors(file).load()


class _WithoutTensors(pickle.Unpickler):
    """Reads torch's pickles: numbers, texts and containers as they are, None for all else.

    Nothing that a pickle names is ever called.
    """

    def persistent_load(self, pid: Any) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _nothing


def _nothing(*args: Any) -> None:
    return None
