"""An unpickler for files from outside: nothing runs, and memory and time are bounded by the size of the file."""

import pickle
from collections.abc import Callable
from typing import IO, Any, ClassVar


class _Memo(dict[int, Any]):
    def __getitem__(self, place: int) -> Any:
        value = super().__getitem__(place)
        if isinstance(value, tuple) and any(isinstance(part, tuple) for part in value):
            raise pickle.UnpicklingError("a tuple of tuples that is used twice")
        return value


class PlainUnpickler(pickle._Unpickler):
    """Containers, numbers, texts, and what a subclass admits by `find_class` or `persistent_load`.

    It is the one in Python: that in C takes memory for any number of values that a file names. A tuple that
    holds another one twice, and so on, would take twice as long to hash with every level.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.DUP[0]
    }

    def __init__(self, file: IO[bytes], encoding: str = "ASCII") -> None:
        super().__init__(file, encoding=encoding)
        self.memo = _Memo()

    def find_class(self, module: str, name: str) -> Any:
        """Nothing is admitted here."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
