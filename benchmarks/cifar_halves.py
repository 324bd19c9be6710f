"""CIFAR-100 in two files of about 48 MiB, for a machine that takes little at a time; lossless, in the records' order.

    python benchmarks/cifar_halves.py split --data data --out data/halves
    python benchmarks/cifar_halves.py join cifar-100-1-of-2.zip cifar-100-2-of-2.zip --out data

`split` takes any form of CIFAR-100 that `famba data verify cifar100` accepts. `join` writes data/cifar-100-binary/ and
verifies it: the content digests of both splits, and the order of the records.

A half is a zip archive of lossless WebP sheets of 500 images below each other, each with its fine labels, one byte an
image. `half.json` holds the numbers of records and the digests of the whole.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from famba import data
from famba.data import cifar100, cifar_content
from famba.data.cifar_names import COARSE, FINE, SUPERCLASSES
from famba.data.cifar_records import BINARY_FOLDER, SIZE
from famba.data.content import Content, records
from famba.data.dataset import Dataset
from famba.errors import CheckFailed, InputError
from famba.files import atomic_file

SPLITS = ("train", "test")
SHEET = 500  # images; a WebP image is at most 16,383 pixels high
LIMIT = 60 * 2**20  # bytes of a half
NAMES = ("cifar-100-1-of-2.zip", "cifar-100-2-of-2.zip")
# method 6 is 2 % smaller and takes 50 times as long
WEBP: dict[str, Any] = {"lossless": True, "quality": 75, "method": 4, "exact": True}
_COARSE_OF = np.array([next(i for i, c in enumerate(COARSE) if fine in SUPERCLASSES[c]) for fine in FINE], np.uint8)


class Sheet(NamedTuple):
    """Records `start` to `stop` of a split."""

    split: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}/{self.start:05d}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("split", help="write the two halves")
    one.add_argument("--data", type=Path, required=True, metavar="DIR", help="where a form of CIFAR-100 is")
    one.add_argument("--out", type=Path, required=True, metavar="DIR")
    two = commands.add_parser("join", help="write cifar-100-binary/ from the two halves, and verify it")
    two.add_argument("halves", type=Path, nargs=2, metavar="FILE")
    two.add_argument("--out", type=Path, required=True, metavar="DIR", help="the data folder")
    args = parser.parse_args()
    began = time.perf_counter()
    try:
        if args.command == "split":
            for path in split(args.data, args.out):
                print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        else:
            identity = join(args.halves, args.out).identity
            print(f"{args.out / BINARY_FOLDER}: verified\ntrain {identity.train_digest}\ntest  {identity.test_digest}")
    except (InputError, CheckFailed) as error:
        print(f"cifar_halves: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{time.perf_counter() - began:.0f} s")
    return 0


def split(root: Path, out: Path) -> list[Path]:
    """Write the halves of the CIFAR-100 in `root`, which is verified first; returns their paths.

    Raises InputError, also where the joined halves would not be accepted; CheckFailed if a half exceeds `LIMIT`.
    """
    whole = data.load(cifar100.NAME, root)
    identity = whole.identity
    digests = Content(identity.train_digest, identity.test_digest, identity.order_digest)
    if other := cifar_content.differences(digests):  # an archive of the published hash, whose content is not pinned
        raise InputError(
            f"{root}: the {other[0]} digest is not the pinned one, so that the joined records would be refused"
        )
    counts = {"train": identity.train, "test": identity.test}
    sheets = _sheets(counts)
    middle = -(-len(sheets) // 2)
    paths = []
    for part, (name, its_sheets) in enumerate(zip(NAMES, (sheets[:middle], sheets[middle:]), strict=True), start=1):
        path = out / name
        about = {"part": part, "records": counts, "digests": digests._asdict()}
        with (
            ThreadPoolExecutor() as pool,
            atomic_file(path, binary=True) as file,
            zipfile.ZipFile(file, "w") as archive,
        ):
            archive.writestr("half.json", json.dumps(about, indent=1) + "\n")
            for sheet, webp in zip(its_sheets, pool.map(lambda s: _encoded(whole, s), its_sheets), strict=True):
                archive.writestr(f"{sheet.name}.webp", webp)
                archive.writestr(f"{sheet.name}.labels", _part(whole, sheet)[1].astype(np.uint8).tobytes())
        if (size := path.stat().st_size) > LIMIT:
            raise CheckFailed(f"{path}: {size / 2**20:.1f} MiB, more than {LIMIT / 2**20:.0f}")
        paths.append(path)
    return paths


def join(halves: Sequence[Path], out: Path) -> Dataset:
    """Write `out/cifar-100-binary/` from the two halves, in either order; returns what has been read back from it.

    Raises InputError: a half is damaged, missing or of other data, or the content is not CIFAR-100's.
    """
    read = sorted((_read(path) for path in halves), key=lambda half: half[0]["part"])
    (first, files), (second, more) = read
    if (first["part"], second["part"]) != (1, 2):
        raise InputError(f"{halves[0]} and {halves[1]}: both are half {first['part']}; name one of each")
    if first["digests"] != second["digests"]:
        raise InputError(f"{halves[0]} and {halves[1]}: halves of different data; split it again")
    files = {**files, **more}
    folder = out / BINARY_FOLDER
    for split in SPLITS:
        sheets = [sheet for sheet in _sheets(first["records"]) if sheet.split == split]
        with atomic_file(folder / f"{split}.bin", binary=True) as file:
            for sheet in sheets:
                file.write(_binary_records(files, sheet))
    for name, classes in (("fine_label_names.txt", FINE), ("coarse_label_names.txt", COARSE)):
        with atomic_file(folder / name) as file:
            file.write("\n".join(classes) + "\n")
    joined = cifar100.load_form(cifar100.Form(BINARY_FOLDER, folder))
    if joined.identity.order_digest != first["digests"]["order"]:
        raise InputError(f"{folder}: the records are in another order than those that were split; split them again")
    return joined


def _sheets(counts: Mapping[str, int]) -> list[Sheet]:
    """All sheets of both splits, in order; `counts`: records of each."""
    return [
        Sheet(split, start, min(start + SHEET, counts[split]))
        for split in SPLITS
        for start in range(0, counts[split], SHEET)
    ]


def _part(whole: Dataset, sheet: Sheet) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and fine labels (n,) of a sheet."""
    images, labels = (
        (whole.train_images, whole.train_labels) if sheet.split == "train" else (whole.test_images, whole.test_labels)
    )
    return images[sheet.start : sheet.stop], labels[sheet.start : sheet.stop]


def _encoded(whole: Dataset, sheet: Sheet) -> bytes:
    """The sheet's images below each other as WebP. Raises CheckFailed if a pixel does not come back."""
    images = _part(whole, sheet)[0]
    encoded = io.BytesIO()
    Image.fromarray(images.reshape(-1, SIZE, 3)).save(encoded, "WEBP", **WEBP)
    if not np.array_equal(_decoded(encoded.getvalue()), images):
        raise CheckFailed(f"{sheet.name}: this Pillow's WebP is not lossless; install another version")
    return encoded.getvalue()


def _decoded(webp: bytes) -> np.ndarray:
    """(n, 32, 32, 3) uint8."""
    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, SIZE, SIZE, 3)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The description of a half, and its files by name. The archive's checksums are compared on the way."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        about = json.loads(files.pop("half.json"))
        return {key: about[key] for key in ("part", "records", "digests")}, files
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError):
        raise InputError(f"{path}: damaged, or no half written by `cifar_halves.py split`; copy it again") from None


def _binary_records(files: Mapping[str, bytes], sheet: Sheet) -> bytes:
    """The records of the published binary format: coarse label, fine label, colour planes."""
    try:
        images = _decoded(files[f"{sheet.name}.webp"])
        labels = np.frombuffer(files[f"{sheet.name}.labels"], np.uint8)
        rows = records(images, labels)
        return np.column_stack([_COARSE_OF[labels], rows]).tobytes()
    except (KeyError, ValueError, IndexError, UnidentifiedImageError) as error:
        raise InputError(f"{sheet.name}: missing from the halves or damaged ({error}); split again") from None


if __name__ == "__main__":
    sys.exit(main())
