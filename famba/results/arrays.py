"""Arrays beside a row, in compressed and sealed .npz files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from famba.errors import InputError
from famba.files import flaw, sealed_file


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as a compressed and sealed .npz file. Raises InputError if it cannot be written."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    with sealed_file(path) as file:
        file.write(content.getvalue())


def read_arrays(path: Path, names: Sequence[str], what: str, optional: str = "") -> dict[str, np.ndarray]:
    """Arrays by name of a sealed .npz file; `what` it holds, for messages. `optional`: one that need not be there.

    Raises InputError if one cannot be read.
    """
    try:
        problem = flaw(path)
        if problem is None:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in (*names, optional) if name in names or name in file}
    except OSError as error:
        problem = error.strerror
    except KeyError as error:
        problem = str(error.args[0])
    except Exception as error:  # numpy.load raises whatever a file provokes
        problem = type(error).__name__
    raise InputError(f"{path}: cannot read {what} ({problem}); train the cell again")
