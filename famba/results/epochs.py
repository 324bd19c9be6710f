"""The metrics of every epoch and of every step beside a row: written by a training, read by all others."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from famba.errors import InputError
from famba.files import atomic_file, read_text
from famba.text import six_digits

NAME = "epochs.csv"
EPOCH_FIELDS = (
    "epoch", "lr", "train_loss", "top1", "top5", "ema_top1", "ema_top5", "train_s", "evaluation_s", "ema_evaluation_s",
    "data_wait_s", "cpu_s", "images_per_s",
)  # fmt: skip
_POSITIVE = ("cpu_s", "images_per_s")  # what epochs are compared by, as ratios
STEP_FIELDS = ("epoch", "step", "lr", "loss")


def read_epochs(path: Path, epochs: int | None = None) -> list[dict[str, float]]:
    """The metrics per epoch that stand beside a row, in the order of the epochs.

    Raises InputError unless every epoch from 0 is there (all `epochs`, if given), with a finite number in each field,
    and a positive one in those of speed.
    """
    text = read_text(path, "the metrics per epoch", "; train the cell again")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        fields, lines = reader.fieldnames, list(reader)
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV of metrics per epoch ({error})") from None
    if not fields:
        raise InputError(f"{path}: not a CSV of metrics per epoch (it is empty)")
    if tuple(fields) != EPOCH_FIELDS:
        raise InputError(f"{path}: expected the columns {', '.join(EPOCH_FIELDS)}, found {', '.join(fields)}")
    numbers = [{field: _number(line[field]) for field in EPOCH_FIELDS} for line in lines]
    expected = epochs or max(len(lines), 1)
    if [line["epoch"] for line in numbers] != list(range(expected)):
        raise InputError(f"{path}: expected epochs 0 to {expected - 1}, one a line, found {len(lines)} lines")
    for field in EPOCH_FIELDS:
        for epoch, line in enumerate(numbers):
            if not math.isfinite(line[field]) or (field in _POSITIVE and line[field] <= 0):
                found = lines[epoch][field] or "missing"
                kind = "positive" if field in _POSITIVE else "finite"
                raise InputError(f"{path}: {field} of epoch {epoch} is {found}, expected a {kind} number")
    return numbers


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def write_epochs(epochs: Iterable[Mapping[str, float]], path: Path) -> None:
    """The per-epoch metrics beside a row, as CSV."""
    write_csv(EPOCH_FIELDS, epochs, path)


def write_steps(steps: Iterable[Mapping[str, float]], path: Path) -> None:
    """The learning rate and the loss of every optimiser step beside a row, as CSV."""
    write_csv(STEP_FIELDS, steps, path)


def write_csv(fields: Sequence[str], lines: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Lines as a CSV that is there whole or not at all, numbers with six digits. Raises InputError."""
    with atomic_file(path) as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: six_digits(value) for key, value in line.items()} for line in lines)
