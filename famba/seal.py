"""Files that are read again end in a seal, the sha256 of all bytes before it: a damaged one is recognised.

A zip archive may be followed by other bytes, so torch.load and numpy.load read a sealed file as they read any other.
Their own checks do not cover it all: torch.load never compares the checksums that its archive holds.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from famba.errors import InputError
from famba.record import atomic_file

_MARK = b"\nfamba sha256 "
LENGTH = len(_MARK) + 64 + 1
_CHUNK = 1 << 20
UNSEALED, MISMATCH = "no checksum at its end", "its checksum does not match"


class _Hashed:
    """A binary file that only grows, and the digest of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def sealed_file(path: Path) -> Iterator[_Hashed]:
    """Open a binary file to write in order; it takes its name once it is whole, sealed and on disk.

    Raises InputError if it cannot be written.
    """
    with atomic_file(path, binary=True) as file:
        hashed = _Hashed(file)
        yield hashed
        file.write(_MARK + hashed.digest.hexdigest().encode() + b"\n")


def flaw(path: Path) -> str | None:
    """What is wrong with a sealed file: `UNSEALED` or `MISMATCH`; None if nothing is.

    Raises OSError if it cannot be read.
    """
    left = path.stat().st_size - LENGTH
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        seal = file.read(LENGTH + 1)
    if left < 0 or not seal.startswith(_MARK):
        return UNSEALED
    return None if seal == _MARK + digest.hexdigest().encode() + b"\n" else MISMATCH


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as a compressed and sealed .npz file. Raises InputError if it cannot be written."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    with sealed_file(path) as file:
        file.write(content.getvalue())


def read_arrays(path: Path, names: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """Arrays by name of a sealed .npz file; `what` it holds, for messages. Raises InputError if one cannot be had."""
    try:
        if reason := flaw(path):
            raise InputError(f"{path}: cannot read {what} ({reason}); train the cell again")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except OSError as error:
        raise InputError(f"{path}: cannot read {what} ({error.strerror}); train the cell again") from None
    except KeyError as error:
        raise InputError(f"{path}: {what} without {error.args[0]}; train the cell again") from None
    except InputError:
        raise
    except Exception as error:  # numpy.load raises whatever a file provokes
        raise InputError(f"{path}: cannot read {what} ({type(error).__name__}); train the cell again") from None
