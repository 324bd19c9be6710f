"""Arrays beside a row, in compressed and sealed .npz files."""

import io
import math
import os
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from famba.errors import InputError
from famba.files import flaw, open_regular, sealed_file

_OVERHEAD = 2**16  # bytes of a file beside the content of its arrays, at most


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as a compressed and sealed .npz file. Raises InputError if it cannot be written."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    with sealed_file(path) as file:
        file.write(content.getvalue())


def read_arrays(path: Path, names: Sequence[str], what: str, most: int, optional: str = "") -> dict[str, np.ndarray]:
    """Arrays by name of a sealed .npz file; `what` it holds, for messages.

    `most`: bytes that they may have together; no more is read or decompressed. `optional`: one that need not be there.

    Raises InputError if one cannot be read, or they have more.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > most + _OVERHEAD:
                raise _Refused(f"it is larger than {most + _OVERHEAD:,} bytes, which its row does not ask for")
            if found := flaw(path):
                raise _Refused(found)
            with zipfile.ZipFile(file) as archive:
                there = set(archive.namelist())
                return _members(
                    archive, [name for name in (*names, optional) if name in names or _in(name) in there], most
                )
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except _Refused as refused:
        problem = str(refused)
    except Exception as error:  # a damaged archive provokes any
        problem = f"it is damaged: {type(error).__name__}"
    raise InputError(f"{path}: cannot read {what} ({problem}); train the cell again")


class _Refused(Exception):
    """What is wrong with a file, in words."""


def _in(name: str) -> str:
    return f"{name}.npy"


def _members(archive: zipfile.ZipFile, names: Sequence[str], most: int) -> dict[str, np.ndarray]:
    arrays = {}
    left = most
    for name in names:
        try:
            info = archive.getinfo(_in(name))
        except KeyError:
            raise _Refused(f"it has no {name}") from None
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise _Refused(f"{name} is encrypted, or compressed as numpy does not")  # whose readers read to the end
        with archive.open(info) as member:
            arrays[name] = _array(name, member.read(left + _OVERHEAD))
        left -= arrays[name].nbytes
        if left < 0:
            raise _Refused(f"its arrays are larger than {most:,} bytes, which its row does not ask for")
    return arrays


def _array(name: str, content: bytes) -> np.ndarray:
    """An .npy file whose header says of what shape the bytes after it are."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise _Refused(f"{name} is of another version of the format than (1, 0)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what Python 2 wrote
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise _Refused(f"{name} is not the {shape} {dtype} that its header says")
    return np.ndarray(shape, dtype, content[stream.tell() :], order="F" if is_fortran else "C").copy()
