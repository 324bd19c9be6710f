"""A small set under CIFAR-100's class names, in every form but the archives, in the order of class and file name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from famba.data.cifar_names import FINE
from famba.data.content import split_digest
from tests.helpers.cifar_archive import Split, binary_members, python_members

PER_CLASS = {"train": 2, "test": 1}


def generate() -> dict[str, Split]:
    rng = np.random.default_rng(5)
    splits = {}
    for split, each in PER_CLASS.items():
        fine = np.repeat(np.arange(100), each)
        coarse = rng.integers(0, 200, (len(fine), 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
        for axis in (2, 3):  # smooth, as photographs are: nothing marks the edges of JPEG's blocks
            coarse = sum(np.roll(coarse, shift, axis) for shift in range(8)) // 8
        noise = rng.integers(0, 16, (len(fine), 3, 32, 32))
        splits[split] = Split((coarse + noise).astype(np.uint8), fine, fine % 20)
    return splits


def write_sources(path: Path, splits: dict[str, Split]) -> Path:
    """A FAMBA_SOURCES file that makes `splits` the expected content."""
    images = {name: split.images.transpose(0, 2, 3, 1) for name, split in splits.items()}
    row = {
        "digests": {name: split_digest(images[name], split.fine) for name, split in splits.items()},
        "unlabelled": {name: split_digest(images[name], np.zeros_like(split.fine)) for name, split in splits.items()},
        "records": {name: len(split.fine) for name, split in splits.items()},
    }
    path.write_text(yaml.safe_dump({"cifar100": row}))
    return path


def write_folder(root: Path, kind: str, splits: dict[str, Split]) -> Path:
    """`root/cifar-100-<kind>/`, binary or python; returns it."""
    members = (binary_members if kind == "binary" else python_members)(splits["train"], splits["test"])
    folder = root / f"cifar-100-{kind}"
    folder.mkdir(parents=True)
    for name, data in members.items():
        (folder / name).write_bytes(data)
    return folder


def write_images(root: Path, splits: dict[str, Split]) -> Path:
    """`root/{train,test}/<class>/*.png`; the files are written in reverse, since their order must not matter."""
    for name, split in splits.items():
        for at in reversed(range(len(split.fine))):
            folder = root / name / FINE[split.fine[at]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(split.images[at].transpose(1, 2, 0)).save(folder / f"image_{at:03}.png")
    return root
