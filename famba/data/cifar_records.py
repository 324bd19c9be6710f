"""The two formats in which CIFAR-100 is published, from an archive's stream or from the extracted folder.

Binary: `cifar-100-binary/{train,test}.bin`, records of 1 coarse label, 1 fine label and 3 x 32 x 32 bytes (red, green,
blue planes, row-major), with the names of the classes in two text files.
Python: `cifar-100-python/{train,test,meta}`, pickles written by Python 2; see cifar_pickle.py.
"""

import gzip
import os
import tarfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from famba.config.validation import short
from famba.data.cifar_pickle import field, unpickle
from famba.data.dataset import check_labels
from famba.data.sources import Archive
from famba.errors import IntegrityError
from famba.files import open_regular

FINE, COARSE = 100, 20  # classes
SIZE = 32
RECORD = 2 + 3 * SIZE * SIZE  # bytes
BINARY_FOLDER, PYTHON_FOLDER = "cifar-100-binary", "cifar-100-python"
_NAME_FILES = ("fine_label_names.txt", "coarse_label_names.txt")
_READS_AT_END = 16  # more than tarfile asks for once an archive is over
_BLOCK = 4096  # records decoded at a time: 12 MiB beside the array they go into

Members = Iterator[tuple[str, IO[bytes], int]]  # (name, stream, size) of each file


class Split(NamedTuple):
    """One split."""

    images: np.ndarray  # uint8 (N, 32, 32, 3)
    fine: np.ndarray  # int64 (N,)


class Contents(NamedTuple):
    """What each reader of CIFAR-100 returns; names of the fine classes by label."""

    train: Split
    test: Split
    names: Sequence[str]


def read_archive(file: IO[bytes], path: Path, archive: Archive) -> Contents:
    """Read an open archive. Raises IntegrityError, and the errors of gzip and tarfile."""
    folder = path.name.removesuffix(".tar.gz")
    names, read = _FORMATS[folder]
    content = _Bounded(gzip.GzipFile(fileobj=file), archive.most, path)
    with tarfile.open(fileobj=content, mode="r|", bufsize=1 << 20) as tar:  # type: ignore[call-overload] # it only reads
        return read(_tar_members(tar, path, folder, names), path, archive.records)


class _Bounded:
    """The decompressed bytes of an archive: a few kB may hold gigabytes, and its headers name any length."""

    def __init__(self, file: gzip.GzipFile, most: int, path: Path) -> None:
        self._file, self._most, self._left, self._path = file, most, most, path
        self._empty = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises IntegrityError beyond those that the archive may have."""
        data = self._file.read(size)
        self._left -= len(data)
        self._empty = 0 if data else self._empty + 1
        if self._empty > _READS_AT_END:  # tarfile would go on to the end of a member, wherever its header puts that
            raise IntegrityError(f"{self._path}: it ends before a file that is in it: truncated or altered")
        if self._left < 0:
            raise IntegrityError(f"{self._path}: it holds more than {self._most:,} bytes, which its images do not take")
        return data


def read_folder(path: Path, form: str, records: Mapping[str, int]) -> Contents:
    """Read an extracted folder of the format `form`, BINARY_FOLDER or PYTHON_FOLDER. Raises IntegrityError.

    `records`: images that a split should have; what has several times as many bytes is not read.
    """
    names, read = _FORMATS[form]
    most = 4 * max(records.values()) * RECORD + (1 << 24)
    with closing(_folder_members(path, names, most)) as members:  # also the file that is open when one is refused
        return read(members, path, None)


def _read_binary(members: Members, path: Path, records: Mapping[str, int] | None) -> Contents:
    parts: dict[str, Split] = {}
    names: dict[str, list[str]] = {}
    for name, stream, size in members:
        where = f"{path}: {name}"
        if name.endswith(".txt"):
            names[name] = stream.read(1 << 16).decode("ascii", "replace").split()
            continue
        if size % RECORD:
            other = "; 3,073-byte records are CIFAR-10's" if size % (RECORD - 1) == 0 else ""
            raise IntegrityError(f"{where}: {size:,} bytes, expected a whole number of {RECORD}-byte records{other}")
        split = name.removesuffix(".bin")
        if records is not None:  # before memory is taken for them
            _count(f"{where}: records", size // RECORD, records[split])
        parts[split] = _decode(stream, size // RECORD, f"{path}: {split}")
    fine, coarse = (names[name] for name in _NAME_FILES)
    return _contents(parts, fine, coarse, path)


def _decode(stream: IO[bytes], count: int, where: str) -> Split:
    """`count` binary records, a block at a time straight into the final arrays."""
    part = Split(np.empty((count, SIZE, SIZE, 3), np.uint8), np.empty(count, np.int64))
    coarse = np.empty(count, np.int64)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        block = np.frombuffer(stream.read((stop - start) * RECORD), np.uint8).reshape(-1, RECORD)
        coarse[start:stop], part.fine[start:stop] = block[:, 0], block[:, 1]
        part.images[start:stop] = _channels_last(block[:, 2:])
    _check_part(part.fine, coarse, where)
    return part


def _read_python(members: Members, path: Path, records: Mapping[str, int] | None) -> Contents:
    parts: dict[str, Split] = {}
    names: dict[str, list[str]] = {}
    for name, stream, _ in members:
        where = f"{path}: {name}"
        fields = unpickle(stream, where)
        if name == "meta":
            for key in ("fine_label_names", "coarse_label_names"):
                names[key] = [_text(word, where) for word in field(fields, key, list, where)]
            continue
        data = field(fields, "data", np.ndarray, where)
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != RECORD - 2:
            raise IntegrityError(f"{where}: data is {data.dtype} {data.shape}, expected uint8 (N, {RECORD - 2})")
        fine, coarse = (_labels(fields, key, where) for key in ("fine_labels", "coarse_labels"))
        expected = records[name] if records is not None else len(data)
        for what, found in (("records", len(data)), ("fine labels", len(fine)), ("coarse labels", len(coarse))):
            _count(f"{where}: {what}", found, expected)
        _check_part(fine, coarse, where)
        parts[name] = Split(np.ascontiguousarray(_channels_last(data)), fine)
    return _contents(parts, names["fine_label_names"], names["coarse_label_names"], path)


_FORMATS = {
    BINARY_FOLDER: (("train.bin", "test.bin", *_NAME_FILES), _read_binary),
    PYTHON_FOLDER: (("train", "test", "meta"), _read_python),
}


def _contents(parts: Mapping[str, Split], fine: Sequence[str], coarse: Sequence[str], path: Path) -> Contents:
    _count(f"{path}: fine label names", len(fine), FINE)
    _count(f"{path}: coarse label names", len(coarse), COARSE)
    return Contents(parts["train"], parts["test"], fine)


def _check_part(fine: np.ndarray, coarse: np.ndarray, where: str) -> None:
    check_labels(fine, FINE, where, "fine label")
    check_labels(coarse, COARSE, where, "coarse label")


def _tar_members(tar: tarfile.TarFile, path: Path, folder: str, names: Sequence[str]) -> Members:
    """The wanted files of `folder`, in the one pass that a compressed stream allows.

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
        raise IntegrityError(f"{path}: {', '.join(f'{folder}/{name}' for name in wanted)} missing from the archive")


def _folder_members(folder: Path, names: Sequence[str], most: int) -> Generator[tuple[str, IO[bytes], int], None, None]:
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise IntegrityError(f"{folder}: {', '.join(missing)} missing from the folder")
    for name in names:
        with open_regular(folder / name) as stream:
            if (size := os.fstat(stream.fileno()).st_size) > most:
                raise IntegrityError(f"{folder / name}: {size:,} bytes, more than its images take")
            yield name, stream, size


def _channels_last(rows: np.ndarray) -> np.ndarray:
    """(N, 3072) colour planes, as a (N, 32, 32, 3) view."""
    return rows.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)


def _labels(fields: dict[str, Any], key: str, where: str) -> np.ndarray:
    values = field(fields, key, list, where)
    if wrong := [value for value in values if not isinstance(value, int) or abs(value) >= 1 << 31]:
        found = wrong[0] if isinstance(wrong[0], int | float | str | bytes) else type(wrong[0]).__name__
        raise IntegrityError(f"{where}: {key} holds {short(found)}, expected the number of a class")
    return np.array(values, np.int64)


def _text(word: Any, where: str) -> str:
    if not isinstance(word, bytes | str):
        raise IntegrityError(f"{where}: a name of a class is a {type(word).__name__}")
    return word.decode("ascii", "replace") if isinstance(word, bytes) else word


def _count(where: str, found: int, expected: int) -> None:
    if found != expected:
        raise IntegrityError(f"{where}: {found:,}, expected {expected:,}")
