"""CIFAR-100 in any of its common forms: which are there, which is taken, and that it is the published set.

A published archive is checked against its sha256 and read in place; nothing is unpacked to the disk. The other forms
are checked by the content of both splits (cifar_content.py), and an extracted python folder is also known by its files'
md5.
"""

import hashlib
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from famba.data import cifar_content, sources
from famba.data.cifar_images import read_images, read_parquet
from famba.data.cifar_records import BINARY_FOLDER, PYTHON_FOLDER, Contents, read_archive, read_folder
from famba.data.content import Content, content
from famba.data.dataset import Dataset, Identity, canonical_digest, describe
from famba.errors import InputError, IntegrityError
from famba.files import open_regular

NAME = "cifar100"
BINARY, PYTHON = "cifar-100-binary.tar.gz", "cifar-100-python.tar.gz"
IMAGES, PARQUET = "image folder {train,test}/<class>/*.png", "{train,test}-*.parquet"
# In order of preference: the archives first, whose sha256 is published; then by the time that reading takes.
FORMS = (BINARY, PYTHON, PYTHON_FOLDER, BINARY_FOLDER, PARQUET, IMAGES)
CHOICE = "the first that is verified is read: published archives, then extracted folders, Parquet, image folder"
_SPLITS = ("train", "test")
# md5 of the files in the official python archive, as torchvision publishes them (torchvision/datasets/cifar.py)
_EXTRACTED_MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


@dataclass(frozen=True)
class Form:
    """One of FORMS that is there: the archive, or the folder that holds the files."""

    kind: str
    path: Path

    def __str__(self) -> str:
        return str(self.path) if self.path.name.startswith(self.kind) else f"{self.path} ({self.kind})"


def locate(root: str | Path) -> list[Form]:
    """The forms in `root` and in its folders `cifar*`, the preferred one first. InputError if there is none."""
    root = Path(root)
    folders = _folders(root)
    found = [Form(kind, path) for kind in FORMS for folder in folders if (path := _present(kind, folder))]
    if not found:
        raise InputError(_missing(root, folders))
    return found


def load(root: str | Path) -> Dataset:
    """CIFAR-100 with its 100 fine classes; images (N, 32, 32, 3), verified.

    Of several forms the first that can be verified is read, and stderr says why one before it was not.
    Raises InputError if none can be: IntegrityError where an archive is there and is not the published one.
    """
    errors: list[InputError] = []
    for form in locate(root):
        try:
            loaded = load_form(form)
        except InputError as error:
            errors.append(error)
            continue
        for refusal in errors:
            print(f"not used: {refusal}; reading {form}", file=sys.stderr)
        return loaded
    raise type(errors[0])("; ".join(map(str, errors)))


def load_form(form: Form) -> Dataset:
    """Read and verify one form. Raises InputError."""
    if form.kind in (BINARY, PYTHON):
        return _load_archive(form.path)
    try:
        contents = _READERS[form.kind](form.path)
        arrays = _arrays(contents)
        found = content(arrays)
        if not (form.kind == PYTHON_FOLDER and _is_extracted(form.path)):
            cifar_content.check(contents, found, str(form))
    except IntegrityError as error:  # `famba data fetch` brings archives, and would not repair a folder
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"{form.path}: cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise InputError(f"{form.path}: does not fit into memory") from None
    source = form.kind if form.kind in (IMAGES, PARQUET) else f"{form.kind}/"
    return describe(NAME, source, canonical_digest(arrays), arrays, contents.names, _official(), found)


_READERS: dict[str, Callable[[Path], Contents]] = {
    PYTHON_FOLDER: lambda path: read_folder(path, PYTHON_FOLDER, sources.expected().records),
    BINARY_FOLDER: lambda path: read_folder(path, BINARY_FOLDER, sources.expected().records),
    PARQUET: read_parquet,
    IMAGES: read_images,
}


def findings(identity: Identity) -> list[str]:
    """What is worth a word about data that has been verified: content that is not the one pinned here."""
    archived = identity.source in (BINARY, PYTHON)
    if archived and identity.official != _official():
        return []  # FAMBA_SOURCES describes the one and not the other
    found = Content(identity.train_digest, identity.test_digest, identity.order_digest)
    return [
        f"finding: the {split} digest is not {sources.expected().digests[split]}, computed from the images of "
        "another source; the files have their published hashes, and are taken"
        for split in cifar_content.differences(found)
    ]


def _load_archive(path: Path) -> Dataset:
    archive = sources.archive(path.name)
    try:
        with open_regular(path) as file:
            size = sum(len(chunk) for chunk in sources.checked(file, path, archive))
            file.seek(0)
            contents = read_archive(file, path, archive)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read: {error or type(error).__name__}") from error
    return describe(NAME, path.name, (archive.sha256, size), _arrays(contents), contents.names, archive.official)


def _official() -> bool:
    """Whether the content that is expected is the published one."""
    return sources.expected() is sources.CONTENT


def _arrays(contents: Contents) -> tuple[np.ndarray, ...]:
    return (contents.train.images, contents.train.fine, contents.test.images, contents.test.fine)


def _is_extracted(folder: Path) -> bool:
    """Whether the pickles are those of the official python archive, byte for byte."""
    for split, md5 in _EXTRACTED_MD5.items():
        with open(folder / split, "rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != md5:
                return False
    return True


def _folders(root: Path) -> list[Path]:
    """Where forms are looked for: `root` and its folders `cifar*`."""
    try:
        return [
            root,
            *sorted(path for path in root.iterdir() if path.name.lower().startswith("cifar") and path.is_dir()),
        ]
    except OSError:
        return [root]


def _present(kind: str, folder: Path) -> Path | None:
    """The archive or folder of a form in `folder`, if there is a part of one."""
    if kind in (BINARY, PYTHON):
        return folder / kind if (folder / kind).is_file() else None
    there = {
        PYTHON_FOLDER: lambda: any((folder / name).is_file() for name in (*_SPLITS, "meta")),
        BINARY_FOLDER: lambda: any((folder / f"{split}.bin").is_file() for split in _SPLITS),
        PARQUET: lambda: any(True for split in _SPLITS for _ in folder.glob(f"{split}-*.parquet")),
        IMAGES: lambda: any((folder / split).is_dir() for split in _SPLITS),
    }
    return folder if there[kind]() else None


def _missing(root: Path, folders: list[Path]) -> str:
    """The message where no form is there: what is taken, where it was looked for, and how to get it."""
    forms = [f"{kind}/" if kind in (PYTHON_FOLDER, BINARY_FOLDER) else kind for kind in FORMS]
    ten = [f"{path} is CIFAR-10, which has 10 classes; " for path in _cifar10(folders)][:1]
    return (
        f"{''.join(ten)}{root / BINARY} is missing: run `famba data fetch cifar100` or `dvc repro cifar100`, "
        f"or put one of {', '.join(forms)} into {root} or its folders cifar*; --root, --data or FAMBA_DATA name "
        f"another folder, FAMBA_SOURCES a YAML file with a mirror: `{BINARY}: {{url: https://...}}`"
    )


def _cifar10(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        if any(folder.glob("data_batch_1*")):
            yield folder
        yield from folder.glob("cifar-10-*.tar.gz")
