"""Small image folders of every kind of file that there is: sizes, modes and formats mixed."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("daisy", "rose")
_KINDS = ("png L", "png LA", "png P", "png RGBA", "png 1", "png I;16", "jpg RGB", "jpg L", "jpg CMYK", "webp RGB",
          "bmp RGB", "tif RGB", "JPEG RGB", "png RGB")  # fmt: skip
_SIZES = ((20, 20), (31, 24), (24, 37), (16, 60), (8, 9))


def pixels(number: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: bright above in even numbers, below in odd ones, and a little noise."""
    rng = np.random.default_rng(number)
    bright = (np.arange(height) < height / 2) == (number % 2 == 0)
    return (60 + 120 * bright[:, None, None] + rng.integers(60, size=(height, width, 3))).astype(np.uint8)


def encoded(kind: str, levels: np.ndarray) -> bytes:
    """An image file, such as of `png RGBA`."""
    suffix, mode = kind.split()
    image = Image.fromarray(levels)
    image = Image.fromarray(levels[:, :, 0].astype(np.uint16) * 256 + 7) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return file.getvalue()


def make(folder: Path, train: int = 40, test: int = 14, evaluated: str = "val") -> Path:
    """A folder of two classes, whose images differ in size, mode and format."""
    number = 0
    for split, images in (("train", train), (evaluated, test)):
        for _ in range(images):
            kind, name = _KINDS[number // 2 % len(_KINDS)], CLASSES[number % 2]
            path = folder / split / name / f"{number:03d}.{kind.split()[0]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(kind, pixels(number, *_SIZES[number // 2 % len(_SIZES)])))
            number += 1
    return folder
