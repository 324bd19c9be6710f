"""The classes that a model gives to every test image, in predictions.npz beside its row.

Strategies are compared on the same images with them, pair by pair, which needs no second seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from famba.errors import InputError
from famba.results import arrays
from famba.results.row import Row

NAME = "predictions.npz"
_FIELDS = ("top5", "labels", "test_digest", "order_digest")


@dataclass(frozen=True)
class Predictions:
    """Of the weights after the last epoch, or of those evaluated, on N images of the test set in its order.

    Attributes:
        top5: (N, k) classes by falling logit; k is 5, or the number of classes if that is smaller.
        labels: (N,) the true classes.
        places: (N,) where the images are in the test set; None: they are all of it.
    """

    top5: np.ndarray
    labels: np.ndarray
    places: np.ndarray | None = None

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool: whether the first class is the true one."""
        return self.top5[:, 0] == self.labels

    @property
    def accuracies(self) -> tuple[float, float]:
        """Top-1 and top-5 in percent."""
        among = (self.top5 == self.labels[:, None]).any(axis=1)
        return float(100 * self.correct.mean()), float(100 * among.mean())


class Identity(Protocol):
    """Which data: `Data` of a row, and what a loaded data set says of itself."""

    @property
    def classes(self) -> int: ...
    @property
    def test_digest(self) -> str: ...
    @property
    def order_digest(self) -> str: ...


def write_predictions(predictions: Predictions, data: Identity, path: Path) -> None:
    """Write them in as few bytes as the classes need. Raises InputError if they cannot be written."""
    dtype = np.min_scalar_type(data.classes - 1)
    places = {} if predictions.places is None else {"places": predictions.places}
    arrays.write_arrays(
        path,
        top5=predictions.top5.astype(dtype),
        labels=predictions.labels.astype(dtype),
        test_digest=np.array(data.test_digest),
        order_digest=np.array(data.order_digest),
        **places,
    )


def read_predictions(path: Path, row: Row) -> Predictions:
    """Read the predictions beside a row. Raises InputError if they are damaged, or not this row's."""
    most = 64 * row.data.test + 2**10  # 6 classes of 8 bytes each
    stored = arrays.read_arrays(path, _FIELDS, "the predictions", most)
    predictions = Predictions(stored["top5"], stored["labels"])
    of = (str(stored["test_digest"]), str(stored["order_digest"]))
    if problem := next(_problems(predictions, of, row), None):
        raise InputError(f"{path}: {problem}; train the cell again")
    return predictions


def _problems(predictions: Predictions, of: tuple[str, str], row: Row) -> Iterator[str]:
    """Why predictions of the data with these digests are not the row's."""
    top5, labels = predictions.top5, predictions.labels
    if of != (row.data.test_digest, row.data.order_digest):
        yield f"predictions of other test images than row {row.id}'s"
    shape, classes = (row.data.test, min(5, row.data.classes)), row.data.classes
    if top5.shape != shape or labels.shape != shape[:1]:
        yield f"its arrays are not of {shape[0]} images and {shape[1]} classes"
    if any(array.dtype.kind != "u" or array.max() >= classes for array in (top5, labels)):
        yield f"it names other classes than 0 to {classes - 1}"
    last = row.metrics.last
    for what, found, wanted in zip(("top-1", "top-5"), predictions.accuracies, (last.top1, last.top5), strict=True):
        if abs(found - wanted) > 1e-6:
            yield f"its {what} of {found:.2f} % is not the {wanted:.2f} % of the last epoch of row {row.id}"
