"""CIFAR-100 archives of the exact published format, both kinds, of any length, with random images."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from famba.data.cifar_names import COARSE, FINE

FILES = {"binary": "cifar-100-binary.tar.gz", "python": "cifar-100-python.tar.gz"}
FINE_NAMES, COARSE_NAMES = list(FINE), list(COARSE)


@dataclass
class Split:
    """Images (N, 3, 32, 32) uint8, fine and coarse labels (N,)."""

    images: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray


def random_split(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, 32, 32), np.uint8)
    return Split(images, rng.integers(0, 100, count), rng.integers(0, 20, count))


def write(path: Path, train: Split, test: Split) -> Path:
    """The archive, of the kind that the name of `path` says."""
    kind = "binary" if "binary" in path.name else "python"
    members = binary_members(train, test) if kind == "binary" else python_members(train, test)
    write_tar(path, {f"cifar-100-{kind}/{name}": data for name, data in members.items()})
    return path


def write_tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> None:
    """A tar.gz of files, and of links or others given as TarInfo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                tar.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_sources(path: Path, archive: Path, train: int, test: int, url: str = "http://127.0.0.1:9/") -> Path:
    """A FAMBA_SOURCES file that makes `archive` the expected one, at `url` + its name."""
    data = archive.read_bytes()
    row = {
        "url": url + archive.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5": hashlib.md5(data).hexdigest(),
        "bytes": len(data),
        "records": {"train": train, "test": test},
    }
    path.write_text(yaml.safe_dump({archive.name: row}))
    return path


def binary_members(train: Split, test: Split) -> dict[str, bytes]:
    return {
        "coarse_label_names.txt": "\n".join(COARSE_NAMES).encode() + b"\n",
        "fine_label_names.txt": "\n".join(FINE_NAMES).encode() + b"\n",
        "test.bin": records(test),
        "train.bin": records(train),
    }


def records(split: Split) -> bytes:
    labels = np.stack([split.coarse, split.fine], axis=1).astype(np.uint8)
    return np.concatenate([labels, split.images.reshape(len(labels), -1)], axis=1).tobytes()


def python_members(train: Split, test: Split) -> dict[str, bytes]:
    meta = {
        b"fine_label_names": [name.encode() for name in FINE_NAMES],
        b"coarse_label_names": [name.encode() for name in COARSE_NAMES],
    }
    return {
        "meta": python2_pickle(meta),
        "test": python2_pickle(batch(test, "testing")),
        "train": python2_pickle(batch(train, "training")),
    }


def batch(split: Split, word: str) -> dict[bytes, Any]:
    return {
        b"filenames": [f"image_{number:06}.png".encode() for number in range(len(split.fine))],
        b"batch_label": f"{word} batch 1 of 1".encode(),
        b"fine_labels": [int(label) for label in split.fine],
        b"coarse_labels": [int(label) for label in split.coarse],
        b"data": split.images.reshape(len(split.fine), -1),
    }


def python2_pickle(value: Any) -> bytes:
    """`value` as Python 2 pickled it with protocol 2: its `str` is our bytes, and has an opcode of its own."""
    return b"\x80\x02" + _encode(value) + b"."


def _encode(value: Any) -> bytes:
    match value:
        case dict():
            code = b"}(" + b"".join(_encode(key) + _encode(item) for key, item in value.items()) + b"u"
        case list():
            code = b"](" + b"".join(map(_encode, value)) + b"e"
        case tuple():
            code = b"(" + b"".join(map(_encode, value)) + b"t"
        case bytes() if len(value) < 256:
            code = b"U" + bytes([len(value)]) + value
        case bytes():
            code = b"T" + struct.pack("<i", len(value)) + value
        case None | bool():
            code = {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int() if 0 <= value < 256:
            code = b"K" + bytes([value])
        case int():
            code = b"J" + struct.pack("<i", value)
        case np.ndarray():
            assert value.dtype == np.uint8
            dtype = b"cnumpy\ndtype\n" + _encode((b"u1", 0, 1)) + b"R"
            dtype += _encode((3, b"|", None, None, None, -1, -1, 0)) + b"b"
            code = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _encode((0,)) + _encode(b"b") + b"tR("
            code += _encode(1) + _encode(value.shape) + dtype + _encode(False) + _encode(value.tobytes()) + b"tb"
        case _:
            raise TypeError(f"no encoding for {type(value).__name__}")
    return code


# two small splits for whoever needs some
TRAIN, TEST = random_split(24, seed=1), random_split(11, seed=2)
