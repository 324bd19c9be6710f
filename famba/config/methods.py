"""The methods of token reduction by name, and where each acts by default. No torch here: Snakemake reads them."""

import hashlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Literal

from famba.errors import InputError
from famba.files import read_bytes
from famba.text import nearest

Placement = Literal["input", "before", "inside", "after"]

# "input": before residual and last mixer output are added; "before" the mixer, after the norm; "inside" the mixer, per
# direction, after the gate; "after" the mixer
PLACEMENTS: dict[str, Placement] = {
    "famba_v": "before",
    "random_merge": "before",
    "random_prune": "before",
    "rmeeto": "input",
    "hsa": "after",
    "utr": "after",
    "mtr": "after",
}
DEFAULT = "famba_v"
LATE = ("inside", "after")  # the mixer of the layer sees all tokens still
GROUP = "famba.methods"  # a package's own methods: [project.entry-points."famba.methods"]


def installed() -> dict[str, EntryPoint]:
    """The methods of other installed packages, by name. None of them takes the name of one that is built in."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in PLACEMENTS}


def file_of(method: str) -> Path | None:
    """The file of `FILE.py:CLASS`; None for any other name."""
    path, colon, _ = method.rpartition(":")
    return Path(path) if colon and path.endswith(".py") else None


def code_of(method: str) -> str | None:
    """Which code a name stands for: its file's sha256, or its package and version; None for a built-in method.

    Raises InputError where there is none of that name.
    """
    if method in PLACEMENTS:
        return None
    if (path := file_of(method)) is not None:
        try:
            return f"sha256 {hashlib.sha256(read_bytes(path)).hexdigest()}"
        except FileNotFoundError:
            raise InputError(f"method {path}: no such file, seen from {Path.cwd()}") from None
        except OSError as error:
            raise InputError(f"method {path}: cannot be read ({error.strerror})") from None
    points = installed()
    if method not in points:
        known = [*PLACEMENTS, *points]
        file, _, named = method.partition(":")
        if method.endswith(".py"):
            hint = "; name the class, too: FILE.py:CLASS"
        elif named and Path(f"{file}.py").is_file():
            hint = f"; did you mean '{file}.py:{named}'?"
        else:
            hint = nearest(method, known)
        raise InputError(f"unknown method {method!r}{hint}")
    package = points[method].dist
    return points[method].value if package is None else f"{package.name} {package.version}"
