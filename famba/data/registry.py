"""A data set by its name."""

from pathlib import Path

from famba.config.datasets import data_folder
from famba.config.image_folder import ListedFolder
from famba.data import cifar100, digits, fashion_mnist, image_folder
from famba.data.dataset import Dataset, Identity
from famba.errors import InputError
from famba.text import nearest

NAMES = (cifar100.NAME, fashion_mnist.NAME, digits.NAME)


def check_name(name: str) -> None:
    """InputError, with the nearest known name, unless `name` is one of NAMES."""
    if name not in NAMES:
        raise InputError(f"unknown data set {name!r}{nearest(name, NAMES)}")


def load(name: str, root: str | Path | None = None, folder: ListedFolder | None = None) -> Dataset:
    """The data set `name`, whole, in memory: images uint8 (N, H, W, C), labels int64 (N,).

    Args:
        root: the data folder [FAMBA_DATA, else `data`].
        folder: of an image folder, whose images stay on disk (`famba.data.image_files`).

    Raises InputError, in one line, if a file is missing, altered or not of its format.
    """
    root = data_folder() if root is None else root
    if folder is not None:
        return image_folder.load(name, Path(root), folder)
    check_name(name)
    if name == cifar100.NAME:
        return cifar100.load(root)
    return fashion_mnist.load(root) if name == fashion_mnist.NAME else digits.load()


def verify(name: str, root: str | Path | None = None, folder: ListedFolder | None = None) -> Identity:
    """Verify identity and format by reading the whole of data set `name`; arguments and errors as for `load`.

    Of an image folder names and sizes are compared here, and each file's bytes when it is decoded.
    """
    return load(name, root, folder).identity
