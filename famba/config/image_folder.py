"""An image folder of your own as a data set: its block in an experiment, and what its manifest says of it.

No numpy here: Snakemake reads it at every start, and of a manifest the first line alone.
"""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from famba.config.settings import Count
from famba.config.validation import Strict
from famba.errors import InputError

VERSION: Literal[1] = 1  # of the manifest's format
DataName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]  # of a data set: data/<name>.json holds its identity
Evaluated = Literal["test", "val"]
_LONGEST = 2**24  # bytes of a first line: of 100,000 classes
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ImageFolder(Strict):
    """Where an image folder and its manifest are, and how large its images are taken to be.

    `manifest`: the file that `famba data manifest` wrote, seen from where the training runs. `folder`: seen from the
    data folder (FAMBA_DATA, else `data`), null for the data set's name. `size`: every image is brought to so many
    pixels a side, the shorter side resized and the middle cut out, before anything else is done to it; null: images
    keep their own sizes.
    """

    manifest: Annotated[str, Field(min_length=1)]
    folder: Annotated[str | None, Field(min_length=1, exclude_if=lambda folder: folder is None)] = None
    size: Annotated[int, Field(ge=1, le=4096, strict=True)] | None = None


class NamedFolder(ImageFolder):
    """An image folder in an experiment, under the name that its rows give to the data set."""

    name: DataName


class ListedFolder(ImageFolder):
    """An image folder with what its manifest says: of a cell, which is trained again when that changes.

    `sha256`: of the manifest's lines. `pixels`: median height and width of its images.
    """

    sha256: Sha256
    train: Count
    test: Count
    classes: Count
    pixels: tuple[Count, Count]


class Head(Strict):
    """The first line of a manifest. `classes`: images of each class in the training and in the evaluated split.

    `sha256`: of all lines after the first, as bytes. `bytes`: of all images.
    """

    famba_manifest: Literal[1] = VERSION
    evaluated: Evaluated
    train: Count
    test: Count
    bytes: Count
    pixels: tuple[Count, Count]
    sha256: Sha256
    classes: dict[str, tuple[Count, Count]]


def listed(block: ImageFolder) -> ListedFolder:
    """The block with what its manifest says. Raises InputError."""
    head = read_head(Path(block.manifest))
    return ListedFolder(
        manifest=block.manifest,
        folder=block.folder,
        size=block.size,
        sha256=head.sha256,
        train=head.train,
        test=head.test,
        classes=len(head.classes),
        pixels=head.pixels,
    )


def read_head(path: Path) -> Head:
    """The first line of a manifest. Raises InputError, one line that says what to do."""
    try:
        found = path.stat()
        return _read_head(path, found.st_mtime_ns, found.st_size)
    except OSError as error:
        raise InputError(
            f"manifest {path}: cannot be read ({error.strerror}), seen from {Path.cwd()}; "
            "`famba data manifest FOLDER --out FILE` writes one"
        ) from None


@lru_cache(maxsize=8)
def _read_head(path: Path, _changed: int, _size: int) -> Head:
    """Each cell of a grid asks; a file that has changed is read again."""
    with path.open("rb") as file:
        line = file.readline(_LONGEST)
    try:
        return Head.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"manifest {path}: not one of `famba data manifest` (line 1: {where + ': ' if where else ''}"
            f"{first['msg']}); write it anew"
        ) from None
