"""CIFAR-100, read straight from either published archive; nothing is unpacked to the disk.

Binary: `cifar-100-binary/{train,test}.bin`, records of 1 coarse label, 1 fine label and 3 x 32 x 32 bytes (red, green,
blue planes, row-major), with the names of the classes in two text files.
Python: `cifar-100-python/{train,test,meta}`, pickles written by Python 2; see cifar_pickle.py.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from famba.data import sources
from famba.data.cifar_pickle import field, unpickle
from famba.data.dataset import Dataset, check_labels, describe, missing
from famba.errors import Altered, InputError

NAME = "cifar100"
BINARY, PYTHON = "cifar-100-binary.tar.gz", "cifar-100-python.tar.gz"
FINE, COARSE = 100, 20  # classes
SIZE = 32
RECORD = 2 + 3 * SIZE * SIZE  # bytes
_NAME_FILES = ("fine_label_names.txt", "coarse_label_names.txt")
_BLOCK = 4096  # records decoded at a time: 12 MiB beside the array they go into


class _Part(NamedTuple):
    images: np.ndarray  # uint8 (N, 32, 32, 3)
    fine: np.ndarray  # int64 (N,)
    coarse: np.ndarray  # int64 (N,)


class _Contents(NamedTuple):
    train: _Part
    test: _Part
    fine_names: list[str]
    coarse_names: list[str]


def locate(root: str | Path) -> tuple[Path, sources.Archive]:
    """The archive to read, the binary one where both are there, and what it must be. InputError if neither is."""
    paths = [Path(root) / name for name in (BINARY, PYTHON)]
    for path in paths:
        if path.exists():
            return path, sources.archive(path.name)
    raise missing(paths[0], NAME)


def load(root: str | Path) -> Dataset:
    """CIFAR-100 with its 100 fine classes; images (N, 32, 32, 3). Size and sha256 are verified before it is parsed."""
    path, archive = locate(root)
    read = _read_binary if path.name == BINARY else _read_python
    try:
        with open(path, "rb") as file:
            size = sum(len(chunk) for chunk in sources.checked(file, path, archive))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r|gz", bufsize=1 << 20) as tar:
                contents = read(tar, path, archive.records)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    _count(f"{path}: fine label names", len(contents.fine_names), FINE)
    _count(f"{path}: coarse label names", len(contents.coarse_names), COARSE)
    for split, part in (("train", contents.train), ("test", contents.test)):
        check_labels(part.fine, FINE, f"{path}: {split}", "fine label")
        check_labels(part.coarse, COARSE, f"{path}: {split}", "coarse label")
    arrays = (contents.train.images, contents.train.fine, contents.test.images, contents.test.fine)
    return describe(NAME, path.name, (archive.sha256, size), arrays, contents.fine_names, archive.official)


def _read_binary(tar: tarfile.TarFile, path: Path, records: Mapping[str, int]) -> _Contents:
    parts: dict[str, _Part] = {}
    names: dict[str, list[str]] = {}
    for name, stream, size in _members(tar, path, "cifar-100-binary", ("train.bin", "test.bin", *_NAME_FILES)):
        where = f"{path}: {name}"
        if name.endswith(".txt"):
            names[name] = stream.read(1 << 16).decode("ascii", "replace").split()
            continue
        if size % RECORD:
            raise Altered(f"{where}: {size:,} bytes, expected a whole number of {RECORD}-byte records")
        split = name.removesuffix(".bin")
        _count(f"{where}: records", size // RECORD, records[split])  # before memory is taken for them
        parts[split] = _decode(stream, size // RECORD)
    return _Contents(parts["train"], parts["test"], *(names[name] for name in _NAME_FILES))


def _decode(stream: IO[bytes], count: int) -> _Part:
    """`count` binary records, a block at a time straight into the final arrays."""
    part = _Part(np.empty((count, SIZE, SIZE, 3), np.uint8), np.empty(count, np.int64), np.empty(count, np.int64))
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        block = np.frombuffer(stream.read((stop - start) * RECORD), np.uint8).reshape(-1, RECORD)
        part.coarse[start:stop], part.fine[start:stop] = block[:, 0], block[:, 1]
        part.images[start:stop] = _channels_last(block[:, 2:])
    return part


def _read_python(tar: tarfile.TarFile, path: Path, records: Mapping[str, int]) -> _Contents:
    parts: dict[str, _Part] = {}
    names: dict[str, list[str]] = {}
    for name, stream, _ in _members(tar, path, "cifar-100-python", ("train", "test", "meta")):
        where = f"{path}: {name}"
        fields = unpickle(stream, where)
        if name == "meta":
            for key in ("fine_label_names", "coarse_label_names"):
                names[key] = [_text(word) for word in field(fields, key, list, where)]
            continue
        data = field(fields, "data", np.ndarray, where)
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != RECORD - 2:
            raise Altered(f"{where}: data is {data.dtype} {data.shape}, expected uint8 (N, {RECORD - 2})")
        fine, coarse = (_labels(fields, key, where) for key in ("fine_labels", "coarse_labels"))
        for what, found in (("records", len(data)), ("fine labels", len(fine)), ("coarse labels", len(coarse))):
            _count(f"{where}: {what}", found, records[name])
        parts[name] = _Part(np.ascontiguousarray(_channels_last(data)), fine, coarse)
    return _Contents(parts["train"], parts["test"], names["fine_label_names"], names["coarse_label_names"])


def _members(
    tar: tarfile.TarFile, path: Path, folder: str, names: Sequence[str]
) -> Iterator[tuple[str, IO[bytes], int]]:
    """The wanted files of `folder`, as (name, stream, size), in the one pass that a compressed stream allows.

    Links and all other members are passed over, and a member is only ever read through the archive's own stream, so
    that no name in it can reach a path of this machine.
    """
    wanted = list(names)
    for member in tar:
        name = member.name.removeprefix(f"{folder}/")
        stream = tar.extractfile(member) if name in wanted and member.isreg() else None
        if stream is not None:
            wanted.remove(name)
            yield name, stream, member.size
    if wanted:
        raise Altered(f"{path}: {', '.join(f'{folder}/{name}' for name in wanted)} missing from the archive")


def _channels_last(rows: np.ndarray) -> np.ndarray:
    """(N, 3072) colour planes, as a (N, 32, 32, 3) view."""
    return rows.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)


def _labels(fields: dict[str, Any], key: str, where: str) -> np.ndarray:
    values = field(fields, key, list, where)
    if wrong := [value for value in values if not isinstance(value, int) or abs(value) >= 1 << 31]:
        raise Altered(f"{where}: {key} holds {wrong[0]!r}, expected the number of a class")
    return np.array(values, np.int64)


def _text(word: Any) -> str:
    return word.decode("ascii", "replace") if isinstance(word, bytes) else str(word)


def _count(where: str, found: int, expected: int) -> None:
    if found != expected:
        raise Altered(f"{where}: {found:,}, expected {expected:,}")
