"""What every loader returns: the images in memory, and the identity that a result row quotes."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from famba.data.content import Content, content
from famba.data.image_files import ImageFiles
from famba.errors import IntegrityError

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as the recipe has it for every data set
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Identity:
    """Which images these are, in a form that fits in a result row.

    `sha256` and `bytes` are those of the archive, and of `canonical_digest` for what does not come as one archive.
    `official` is False when FAMBA_SOURCES put another content in the place of the published one.
    The digests are those of `famba.data.content`: results from equal `train_digest` and `test_digest` are of the same
    images and labels, and with equal `order_digest` also of the same order.
    """

    name: str
    source: str  # file name of the archive, or the package that carries the images
    sha256: str
    bytes: int
    train: int  # images
    test: int  # images
    classes: int
    channels: int
    size: int | None  # pixels, height and width; None: each image has its own
    train_digest: str
    test_digest: str
    order_digest: str
    official: bool = True
    decoder: str | None = None  # what made pixels of an image folder's files

    @property
    def pixels(self) -> str:
        """The images' size in words."""
        return "images of their own sizes" if self.size is None else f"{self.size} x {self.size} pixels"

    def written(self) -> dict[str, Any]:
        """For JSON; without what only image folders have."""
        return {name: value for name, value in asdict(self).items() if name != "decoder" or value is not None}

    @property
    def sequence(self) -> str:
        """Equal where the records are equal one by one, and in their order: a training cannot tell them apart."""
        return f"{self.train_digest} {self.test_digest} {self.order_digest}"


@dataclass(frozen=True)
class Dataset:
    """A data set. Images are uint8 (N, H, W, C), whole, in memory, or the files of a folder; labels int64 (N,)."""

    name: str
    train_images: np.ndarray | ImageFiles
    train_labels: np.ndarray
    test_images: np.ndarray | ImageFiles
    test_labels: np.ndarray
    classes: tuple[str, ...]
    identity: Identity


def describe(
    name: str,
    source: str,
    digest: tuple[str, int],
    arrays: Sequence[np.ndarray],
    classes: Sequence[str],
    official: bool,
    found: Content | None = None,
) -> Dataset:
    """The `Dataset` of `arrays` (train images, train labels, test images, test labels).

    `digest` is (sha256, bytes); `found` the content of `arrays`, where it has been computed before.
    """
    train_images, train_labels, test_images, test_labels = arrays
    sha256, size = digest
    _, height, _, channels = train_images.shape
    found = found or content(arrays)
    identity = Identity(
        name=name,
        source=source,
        sha256=sha256,
        bytes=size,
        train=len(train_images),
        test=len(test_images),
        classes=len(classes),
        channels=channels,
        size=height,
        train_digest=found.train,
        test_digest=found.test,
        order_digest=found.order,
        official=official,
    )
    return Dataset(name, train_images, train_labels, test_images, test_labels, tuple(classes), identity)


def canonical_digest(arrays: Sequence[np.ndarray]) -> tuple[str, int]:
    """sha256 and length of the arrays' bytes one after another, each in C order and labels as one byte each."""
    digest, size = hashlib.sha256(), 0
    for array in arrays:
        data = np.ascontiguousarray(array, dtype=np.uint8)
        digest.update(data.data)
        size += data.nbytes
    return digest.hexdigest(), size


def check_labels(labels: np.ndarray, classes: int, where: str, kind: str = "label") -> None:
    """Refuse a label outside [0, classes)."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        at = int(wrong[0])
        raise IntegrityError(f"{where}: record {at}: {kind} {int(labels[at])}, expected 0 to {classes - 1}")
