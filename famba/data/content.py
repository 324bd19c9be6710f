"""Identity by content: digests of the images and labels themselves, whatever files they came in."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 1024  # records hashed at a time


class Content(NamedTuple):
    """Digests (sha256, hex) of a data set's records.

    `train` and `test` are those of `split_digest`. `order` is over the positions of the sorted records in both
    splits: data sets with all three digests equal hold the same arrays, record by record.
    """

    train: str
    test: str
    order: str


def content(arrays: Sequence[np.ndarray]) -> Content:
    """The digests of (train images, train labels, test images, test labels), shaped as for `split_digest`."""
    (train, train_order), (test, test_order) = (_sorted_digest(*arrays[at : at + 2]) for at in (0, 2))
    return Content(train, test, hashlib.sha256(train_order + test_order).hexdigest())


def split_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """sha256 over the sorted records of a split, so that their order does not matter.

    images: uint8 (N, H, W, C); labels: (N,), each in [0, 256). A record is one byte of label, then the C colour
    planes of the image, each row-major; records are sorted as byte strings.
    """
    return _sorted_digest(images, labels)[0]


def _sorted_digest(images: np.ndarray, labels: np.ndarray) -> tuple[str, bytes]:
    """The digest, and the position of each sorted record in the split as little-endian uint32."""
    rows = records(images, labels)
    # numpy compares byte strings by memcmp; records of equal content keep their order
    order = np.argsort(rows.view(f"S{rows.shape[1]}").ravel(), kind="stable")
    digest = hashlib.sha256()
    for start in range(0, len(order), _BLOCK):
        digest.update(rows[order[start : start + _BLOCK]].data)
    return digest.hexdigest(), order.astype("<u4").tobytes()


def records(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The records (N, 1 + C * H * W) uint8 that `split_digest` sorts."""
    count, height, width, channels = images.shape
    pixels = height * width
    rows = np.empty((count, 1 + channels * pixels), np.uint8)
    rows[:, 0] = labels
    flat = images.reshape(count, pixels, channels)
    for channel in range(channels):  # several times faster than one transposition
        rows[:, 1 + channel * pixels : 1 + (channel + 1) * pixels] = flat[:, :, channel]
    return rows
