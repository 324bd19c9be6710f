"""The manifest of an image folder: every image of it by path, class, size and sha256; written once, then compared.

JSON Lines: the first line is `famba.config.image_folder.Head`, each other one an image. Lines are sorted as they are
read: the training split first, by class, then by path. The same files give the same bytes.
"""

import hashlib
import json
import os
import statistics
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from famba.config.image_folder import Evaluated, Head, read_head
from famba.data.image_files import SUFFIXES, decoded, read
from famba.errors import InputError
from famba.files import write_text
from famba.system.host import usable_cpus
from famba.text import count, one_line

_SHOWN = 3  # files that a message names
_TRAIN = "train"


class Found(NamedTuple):
    """An image file as the folder lists it. `path`: seen from the folder, with slashes."""

    path: str
    bytes: int

    @property
    def class_name(self) -> str:
        """The folder below the split's."""
        return self.path.split("/")[1]


@dataclass(frozen=True, eq=False)
class Manifest:
    """What a manifest lists, N images in its order.

    Attributes:
        paths: (N,) bytes, as the file system has them.
        bytes: (N,) int64.
        sha256: (N, 32) uint8.
        labels: (N,) int64, the place of the class among all, sorted.
    """

    path: Path
    head: Head
    paths: np.ndarray
    bytes: np.ndarray
    sha256: np.ndarray
    labels: np.ndarray

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted, as torchvision's ImageFolder numbers them."""
        return tuple(sorted(self.head.classes))

    def splits(self) -> tuple[slice, slice]:
        """The training and the evaluated images."""
        return slice(0, self.head.train), slice(self.head.train, None)

    def digests(self, size: int | None) -> tuple[str, str, str]:
        """The train, test and order digest of a row (`famba.results.row.Data`).

        Those of the splits are sha256 over the sorted lines `class sha256`, with a zero byte in between, whatever the
        files are called. Images that were brought to a size are other data: then a line with it comes first.
        """
        names = [name.encode() for name in self.classes]
        lines = [names[k] + b"\0" + h.tobytes().hex().encode() for k, h in zip(self.labels, self.sha256, strict=True)]
        first = [] if size is None else [b"%d" % size]
        train, test = (_sha256(first + sorted(lines[split])) for split in self.splits())
        return train, test, _sha256(first + lines)


def write(folder: Path, out: Path, evaluated: Evaluated | None = None) -> tuple[Head, list[str]]:
    """List, hash and decode every image of a folder, and write its manifest.

    evaluated: the split that is evaluated; None: whichever of `val` and `test` is there.

    Returns the first line, and findings. Raises InputError: it is no image folder, a class is empty or in one split
    alone, an image cannot be decoded.
    """
    split = evaluated or _evaluated(folder)
    ignored: list[str] = []
    listed = {name: listing(folder, name, ignored) for name in (_TRAIN, split)}
    classes = _classes(folder, listed)
    found = [*listed[_TRAIN], *listed[split]]
    with ThreadPoolExecutor(usable_cpus()) as pool:
        lines = list(pool.map(partial(_examined, folder), found))
    body = "".join(json.dumps(line) + "\n" for line in lines)
    train = len(listed[_TRAIN])
    head = Head(
        evaluated=split,
        train=train,
        test=len(found) - train,
        bytes=sum(line["bytes"] for line in lines),
        pixels=(_median(line["height"] for line in lines), _median(line["width"] for line in lines)),
        sha256=hashlib.sha256(body.encode()).hexdigest(),
        classes=classes,
    )
    write_text(out, head.model_dump_json() + "\n" + body)
    return head, _findings(lines, train, ignored)


def read_manifest(path: Path) -> Manifest:
    """Raises InputError where it is altered or none."""
    head = read_head(path)
    number = {name: label for label, name in enumerate(sorted(head.classes))}
    try:
        body = path.read_bytes().partition(b"\n")[2]
        if hashlib.sha256(body).hexdigest() != head.sha256:
            raise InputError(f"manifest {path}: altered: its lines are not those that its first line is about")
        lines = [json.loads(line) for line in body.splitlines()]
        manifest = Manifest(
            path,
            head,
            np.array([os.fsencode(line["path"]) for line in lines]),
            np.array([line["bytes"] for line in lines], np.int64),
            np.frombuffer(bytes.fromhex("".join(line["sha256"] for line in lines)), np.uint8).reshape(-1, 32),
            np.array([number[line["class"]] for line in lines], np.int64),
        )
    except OSError as error:
        raise InputError(f"manifest {path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"manifest {path}: not one of `famba data manifest` ({error}); write it anew") from None
    if len(lines) != head.train + head.test:
        raise InputError(f"manifest {path}: has {count(len(lines), 'image')}, its first line {head.train + head.test}")
    return manifest


def require_same(manifest: Manifest, folder: Path, hashed: bool) -> None:
    """Raises InputError, one line that names the first files, unless the folder is what the manifest lists.

    Names and sizes of all files are compared, and with `hashed` every byte.
    """
    here = {file.path: file.bytes for name in (_TRAIN, manifest.head.evaluated) for file in listing(folder, name, [])}
    wrong = list(_differences(manifest, folder, here, hashed))
    if wrong:
        more = f" and {count(len(wrong) - _SHOWN, 'file')} more" if len(wrong) > _SHOWN else ""
        raise InputError(f"{folder}: not what manifest {manifest.path} lists: {'; '.join(wrong[:_SHOWN])}{more}")


def listing(folder: Path, split: str, ignored: list[str]) -> list[Found]:
    """The image files of a split, sorted by class, then by path. Symbolic links are followed.

    Names that begin with a dot are left out; `ignored` gets the others that are no images by their suffix. Raises
    InputError where there is no such split, a file lies beside its classes, or a link leads back to where it is.
    """
    root = folder / split
    if not root.is_dir():
        raise InputError(f"{root} is missing: an image folder has train/<class>/<image>, and val or test beside train")
    found: list[Found] = []
    try:
        for entry in _entries(root):
            if entry.is_dir():
                files = sorted(_below(Path(entry.path), f"{split}/{entry.name}", ignored, (_identity(root),)))
                if not files:
                    raise InputError(f"{entry.path}: an empty class: no image ({', '.join(SUFFIXES)}) is in it")
                found += files
            elif entry.name.lower().endswith(SUFFIXES):
                raise InputError(f"{entry.path}: an image outside of a class: expected {root}/<class>/<image>")
            else:
                ignored.append(f"{split}/{entry.name}")
    except OSError as error:
        raise InputError(f"{error.filename or root}: cannot be read: {error.strerror}") from None
    if not found:
        raise InputError(f"{root}: no class is in it: an image folder has {split}/<class>/<image>")
    return found


def _below(folder: Path, path: str, ignored: list[str], above: tuple[tuple[int, int], ...]) -> Iterator[Found]:
    here = _identity(folder)
    if here in above:
        raise InputError(f"{folder}: a link that leads back to a folder above it")
    for entry in _entries(folder):
        place = f"{path}/{entry.name}"
        if entry.is_dir():
            yield from _below(Path(entry.path), place, ignored, (*above, here))
        elif not entry.name.lower().endswith(SUFFIXES):
            ignored.append(place)
        else:
            try:
                place.encode()
            except UnicodeEncodeError:
                raise InputError(f"{entry.path}: its name is not UTF-8; rename it") from None
            yield Found(place, entry.stat().st_size)


def _identity(folder: Path) -> tuple[int, int]:
    """The same of a folder and of every link to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _evaluated(folder: Path) -> Evaluated:
    there: list[Evaluated] = [name for name in ("val", "test") if (folder / name).is_dir()]
    if len(there) > 1:
        raise InputError(f"{folder} has val and test; name the one that is evaluated: --evaluated val or test")
    if not there:
        raise InputError(f"{folder}/val and {folder}/test are missing: an image folder has one of them beside train")
    return there[0]


def _classes(folder: Path, listed: dict[str, list[Found]]) -> dict[str, tuple[int, int]]:
    """Images of each class in both splits. Raises InputError for a class that is in one alone."""
    train, evaluated = (
        {name: len(list(files)) for name, files in groupby(found, key=lambda file: file.class_name)}
        for found in listed.values()
    )
    other = list(listed)[1]
    for name in sorted(train.keys() ^ evaluated.keys()):
        there, missing = (_TRAIN, other) if name in train else (other, _TRAIN)
        raise InputError(f"{folder}: class {name} is in {there} and not in {missing}")
    if len(train) < 2:
        raise InputError(f"{folder}: one class alone, {next(iter(train))}: there is nothing to tell apart")
    return {name: (train[name], evaluated[name]) for name in train}


def _examined(folder: Path, file: Found) -> dict[str, Any]:
    """The line of an image. Raises InputError where it is none."""
    path = folder / file.path
    content = read(path)
    width, height = decoded(content, path).size
    return {
        "path": file.path,
        "class": file.class_name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "width": width,
        "height": height,
    }


def _median(sides: Iterable[int]) -> int:
    return round(statistics.median(sides))


def _findings(lines: list[dict[str, Any]], train: int, ignored: list[str]) -> list[str]:
    """What is worth a word about a folder that is right."""
    findings = []
    trained = {line["sha256"]: line["path"] for line in lines[:train]}
    both = [line for line in lines[train:] if line["sha256"] in trained]
    if both:
        first, same = both[0]["path"], trained[both[0]["sha256"]]
        findings.append(f"{count(len(both), 'evaluated image')} also in train, the first {first}, as {same}")
    twice = train - len(trained)
    if twice:
        findings.append(f"{count(twice, 'image')} of train more than once")
    if ignored:
        findings.append(f"{count(len(ignored), 'file')} left out, no image by the name: {_some(ignored)}")
    return [one_line(f"finding: {finding}") for finding in findings]


def _differences(manifest: Manifest, folder: Path, here: dict[str, int], hashed: bool) -> Iterator[str]:
    listed = [os.fsdecode(path) for path in manifest.paths]
    yield from (f"{path} is missing" for path in listed if path not in here)
    yield from (f"{path} is not in it" for path in sorted(here.keys() - set(listed)))
    yield from (
        f"{path} has {here[path]:,} bytes, not {size:,}"
        for path, size in zip(listed, manifest.bytes.tolist(), strict=True)
        if here.get(path, size) != size
    )
    if not hashed:
        return
    with ThreadPoolExecutor(usable_cpus()) as pool:
        digests = pool.map(lambda path: hashlib.sha256(read(folder / path)).digest() if path in here else None, listed)
        for path, size, digest, known in zip(listed, manifest.bytes.tolist(), digests, manifest.sha256, strict=True):
            if digest is not None and digest != known.tobytes() and here[path] == size:
                yield f"{path} was changed: its sha256 is {digest.hex()[:16]}…, not {known.tobytes().hex()[:16]}…"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _sha256(lines: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line + b"\n")
    return digest.hexdigest()
