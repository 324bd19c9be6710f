"""CIFAR-100 by its content: the images and labels of any form against `sources.expected`, and what is wrong."""

from collections.abc import Sequence

import numpy as np

from famba.data.cifar_names import FINE
from famba.data.cifar_records import Contents, Split
from famba.data.content import Content, records, split_digest
from famba.data.sources import CONTENT, Expected, expected
from famba.errors import InputError

_JPEG_STEPS = 1.035  # `_block_steps` of the published images: 1.013, 1.022; at JPEG quality 85: 1.05, at 75: 1.11
_MEAN = (0.50707516, 0.48654887, 0.44091784)  # of each channel of the published training images, on a scale of 0 to 1
_NEAR = 0.004  # of a channel's mean


def check(contents: Contents, found: Content, where: str) -> None:
    """Refuse images and labels that are not CIFAR-100's. Raises InputError, one line that names what they are."""
    wanted = expected()
    if found[:2] == (wanted.digests["train"], wanted.digests["test"]):
        return
    if wrong := _wrong_names(contents.names):
        raise InputError(f"{where}: {wrong}")
    for split, part in (("train", contents.train), ("test", contents.test)):
        if getattr(found, split) != wanted.digests[split]:
            raise InputError(f"{where}: {split}: {_what_is_wrong(part, split, wanted)}")


def differences(found: Content) -> list[str]:
    """For data that is verified in another way: the splits whose content is not the one that is pinned here."""
    wanted = expected()
    return [split for split in ("train", "test") if getattr(found, split) != wanted.digests[split]]


def _wrong_names(names: Sequence[str]) -> str | None:
    for label, (name, published) in enumerate(zip(names, FINE, strict=True)):
        if name != published:
            order = "permuted class indices" if set(names) == set(FINE) else "other class names"
            return f"{order}: class {label} is named {name!r}, expected {published!r}"
    return None


def _what_is_wrong(part: Split, split: str, wanted: Expected) -> str:
    """The most likely reason why a split is not the published one."""
    rows = records(part.images, part.fine)
    repeated = len(rows) - len(np.unique(rows.view(f"S{rows.shape[1]}"))) - wanted.repeated.get(split, 0)
    return (
        _wrong_number(part, wanted.records[split], repeated)
        or _wrong_labels(part, split, wanted)
        or _wrong_pixels(part, wanted)
        or f"other pixels or labels: digest {split_digest(*part)}, expected {wanted.digests[split]}"
    )


def _wrong_number(part: Split, full: int, repeated: int) -> str | None:
    """Classes that are not there, or too few or too many images; `repeated`: records that should be there once less."""
    per_class, count = np.bincount(part.fine, minlength=len(FINE)), len(part.fine)
    again = f", {repeated:,} of them duplicated" if repeated > 0 else ""
    if missing := [FINE[label] for label in np.flatnonzero(per_class == 0)]:
        there, names = len(FINE) - len(missing), ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        ten = " (CIFAR-10 has 10)" if there == 10 else ""
        return f"{there} of {len(FINE)} classes{ten}, without {names}; {count:,} images"
    if count < full:
        return f"a subset: {count:,} of {full:,} images{again}"
    if count > full:
        return f"{count:,} images, expected {full:,}{again}"
    if repeated > 0:
        return f"duplicated images: {repeated:,} records are there more often than in the published set"
    return None


def _wrong_labels(part: Split, split: str, wanted: Expected) -> str | None:
    if split_digest(part.images, np.zeros_like(part.fine)) != wanted.unlabelled.get(split):
        return None
    return "swapped labels: the images are the published ones, their labels are not (permuted class indices?)"


def _wrong_pixels(part: Split, wanted: Expected) -> str | None:
    if (steps := _block_steps(part.images)) > _JPEG_STEPS:
        return f"a JPEG-compressed copy: steps between blocks of 8 pixels are {steps:.2f} times those within, not 1.02"
    mean = part.images.mean((0, 1, 2)) / 255
    if wanted is not CONTENT:
        return None
    if np.abs(mean - _MEAN).max() < _NEAR:
        return "altered pixels: a copy that was compressed with loss, or resized and back"
    if np.abs(mean[::-1] - _MEAN).max() < _NEAR:
        return "swapped colours: red and blue are exchanged"
    return None


def _block_steps(images: np.ndarray) -> float:
    """Mean step between neighbours across the edges of JPEG's blocks, relative to that in the middle of a block."""
    sample = images[:: max(1, len(images) // 4000)].astype(np.int16)
    across, down = np.abs(np.diff(sample, axis=2)).mean((0, 1, 3)), np.abs(np.diff(sample, axis=1)).mean((0, 2, 3))
    edges = np.arange(7, 31, 8)
    middle = np.arange(3, 31, 8)  # the same in fours: what resizing leaves repeats in less than eight pixels
    return float((across[edges].mean() + down[edges].mean()) / (across[middle].mean() + down[middle].mean()))
