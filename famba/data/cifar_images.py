"""CIFAR-100 as an image folder, `{train,test}/<class>/*.png`, or as Hugging Face's Parquet files of PNG images."""

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from famba.data.cifar_names import CIFAR10, FINE
from famba.data.cifar_records import SIZE, Contents, Split
from famba.data.dataset import check_labels
from famba.errors import InputError
from famba.files import read_bytes
from famba.system.host import usable_cpus

SPLITS = ("train", "test")
_LARGEST = 1 << 22  # bytes of an image of 32 x 32 pixels, whatever else stands in its file
_THREADS = min(8, usable_cpus())  # zlib and file reading run beside each other


def read_images(root: Path) -> Contents:
    """Read `root/{train,test}/<class>/*.png`, sorted by class, then by file name. Raises InputError."""
    train, test = (_read_split(root / split) for split in SPLITS)
    return Contents(train, test, FINE)


def _read_split(folder: Path) -> Split:
    _check_classes(folder)
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(FINE):
        found = sorted(path for path in (folder / name).iterdir() if not path.name.startswith("."))
        if lossy := [path for path in found if path.suffix.lower() in (".jpg", ".jpeg")]:
            raise InputError(f"{lossy[0]}: a JPEG-compressed copy, which has lost the images' pixels; expected PNG")
        images = [path for path in found if path.suffix.lower() == ".png"]
        files += images
        labels += [label] * len(images)
    return Split(
        _decode_all(files, str, lambda path: io.BytesIO(read_bytes(path, _LARGEST))), np.array(labels, np.int64)
    )


def _check_classes(folder: Path) -> None:
    """Refuse a split that does not have exactly the 100 class folders."""
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: an image folder has train/<class>/*.png and test/<class>/*.png")
    found = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if found and found <= {*CIFAR10}:
        raise InputError(f"{folder}: {_some(found)} are classes of CIFAR-10; expected the 100 of CIFAR-100")
    if missing := set(FINE) - found:
        raise InputError(
            f"{folder}: {len(missing)} of the 100 classes missing ({_some(missing)}); expected a folder of each class"
        )
    if extra := found - set(FINE):
        raise InputError(f"{folder}: {_some(extra)}: not classes of CIFAR-100")


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:3]) + (", …" if len(first) > 3 else "")


def _decode_all(sources: Sequence[Any], where: Callable[[Any], str], opened: Callable[[Any], Any]) -> np.ndarray:
    """Images (N, 32, 32, 3) of PNG files; `opened` gives what Pillow opens, `where` what a message names."""
    images = np.empty((len(sources), SIZE, SIZE, 3), np.uint8)

    def decode(at: int) -> None:
        try:
            with Image.open(opened(sources[at])) as image:
                if image.format == "JPEG":
                    raise InputError(
                        f"{where(sources[at])}: a JPEG-compressed image, which has lost pixels; expected PNG"
                    )
                if image.size != (SIZE, SIZE):
                    width, height = image.size
                    raise InputError(
                        f"{where(sources[at])}: resized to {width} x {height}, expected {SIZE} x {SIZE} pixels"
                    )
                images[at] = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{where(sources[at])}: cannot be read as an image: {error}") from error

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(decode, range(len(sources)), chunksize=256):
            pass
    return images


def read_parquet(folder: Path) -> Contents:
    """Read `folder/{train,test}-*.parquet`: columns img.bytes (PNG) and fine_label. Raises InputError."""
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - optional: no other form needs it
    except ImportError:
        raise InputError(f"{folder}: Parquet files need pyarrow: pip install pyarrow") from None
    parts = []
    for split in SPLITS:
        files = sorted(path for path in folder.glob(f"{split}-*.parquet") if path.is_file())
        if not files:
            raise InputError(f"{folder}: {split}-*.parquet is missing; expected files of both splits")
        labels: list[int] = []
        images: list[tuple[str, bytes]] = []
        for file in files:
            try:
                columns = parquet.read_schema(file).names
                if "fine_label" not in columns or "img" not in columns:
                    other = " (CIFAR-10 has img and label)" if "label" in columns else ""
                    raise InputError(
                        f"{file}: columns {', '.join(columns)}{other}; expected img and fine_label of CIFAR-100"
                    )
                table = parquet.read_table(file, columns=["img", "fine_label"])
                numbers = np.array([int(label) for label in table["fine_label"].to_pylist()], np.int64).tolist()
                blobs = [image["bytes"] for image in table["img"].to_pylist()]
            except (OSError, ArrowException, KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{file}: cannot be read: {error}") from error
            labels += numbers
            images += [(f"{file}: record {at}", blob) for at, blob in enumerate(blobs)]
        fine = np.array(labels, np.int64)
        check_labels(fine, len(FINE), f"{folder}: {split}", "fine label")
        parts.append(Split(_decode_all(images, lambda one: one[0], lambda one: io.BytesIO(one[1])), fine))
    train, test = parts
    return Contents(train, test, FINE)
