"""Where each archive comes from and what it must be: one table, and the one place that may override it.

FAMBA_SOURCES names a YAML file that overrides rows of the table, by file name:

    cifar-100-binary.tar.gz:
      url: https://mirror.example.org/cifar-100-binary.tar.gz

A `url` alone is a mirror: the content is still held to the published identity. A `sha256` makes it another data set, a
test's generated archive for example; `bytes`, `md5` and `records` (images per split) then describe that one, its
`Identity` says `official: false`, and no row made from it can pass for the published images.

A row `cifar100` does the same for the forms that are no archive and are known by their content: see cifar_content.py.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from famba.config import yaml_file
from famba.errors import InputError, IntegrityError
from famba.text import one_line

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """One published file. `sha256` and `bytes` are of its decompressed content where `packed`, else of the file itself.

    Fashion-MNIST is `packed` because Debian compresses the same bytes again, so the .gz files differ and their content
    does not. `bytes` and `md5` are None where an override leaves them open; `md5` is the name DVC stores a file under.
    """

    file: str  # below the data root
    url: str
    sha256: str
    bytes: int | None
    md5: str | None = None
    records: Mapping[str, int] = field(default_factory=dict)
    packed: bool = False
    official: bool = True


_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def _fashion(split: str, name: str, sha256: str, size: int, records: int) -> Archive:
    return Archive(f"fashion-mnist/{name}", _FASHION_URL + name, sha256, size, records={split: records}, packed=True)


_TABLE = (
    # CIFAR-100: sizes and digests as in docs/paper-facts.md section 6
    Archive(
        "cifar-100-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        168_513_733,
        "03b5dce01913d631647c71ecec9e9cb8",
        {"train": 50_000, "test": 10_000},
    ),
    Archive(
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        169_001_437,
        "eb9058c3a382ffc7106e4002c42a8d85",
        {"train": 50_000, "test": 10_000},
    ),
    # Fashion-MNIST: digests of the content of Debian's files. Put back under the published gzip headers (file name and
    # time stamp), that content gives the four md5 sums which the authors' README publishes for the .gz files.
    _fashion(
        "train",
        "train-images-idx3-ubyte.gz",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        47_040_016,
        60_000,
    ),
    _fashion(
        "train",
        "train-labels-idx1-ubyte.gz",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        60_008,
        60_000,
    ),
    _fashion(
        "test",
        "t10k-images-idx3-ubyte.gz",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        7_840_016,
        10_000,
    ),
    _fashion(
        "test",
        "t10k-labels-idx1-ubyte.gz",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        10_008,
        10_000,
    ),
)
PUBLISHED = {Path(archive.file).name: archive for archive in _TABLE}
CONTENT_ROW = "cifar100"  # of a FAMBA_SOURCES file: the content of the forms that are no archive


def archive(name: str) -> Archive:
    """The archive with file name `name`, after FAMBA_SOURCES has had its say."""
    path, rows = overrides()
    return {row: _override(row, rows[row], path) for row in rows if row != CONTENT_ROW}.get(name, PUBLISHED[name])


def overrides() -> tuple[Path, dict[str, dict[str, Any]]]:
    """The file that FAMBA_SOURCES names, and its rows by name: none where it is not set. Raises InputError."""
    listed = os.environ.get("FAMBA_SOURCES")
    return (Path(listed), _rows(Path(listed))) if listed else (Path(), {})


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    try:
        rows = yaml_file.read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"FAMBA_SOURCES={path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    except yaml.YAMLError as error:
        raise InputError(one_line(f"FAMBA_SOURCES={path}: not YAML: {error}")) from error
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise InputError(f"FAMBA_SOURCES={path}: expected a mapping of archive names to mappings with a url")
    return rows


_KINDS: dict[str, tuple[type, str]] = {
    "url": (str, "a URL"),
    "sha256": (str, "64 hexadecimal digits in quotes"),
    "md5": (str, "32 hexadecimal digits in quotes"),
    "bytes": (int, "a number"),
    "records": (dict, "a mapping of split to number of images"),
}


def _override(name: str, row: dict[str, Any], path: Path) -> Archive:
    where = f"FAMBA_SOURCES={path}: {name}"
    known(str(name), PUBLISHED, f"FAMBA_SOURCES={path}", "archive")
    for key, value in row.items():
        known(str(key), _KINDS, where, "key")
        kind, wanted = _KINDS[key]
        if not isinstance(value, kind):
            raise InputError(f"{where}: {key} is {value!r}, expected {wanted}")
    if "sha256" not in row:
        if loose := row.keys() - {"url"}:
            raise InputError(
                f"{where}: {', '.join(sorted(loose))} without sha256: another content needs its own sha256"
            )
        return replace(PUBLISHED[name], **row)
    other = row["sha256"].lower() != PUBLISHED[name].sha256
    # the published size and md5 say nothing of another content
    defaults: dict[str, Any] = {"bytes": None, "md5": None, "official": False} if other else {}
    records = {**PUBLISHED[name].records, **row.get("records", {})}
    return replace(PUBLISHED[name], **{**defaults, **row, "sha256": row["sha256"].lower(), "records": records})


def known(word: str, words: Mapping[str, Any], where: str, what: str) -> None:
    """InputError, with the nearest known word, unless `word` is one of `words`."""
    if word not in words:
        near = difflib.get_close_matches(word, words, n=1, cutoff=0)[0]
        raise InputError(f"{where}: unknown {what} {word!r}; the nearest known one is {near!r}")


def check_file(path: Path, archive: Archive, with_md5: bool = False) -> None:
    """Read `path` once and compare size, sha256 and (on request) md5 with what `archive` must be.

    Raises InputError, naming the file, what was expected and what was found.
    """
    try:
        with open(path, "rb") as file:
            for _ in checked(file, path, archive, with_md5):
                pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def checked(file: BinaryIO, path: Path, archive: Archive, with_md5: bool = False) -> Iterator[bytes]:
    """The content of an open `file` in chunks, which can be trusted once the last one is out: the check comes then."""
    unit = "bytes of content" if archive.packed else "bytes"
    if not archive.packed:
        _compare(path, unit, os.fstat(file.fileno()).st_size, archive.bytes)
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    source = gzip.GzipFile(fileobj=file) if archive.packed else file
    try:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if archive.bytes is not None and size > archive.bytes:
                break  # a few kB of gzip may hold gigabytes: read no further than what is too much already
            sha256.update(chunk)
            if with_md5:
                md5.update(chunk)
            yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise IntegrityError(f"{path}: cannot be read: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if archive.bytes is not None and size > archive.bytes:
        raise IntegrityError(f"{path}: more than {archive.bytes:,} {unit}, expected {archive.bytes:,}: altered")
    _compare(path, unit, size, archive.bytes)
    _compare(path, "sha256", sha256.hexdigest(), archive.sha256)
    if with_md5:
        _compare(path, "md5", md5.hexdigest(), archive.md5)


def _compare(path: Path, what: str, found: int | str, expected: int | str | None) -> None:
    if expected is None or found == expected:
        return
    if isinstance(found, int):
        raise IntegrityError(f"{path}: {found:,} {what}, expected {expected:,}: truncated or altered")
    raise IntegrityError(f"{path}: {what} {found}, expected {expected}: altered, or another file under this name")
