"""Where each archive comes from and what it must be: one table, and the one place that may override it.

FAMBA_SOURCES names a YAML file that overrides rows of the table, by file name:

    cifar-100-binary.tar.gz:
      url: https://mirror.example.org/cifar-100-binary.tar.gz

A `url` alone is a mirror: the content must still have the published identity. A `sha256` makes it another data set, a
test's generated archive for example; `bytes`, `md5` and `records` (images per split) then describe that one, its
`Identity` says `official: false`, and no row made from it can pass for the published images.

A row `cifar100` does the same for the forms that are no archive and are known by their content: `digests`, `records`
and, optional, `unlabelled` and `repeated`, each with `train` and `test`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import Field, StringConstraints, model_validator

from famba.config import yaml_file
from famba.config.settings import Text, Whole
from famba.config.validation import Strict, validated
from famba.errors import InputError, IntegrityError
from famba.files import open_regular
from famba.text import nearest

_CHUNK = 1 << 20
_PER_RECORD, _BESIDE = 4096, 1 << 24  # bytes: of a record of CIFAR-100 at most, and of what stands beside the records
_Records = Annotated[int, Field(ge=1, le=10**7, strict=True)]
_SplitName = Annotated[str, Field(pattern="^(train|test)$")]
_Sha256 = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-fA-F]{64}$")]


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

    @property
    def most(self) -> int:
        """Bytes that are read at most, packed or not: as many records may take, where `bytes` does not say it."""
        return sum(self.records.values()) * _PER_RECORD + _BESIDE


class _Override(Strict):
    """A row of the FAMBA_SOURCES file. What is left out has its default here, which a file cannot give."""

    url: Text = ""
    sha256: _Sha256 = ""
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = ""
    bytes: Annotated[int, Field(ge=1, le=2**40, strict=True)] = 0
    records: dict[_SplitName, _Records] = Field(default={})

    @model_validator(mode="after")
    def _has_its_sha256(self) -> _Override:
        if not self.sha256 and (loose := self.model_fields_set - {"url"}):
            raise ValueError(f"{', '.join(sorted(loose))} without sha256: other content needs a sha256 of its own")
        return self


class Expected(Strict):
    """What CIFAR-100 holds in the forms that are no archive; each mapping is by split.

    `digests`: `content.split_digest` of images and labels. `unlabelled`: the same with every label 0. `repeated`:
    records that are there a second time. The last two only serve to say what is wrong, and an override may leave them
    open.
    """

    digests: Annotated[dict[_SplitName, _Sha256], Field(min_length=2)]
    records: Annotated[dict[_SplitName, _Records], Field(min_length=2)]
    unlabelled: dict[_SplitName, _Sha256] = Field(default={})
    repeated: dict[_SplitName, Whole] = Field(default={})


_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_CIFAR_RECORDS = {"train": 50_000, "test": 10_000}
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def _cifar(name: str, sha256: str, size: int, md5: str) -> Archive:
    return Archive(name, _CIFAR_URL + name, sha256, size, md5, _CIFAR_RECORDS)


def _fashion(split: str, name: str, sha256: str, size: int, records: int) -> Archive:
    return Archive(f"fashion-mnist/{name}", _FASHION_URL + name, sha256, size, records={split: records}, packed=True)


# CIFAR-100: sizes and digests as in docs/paper-facts.md section 6. Fashion-MNIST: digests of the content of Debian's
# files. Put back under the published gzip headers (file name and time stamp), that content gives the four md5 sums
# which the authors' README publishes for the .gz files.
_TABLE = (
    _cifar(
        "cifar-100-binary.tar.gz", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec", 168_513_733,
        "03b5dce01913d631647c71ecec9e9cb8",
    ),
    _cifar(
        "cifar-100-python.tar.gz", "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7", 169_001_437,
        "eb9058c3a382ffc7106e4002c42a8d85",
    ),
    _fashion(
        "train", "train-images-idx3-ubyte.gz",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 47_040_016, 60_000,
    ),
    _fashion(
        "train", "train-labels-idx1-ubyte.gz",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008, 60_000,
    ),
    _fashion(
        "test", "t10k-images-idx3-ubyte.gz",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7_840_016, 10_000,
    ),
    _fashion(
        "test", "t10k-labels-idx1-ubyte.gz",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008, 10_000,
    ),
)  # fmt: skip
PUBLISHED = {Path(archive.file).name: archive for archive in _TABLE}
# Computed from the PNG files of github.com/cyizhuo/CIFAR-100-dataset at b105b30e: 500 and 100 images of each class,
# under their original names, whose channel means are the published ones. The official archives are checked against
# their own published sha256; a difference from these digests would be reported as a finding.
CONTENT = Expected(
    digests={
        "train": "37a2b72bd30f9438ff20798c661450f58f138c034f556846cd744a56bbb09967",
        "test": "b9ad4d741ee82873becf8846c246715e789a57766586a9677a8bbe26c8b30279",
    },
    records={"train": 50_000, "test": 10_000},
    unlabelled={
        "train": "038da1f5920a7abed053cd5465bf55f874c057c7cc3af8f6a242d8c07d047974",
        "test": "0989954aec96ae14b94d1b97de0421d213dedbf0136ac997fa64310c9a78c366",
    },
    repeated={"train": 5, "test": 0},
)
_CONTENT_ROW = "cifar100"  # of a FAMBA_SOURCES file


def archive(name: str) -> Archive:
    """The archive with file name `name`, or what FAMBA_SOURCES makes of it. Raises InputError."""
    row, published = _overrides().get(name), PUBLISHED[name]
    if row is None:
        return published
    given = row.model_dump(exclude_unset=True)
    if not row.sha256:
        return replace(published, **given)
    # the published size and md5 say nothing of another content
    other: dict[str, Any] = {} if row.sha256 == published.sha256 else {"bytes": None, "md5": None, "official": False}
    return replace(published, **{**other, **given, "records": {**published.records, **row.records}})


def expected() -> Expected:
    """The content of CIFAR-100: `CONTENT`, or what FAMBA_SOURCES puts in its place. Raises InputError."""
    found: Expected = _overrides().get(_CONTENT_ROW, CONTENT)
    return found


def _overrides() -> dict[str, Any]:
    """The rows of the file that FAMBA_SOURCES names, by name: none where it is not set. Raises InputError."""
    listed = os.environ.get("FAMBA_SOURCES")
    if not listed:
        return {}
    source = f"FAMBA_SOURCES={listed}"
    rows = yaml_file.read(Path(listed), "the sources", source)
    if not isinstance(rows, dict):
        raise InputError(f"{source}: expected a mapping of archive names to mappings with a url")
    kinds: dict[str, type[Strict]] = {**dict.fromkeys(PUBLISHED, _Override), _CONTENT_ROW: Expected}
    if unknown := [str(name) for name in rows if name not in kinds]:
        raise InputError(f"{source}: unknown archive {unknown[0]!r}{nearest(unknown[0], kinds)}")
    return {name: validated(kinds[name], row, f"{source}: {name}") for name, row in rows.items()}


def check_file(path: Path, archive: Archive, with_md5: bool = False) -> None:
    """Read `path` once and compare size, sha256 and (on request) md5 with what `archive` must be.

    Raises InputError, naming the file, what was expected and what was found.
    """
    try:
        with open_regular(path) as file:
            for _ in checked(file, path, archive, with_md5):
                pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def checked(file: BinaryIO, path: Path, archive: Archive, with_md5: bool = False) -> Iterator[bytes]:
    """The content of an open `file` in chunks, which can be trusted once the last one is out: the check comes then."""
    unit = "bytes of content" if archive.packed else "bytes"
    if not archive.packed:
        _compare(path, unit, os.fstat(file.fileno()).st_size, archive.bytes)
    most = archive.most if archive.bytes is None else archive.bytes
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    source = gzip.GzipFile(fileobj=file) if archive.packed else file
    try:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > most:
                break  # a few kB of gzip may hold gigabytes: read no further than what is too much already
            sha256.update(chunk)
            if with_md5:
                md5.update(chunk)
            yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise IntegrityError(f"{path}: cannot be read: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if size > most:
        records = f", which is enough for {sum(archive.records.values()):,} images" if archive.bytes is None else ""
        raise IntegrityError(f"{path}: more than {most:,} {unit}{records}: altered")
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
