"""What weights.pt holds beside its tensors, read without torch."""

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from famba.data.plain_pickle import PlainUnpickler
from famba.files import open_regular


def without_tensors(path: Path) -> Any:
    """What a checkpoint or weights.pt holds, None in place of each tensor. Raises whatever a file provokes."""
    with open_regular(path) as whole, zipfile.ZipFile(whole) as archive:
        (pickled,) = (member for member in archive.infolist() if member.filename.endswith("/data.pkl"))
        if pickled.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile("torch does not compress")
        with archive.open(pickled) as file:
            return _WithoutTensors(file).load()


class _WithoutTensors(PlainUnpickler):
    """Reads torch's pickles: numbers, texts and containers as they are, None for all else.

    Nothing that a pickle names is ever called.
    """

    def persistent_load(self, pid: Any) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _nothing


def _nothing(*args: Any) -> None:
    return None
