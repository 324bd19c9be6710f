"""The record of an image: what it was built from, what came out, and how long it took.

envs/record.py writes envs/famba-cpu.built.json and envs/famba-cuda.built.json from an image and the log of its build. A
test compares the files that a record names with those of the checkout: whoever changes one builds the image again.
"""

import hashlib
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from famba.config.image_folder import Sha256
from famba.config.validation import Strict, read_json

# what envs/build.sh takes, in its order, besides the lock
DEFINITIONS = {
    "cpu": ("envs/image.def",),
    "cuda": ("envs/image.def", "envs/extensions.sh", "envs/sdists.sh", "envs/toolkit.txt"),
}

Count = Annotated[int, Field(gt=0)]


class File(Strict):
    """The image file, or the installed library of an extension."""

    bytes: Count
    sha256: Sha256


class Extension(Strict):
    """A CUDA extension: the architectures of its machine code and of its PTX, and how long it compiled."""

    library: File
    code: list[str]
    ptx: list[str]
    compile_seconds: Count


class Build(Strict):
    """When, with what, and how long: downloads, compilation and compression included.

    `seconds` passed on a machine that may have had more to do; `cpu_seconds` are those of the build on all its cores.
    """

    day: date
    apptainer: str
    cores: Count
    seconds: Count
    cpu_seconds: Count


class Contents(Strict):
    """Versions that the image reports from inside. `bytes` of its files, uncompressed. No `cuda` in the CPU image."""

    debian: str
    python: str
    compiler: str
    torch: str
    cuda: str | None
    packages: Count
    bytes: Count


class Built(Strict):
    """One image. `inputs`: sha256 of every file that it was made from, by path."""

    image: Literal["cpu", "cuda"]
    inputs: dict[str, Sha256]
    file: File
    build: Build
    contents: Contents
    extensions: dict[str, Extension]


def inputs(image: str, root: Path) -> dict[str, str]:
    """sha256 by path of the files that an image is made from, as they are in the checkout `root`."""
    paths = (*DEFINITIONS[image], f"envs/famba-{image}.txt")
    return {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths}


def record_path(image: str) -> Path:
    """Where the checkout has the record, relative to its root."""
    return Path("envs", f"famba-{image}.built.json")


def read(image: str, root: Path) -> Built:
    """Raises InputError where the record is missing or is none."""
    advice = "; envs/record.py writes it"
    return read_json(Built, record_path(image), "record of an image", advice, advice, root)


def outdated(record: Built, root: Path) -> list[str]:
    """Paths of the files that are no longer as they were when the image was built, or were not part of it then."""
    now = inputs(record.image, root)
    return sorted(path for path in now.keys() | record.inputs.keys() if now.get(path) != record.inputs.get(path))
