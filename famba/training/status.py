"""How far a cell is, from the files that its training writes. No torch here: a look costs milliseconds.

row.json says that it is done; train.log has a line a minute, checkpoint.pt the whole history after every epoch.
"""

from __future__ import annotations

import json
import pickle
import re
import statistics
import time
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from famba.errors import InputError
from famba.results.row import read_row

QUIET_S = 300.0  # without a sign of life; a log line comes every minute, but for the time of an evaluation
# the line of famba.training.progress.Progress
_LINE = re.compile(
    r"epoch (?P<epoch>\d+)/(?P<epochs>\d+)  ETA (?P<eta>[\d:]+)  (?P<rate>[\d,]+) images/s  (?P<mib>[\d,]+) MiB  "
    r"top-1 (?P<top1>–|[\d.]+)"
)

Kind = Literal["waiting", "starting", "training", "quiet", "done", "unreadable"]


@dataclass(frozen=True)
class CellState:
    """A cell at a moment; None is what is not known.

    Attributes:
        cell: its id. kind: `quiet` has begun and written nothing for `QUIET_S`: stopped, most likely.
        epoch, epochs: the one that is running, from 1, of all. images_per_s: of the last epoch or minute.
        mib: peak memory, of the device if there is one. top1: of the last epoch, in percent.
        left_s: seconds until it is done. whole_s: seconds from its start to its end.
        quiet_s: seconds since the last sign of life. note: why it is unreadable.
    """

    cell: str
    kind: Kind
    epoch: int | None = None
    epochs: int | None = None
    images_per_s: float | None = None
    mib: float | None = None
    top1: float | None = None
    left_s: float | None = None
    whole_s: float | None = None
    quiet_s: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class _Sign:
    """What one file said at `at`, in seconds since 1970."""

    at: float
    epoch: int
    epochs: int
    images_per_s: float
    mib: float
    top1: float | None
    left_s: float  # counted from `at`
    whole_s: float
    silent_s: float = 0.0  # of each epoch, evaluating


def cell_state(folder: Path, now: float | None = None) -> CellState:
    """The state of the cell whose files are in this folder, which may not be there yet."""
    now = time.time() if now is None else now
    row, log, checkpoint, previous = (
        folder / name for name in ("row.json", "train.log", "checkpoint.pt", "checkpoint.previous.pt")
    )
    if not checkpoint.exists():  # between two of them
        checkpoint = previous
    touched = [at for path in (folder, log, checkpoint) if (at := _changed(path)) is not None]
    if not touched:
        return CellState(folder.name, "waiting")
    # a checkpoint becomes the weights when its cell is done: where one is, an older row is being made again
    if row.exists() and not checkpoint.exists():
        return _done(row, folder.name)
    signs = [sign for sign in (_from_log(log), _from_checkpoint(checkpoint)) if sign is not None]
    quiet = max(0.0, now - max(touched))
    if not signs:
        return CellState(folder.name, "quiet" if quiet > QUIET_S else "starting", quiet_s=quiet)
    sign = max(signs, key=lambda sign: sign.at)
    stopped = quiet > max(QUIET_S, *(2 * sign.silent_s for sign in signs))
    return CellState(
        folder.name,
        "quiet" if stopped else "training",
        sign.epoch,
        sign.epochs,
        sign.images_per_s,
        sign.mib,
        sign.top1,
        left_s=sign.left_s if stopped else max(0.0, sign.left_s - (now - sign.at)),
        whole_s=sign.whole_s,
        quiet_s=quiet,
    )


def _done(path: Path, cell: str) -> CellState:
    try:
        row = read_row(path)
    except InputError as error:
        return CellState(cell, "unreadable", note=str(error))
    epochs = row.cell.recipe.epochs
    memory = row.memory.host_peak if row.memory.device_peak is None else row.memory.device_peak
    return CellState(
        cell, "done", epochs, epochs, row.time.images_per_s, memory / 2**20, row.metrics.last.top1,
        left_s=0.0, whole_s=row.time.total,
    )  # fmt: skip


def _from_log(path: Path) -> _Sign | None:
    """The last line, if it is one of progress: after any other, it tells of an earlier run."""
    at = _changed(path)
    if at is None:
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    found = _LINE.search(lines[-1]) if lines else None
    if found is None:
        return None
    epoch, epochs = int(found["epoch"]), int(found["epochs"])
    left = 0.0
    for part in found["eta"].split(":"):
        left = 60 * left + int(part)
    return _Sign(
        at, epoch, epochs,
        images_per_s=float(found["rate"].replace(",", "")),
        mib=float(found["mib"].replace(",", "")),
        top1=None if found["top1"] == "–" else float(found["top1"]),
        left_s=left,
        whole_s=left * epochs / (epochs - epoch + 0.5),  # the middle of the epoch, as the line does not tell
    )  # fmt: skip


def _from_checkpoint(path: Path) -> _Sign | None:
    """The history that is kept for a resumption."""
    at = _changed(path)
    if at is None:
        return None
    try:
        state = without_tensors(path)
        history, epochs = state["history"], json.loads(state["cell"])["recipe"]["epochs"]
        last, done = history["epochs"][-1], len(history["epochs"])
        evaluation = [e["evaluation_s"] + e["ema_evaluation_s"] for e in history["epochs"]]
        trained = [e["train_s"] for e in history["epochs"]]
        left = (epochs - done) * (statistics.fmean(trained) + statistics.fmean(evaluation))
        return _Sign(
            at,
            min(done + 1, epochs),
            epochs,
            last["images_per_s"],
            (history["device_peak"] or history["host_peak"]) / 2**20,
            last["top1"],
            left,
            history["total_s"] + left,
            evaluation[-1],
        )
    except Exception:  # damaged, or of another version: the training itself says so, and the log may still tell
        return None


def without_tensors(path: Path) -> Any:
    """What a checkpoint or weights.pt holds, None in place of each tensor. Raises whatever a file provokes."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(pickled) as file:
            return _WithoutTensors(file).load()


def _changed(path: Path) -> float | None:
    """When a file was last written; None if it is not there, or no longer."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


class _WithoutTensors(pickle.Unpickler):
    """Reads torch's pickles without torch: numbers, texts and containers as they are, None for all else.

    Nothing that a pickle names is ever called.
    """

    def persistent_load(self, pid: Any) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _nothing


def _nothing(*args: Any) -> None:
    return None
