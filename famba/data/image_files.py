"""Images that stay on disk: decoded each time they are asked for, and hashed each time before they are decoded.

A folder may be larger than the memory, and crops are taken from the images as they are, as ImageNet's recipes do. A
copy of decoded pixels would have to be made first, fit on the disk, and be kept up to date.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image, features

from famba.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF")
_MOST_PIXELS = 89_478_485  # of an image: Pillow's own limit, a quarter of a gigabyte in three channels
# above that limit Pillow warns, and only beyond twice as much it refuses
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class ImageFiles:
    """The images of a split, in the manifest's order.

    Args:
        folder: of all splits.
        paths: (N,) bytes, seen from there.
        sha256: (N, 32) uint8, of each file.
        size: pixels of a side that every image is brought to; None: each keeps its own.
    """

    def __init__(self, folder: Path, paths: np.ndarray, sha256: np.ndarray, size: int | None) -> None:
        self.folder, self.paths, self.sha256, self.size = folder, paths, sha256, size

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Of an image."""
        return self.folder / os.fsdecode(self.paths[index])

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: np.ndarray) -> ImageFiles: ...
    def __getitem__(self, index: int | np.ndarray) -> Image.Image | ImageFiles:
        """The RGB image at a place; for several places, the files there.

        Raises InputError, which names the file, where it is not the one that the manifest lists, or no image.
        """
        if isinstance(index, np.ndarray):
            return ImageFiles(self.folder, self.paths[index], self.sha256[index], self.size)
        path = self.path(index)
        content = read(path)
        if hashlib.sha256(content).digest() != self.sha256[index].tobytes():
            raise InputError(f"{path}: changed since the manifest was written; `famba data verify` names all")
        image = decoded(content, path)
        return image if self.size is None else centred(image, self.size, self.size, path)


def read(path: Path) -> bytes:
    """The bytes of a file. Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def decoded(content: bytes, path: Path) -> Image.Image:
    """The image as RGB, as torchvision's ImageFolder has it: no alpha, CMYK converted, the first of several frames.

    Of 16-bit grey levels the high byte is taken, as Pillow takes it of 16-bit colours; its own conversion would clip.
    Raises InputError, which names the file: damaged, larger than Pillow's limit, levels whose range is not known.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
                grey = np.asarray(image).astype(np.uint16) >> 8
                return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
            if image.mode in ("I", "F"):
                raise InputError("levels of 32 bits, whose range is not known; convert it to 8 bits")
            return image.convert("RGB")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{path}: more than {_MOST_PIXELS:,} pixels; make it smaller") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{path}: not an image in {', '.join(_FORMATS)}") from None
    except MemoryError:
        raise
    except Exception as error:  # a decoder raises whatever a damaged file provokes
        raise InputError(f"{path}: damaged: {error or type(error).__name__}") from None


def centred(image: Image.Image, shorter: int, crop: int, path: Path) -> Image.Image:
    """The shorter side resized, bicubically, then the middle: crop x crop pixels, crop <= shorter.

    As torchvision's Resize and CenterCrop, and `augment.batched.EvalTransform` on images of one size. Raises InputError
    for an image so narrow that its longer side could not be held.
    """
    width, height = image.size
    wide, high = (size * shorter // min(width, height) for size in (width, height))
    if wide * high > _MOST_PIXELS:
        raise InputError(f"{path}: {width:,} x {height:,} pixels are too narrow to be {shorter} pixels wide")
    if (wide, high) != image.size:
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (round((side - crop) / 2) for side in (wide, high))
    return image if (wide, high) == (crop, crop) else image.crop((left, top, left + crop, top + crop))


def decoder() -> str:
    """What decodes: pixels of one JPEG file may differ by a level between versions."""
    libraries = [
        f"{name} {version}"
        for name, feature in (("libjpeg-turbo", "libjpeg_turbo"), ("libwebp", "webp"), ("libtiff", "libtiff"))
        if (version := _version(feature))
    ]
    return ", ".join([f"Pillow {_version('pil')}", *libraries])


def _version(feature: str) -> str | None:
    found = features.version_feature(feature) if feature == "libjpeg_turbo" else features.version(feature)
    return found if isinstance(found, str) else None
