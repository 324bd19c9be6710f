"""The metrics of every epoch and of every step beside a row: written by a training, read by all others."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from famba.errors import InputError
from famba.files import atomic_file
from famba.text import six_digits

EPOCH_FIELDS = (
    "epoch", "lr", "train_loss", "top1", "top5", "ema_top1", "ema_top5", "train_s", "evaluation_s", "ema_evaluation_s",
    "data_wait_s", "cpu_s", "images_per_s",
)  # fmt: skip
STEP_FIELDS = ("epoch", "step", "lr", "loss")


def write_epochs(epochs: Iterable[Mapping[str, float]], path: Path) -> None:
    """The per-epoch metrics beside a row, as CSV."""
    _write_csv(EPOCH_FIELDS, epochs, path)


def write_steps(steps: Iterable[Mapping[str, float]], path: Path) -> None:
    """The learning rate and the loss of every optimiser step beside a row, as CSV."""
    _write_csv(STEP_FIELDS, steps, path)


def read_epochs(path: Path) -> list[dict[str, float]]:
    """The metrics per epoch that stand beside a row. Raises InputError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            epochs = [{name: float(epoch[name]) for name in EPOCH_FIELDS} for epoch in csv.DictReader(file)]
        if not epochs:
            raise ValueError("no epoch")
        return epochs
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the metrics per epoch ({error.strerror}); train the cell again"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a CSV of metrics per epoch ({type(error).__name__}: {error})") from None


def _write_csv(fields: Sequence[str], lines: Iterable[Mapping[str, float]], path: Path) -> None:
    with atomic_file(path) as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: six_digits(value) for key, value in line.items()} for line in lines)
