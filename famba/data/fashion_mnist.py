"""Fashion-MNIST: four gzipped idx files, from the data folder or from Debian's package dataset-fashion-mnist."""

import struct
from pathlib import Path

import numpy as np

from famba.data import sources
from famba.data.dataset import Dataset, canonical_digest, check_labels, describe
from famba.errors import InputError, IntegrityError
from famba.files import open_regular

NAME = "fashion-mnist"
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SIZE = 28
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def locate(root: str | Path) -> Path:
    """The folder to read: `<root>/fashion-mnist`, else Debian's, whichever holds all four. InputError if none does."""
    own = Path(root) / NAME
    for folder in (own, DEBIAN):
        if all((folder / name).exists() for name in FILES):
            return folder
    absent = next(own / name for name in FILES if not (own / name).exists())
    raise InputError(
        f"{absent} is missing: run `famba data fetch {NAME}` or `apt-get install dataset-fashion-mnist` on Debian"
    )


def load(root: str | Path) -> Dataset:
    """Fashion-MNIST in 10 classes; images (N, 28, 28, 1). The content's size and sha256 are verified before parsing."""
    folder = locate(root)
    archives = [sources.archive(name) for name in FILES]
    arrays = [_read(folder / name, archive) for name, archive in zip(FILES, archives, strict=True)]
    for at in (1, 3):
        check_labels(arrays[at], len(CLASSES), str(folder / FILES[at]))
    source = "Debian's dataset-fashion-mnist" if folder == DEBIAN else "fashion-mnist/*-ubyte.gz"
    official = all(archive.official for archive in archives)
    return describe(NAME, source, canonical_digest(arrays), arrays, CLASSES, official)


def _read(path: Path, archive: sources.Archive) -> np.ndarray:
    """One idx file: big-endian magic number (0x08 for bytes, then the number of axes) and axes, then the bytes."""
    try:
        with open_regular(path) as file:
            content = bytearray().join(sources.checked(file, path, archive))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    (count,) = archive.records.values()
    shape = (count, SIZE, SIZE) if "images" in path.name else (count,)
    expected = struct.pack(f">{1 + len(shape)}I", 0x0800 | len(shape), *shape)
    header = content[: len(expected)]
    if header != expected:
        raise IntegrityError(f"{path}: idx header {header.hex()}, expected {expected.hex()}")
    values = np.frombuffer(content, np.uint8, offset=len(expected))  # writable, as the bytearray is
    if values.size != np.prod(shape):
        raise IntegrityError(f"{path}: {values.size:,} values, expected {np.prod(shape):,}")
    return values.reshape(*shape, 1) if len(shape) == 3 else values.astype(np.int64)
