"""The digits of scikit-learn: 1,797 scanned digits of 8 x 8 pixels, embedded in the package, no network needed.

They are the test half of the UCI set "Optical Recognition of Handwritten Digits"; the split into train and test is
ours, and fixed.
"""

import importlib.util
from importlib.metadata import version
from pathlib import Path

import numpy as np

from famba.data.dataset import Dataset, canonical_digest, describe
from famba.errors import InputError, IntegrityError

NAME = "digits"
SHA256 = "a213c27164aa712f5ce5755ba56317bcfe3d56392689d076b3c1a5664a99a875"  # canonical_digest of the split
SIZE = 8


def locate() -> Path:
    """The file inside scikit-learn from which its `load_digits` reads."""
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.origin).parent / "datasets/data/digits.csv.gz" if spec and spec.origin else None
    if path is None or not path.exists():
        raise InputError(f"{path or 'scikit-learn'} is missing: run `pip install scikit-learn`")
    return path


def load() -> Dataset:
    """The digits in 10 classes; images (N, 8, 8, 1), grey levels 0..16 scaled to 0..255. 1,437 train, 360 test."""
    path = locate()
    # the file itself: importing sklearn.datasets takes two seconds, every run of the smoke grid would pay them
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # (1797, 65), the label in the last column
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, SIZE, SIZE, 1)
    labels = table[:, -1].astype(np.int64)
    train, test = _split(labels)
    arrays = (images[train], labels[train], images[test], labels[test])
    digest = canonical_digest(arrays)
    if digest[0] != SHA256:
        raise IntegrityError(f"{path}: sha256 of the images and labels {digest[0]}, expected {SHA256}: altered")
    classes = [str(digit) for digit in range(10)]
    return describe(NAME, f"scikit-learn {version('scikit-learn')} load_digits", digest, arrays, classes, official=True)


def _split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of train and test: every fifth image of each class, in an order drawn with PCG64(0), is a test image.

    The draw takes the bit generator's raw numbers, whose stream numpy guarantees for ever, which it does not for
    `Generator.permutation`.
    """
    drawn = np.argsort(np.random.PCG64(0).random_raw(len(labels)), kind="stable")
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    is_test = np.zeros(len(labels), bool)
    is_test[by_class[::5]] = True
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)
