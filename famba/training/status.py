"""status.json in a cell's folder: how far its training is, written by the training, read by whoever watches it.

No torch here: reading it takes milliseconds. row.json remains the result; this file only shows that the training runs,
and may be deleted.
"""

import signal
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from famba.config.validation import Strict, read_json
from famba.errors import InputError
from famba.files import atomic_file
from famba.results.row import read_row
from famba.system.host import process_exists
from famba.system.memory import oom_kills
from famba.text import one_line

NAME = "status.json"
CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")  # of a training that has begun and not ended, newest first
OUT_OF_MEMORY = "killed, probably by the kernel for lack of memory"  # the kernel counts such kills, and not whose
QUIET_S = 300.0  # a training that has written nothing for so long is stopped, on a host that this one cannot ask

State = Literal["starting", "training", "evaluating", "finished", "failed", "stopped"]
Kind = Literal[
    "waiting", "starting", "training", "evaluating", "quiet", "died", "stopped", "failed", "done", "unreadable"
]
RUNNING: tuple[Kind, ...] = ("starting", "training", "evaluating")


class Status(Strict):
    """What status.json holds; null is what is not known yet.

    Attributes:
        epoch: the one under way, from 1, of `epochs`. step: the last one done in it, of `steps`.
        images_per_s: mean since this run began. memory_mib: peak, of the device if it is a GPU.
        loss: of a recent step. top1: of the last epoch, in percent. left_s: seconds until the last epoch is done.
        whole_s: seconds of the whole training, from its first epoch, at this run's speed.
        checkpoint_epochs, checkpoint_steps: whole epochs, and steps of the next one, in the newest checkpoint.
        pid, host: of the process that trains. started: this run; earlier ones that it resumes do not count.
        signal: the number of the signal that stopped it. error: the line that it failed with.
        oom_kills: processes of the host that the kernel had killed for lack of memory when this run began.
    """

    version: Literal[1] = 1
    cell: str
    state: State = "starting"
    epoch: int | None = None
    epochs: int
    step: int | None = None
    steps: int | None = None
    images_per_s: float | None = None
    memory_mib: float | None = None
    loss: float | None = None
    top1: float | None = None
    left_s: float | None = None
    whole_s: float | None = None
    checkpoint_epochs: int = 0
    checkpoint_steps: int = 0
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    host: str
    started: AwareDatetime
    updated: AwareDatetime
    signal: int | None = None
    error: str | None = None
    oom_kills: int | None = None


def write_status(folder: Path, status: Status) -> None:
    """Write the file whole or not at all. Not waited for until it is on disk. Raises InputError."""
    with atomic_file(folder / NAME, durable=False) as file:
        file.write(status.model_dump_json(indent=1) + "\n")


def read_status(folder: Path) -> Status | None:
    """None where there is none. Raises InputError, in a line, for a file that cannot be read or is of another kind."""
    path = folder / NAME
    if not path.exists():
        return None
    return read_json(Status, path, "status", invalid="; delete it: the next training writes a new one")


@dataclass(frozen=True)
class CellState:
    """A cell at a moment; None is what is not known.

    Attributes:
        cell: its id. kind: `died` is a training that ended without writing a status (kill -9, power); `quiet` has
            written nothing for `QUIET_S`, and its process cannot be asked or does not go on.
        epoch, epochs: the one under way, from 1, of all. images_per_s: mean of this run; of a finished one, of the
            timed steps. mib: peak memory. top1: of the last epoch, in percent.
        left_s: seconds until it is done. whole_s: seconds from its start to its end.
        quiet_s: seconds since it last wrote. note: why it failed, was stopped or is unreadable.
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

    @property
    def end(self) -> str:
        """`vim_tiny-upper-s0: failed, the loss is not finite …`: what to say of a cell that has no row."""
        note = self.note.removeprefix(f"{self.cell}: ")
        return one_line(f"{self.cell}: {self.kind}{f', {note}' if note else ''}")


def cell_state(folder: Path, now: datetime | None = None) -> CellState:
    """The state of the cell whose files are in this folder, which may not be there yet."""
    try:
        status = read_status(folder)
    except InputError as error:
        state = CellState(folder.name, "unreadable", note=str(error))
    else:
        state = _state(status, folder.name, datetime.now(UTC) if now is None else now)
    resumable = any((folder / name).exists() for name in CHECKPOINTS)
    row = folder / "row.json"
    # a row beside a checkpoint, or beside a training that runs, is an older one, to be replaced
    if row.exists() and state.kind not in RUNNING and not resumable:
        return _done(row, folder.name)
    if resumable and state.kind == "waiting":
        return CellState(folder.name, "stopped", note=f"no {NAME}")
    return state


def _state(status: Status | None, cell: str, now: datetime) -> CellState:
    if status is None or status.state == "finished":  # without a row, it has been moved or deleted since
        return CellState(cell, "waiting")
    quiet_s = max(0.0, (now - status.updated).total_seconds())
    kind: Kind = status.state
    note, left_s = status.error or "", status.left_s
    if status.signal is not None:
        note = f"by {_signal_name(status.signal)}"
    if kind in RUNNING:
        if status.host == socket.gethostname() and not process_exists(status.pid):
            kind, note = "died", _killed_by(status)
        elif quiet_s > QUIET_S:
            kind = "quiet"
        elif left_s is not None:
            left_s = max(0.0, left_s - quiet_s)
    return CellState(
        cell, kind, status.epoch, status.epochs, status.images_per_s, status.memory_mib, status.top1, left_s,
        status.whole_s, quiet_s, note,
    )  # fmt: skip


def _killed_by(status: Status) -> str:
    """What is known of the end of a training that had no time to write one."""
    now = oom_kills()
    killed = now is not None and status.oom_kills is not None and now > status.oom_kills
    return OUT_OF_MEMORY if killed else "killed: kill -9, or a power cut"


def _signal_name(number: int) -> str:
    """`SIGTERM`; `signal 99` of a number that this system does not know."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _done(path: Path, cell: str) -> CellState:
    try:
        row = read_row(path)
    except InputError as error:
        return CellState(cell, "unreadable", note=str(error))
    epochs = row.cell.recipe.epochs
    return CellState(
        cell, "done", epochs, epochs, row.time.images_per_s, row.memory.peak / 2**20, row.metrics.last.top1,
        left_s=0.0, whole_s=row.time.total,
    )  # fmt: skip
