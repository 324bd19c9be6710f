"""Where a training reports while it runs: a line on the terminal, a log, and status.json."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from famba.errors import CheckFailed, InputError, Stopped
from famba.results.row import Row
from famba.system.device import host_peak_bytes
from famba.system.memory import oom_kills
from famba.text import clock, one_line
from famba.training.status import NAME, State, Status, write_status

_REDRAW_S = 0.5  # on a terminal the line is redrawn this often
_STATUS_S = 1.0  # status.json is written at most this often
_LOG_S = 60.0  # elsewhere, and in the log, a new line is written this often


class _Position(NamedTuple):
    """Where a training is, under the names of `Status`."""

    epoch: int
    step: int
    steps: int
    images_per_s: float
    left_s: float
    whole_s: float


class Progress:
    """`<cell>  epoch 7/12  ETA 0:12  1,234 images/s  312 MiB  top-1 91.4 %`, redrawn in place on a terminal.

    Goes to standard error; standard output stays free for results. Nothing that cannot be written stops a training.

    Args:
        cell: its id. epochs: of the whole training.
        log: file that gets the same lines, one a minute.
        folder: where status.json is written; None: nowhere.
        silent: say and write nothing.
    """

    def __init__(
        self, cell: str, epochs: int, log: Path | None = None, folder: Path | None = None, silent: bool = False
    ) -> None:
        self._cell = cell
        self._epochs = epochs
        self._log = None if silent else log
        self._folder = None if silent else folder
        self._silent = silent
        self._terminal = sys.stderr.isatty() and not silent
        self._began = datetime.now(UTC)
        self._oom_kills = oom_kills()
        self._state: State = "starting"
        self._top1: float | None = None
        self._loss: float | None = None
        self._checkpoint = (0, 0)
        self._status_lost = False
        self.start(done=0.0)
        if reason := self._unwritten(""):  # known before hours are spent
            error = InputError(f"--log {log}: cannot be written ({reason}); name another file")
            self._write_status("failed", error=str(error))
            raise error

    @contextmanager
    def recorded(self, ends: bool = True) -> Iterator[None]:
        """A training runs inside; status.json records from its start to how it ends, the log how it ends.

        `ends`: whether it ends inside. That of several processes starts after it, and its first rank records its end.
        """
        self._write_status()
        try:
            yield
        except Stopped as stop:
            self._write_status("stopped", signal=stop.signal)
            self._write_log(str(stop))
            raise
        except KeyboardInterrupt:
            self._write_status("stopped", signal=signal.SIGINT)
            self._write_log(f"{self._cell}: stopped by SIGINT")
            raise
        except BaseException as error:
            # a defect has its traceback on the terminal
            known = isinstance(error, InputError | CheckFailed)
            line = one_line(str(error) if known else f"{type(error).__name__}: {error}")
            self._write_status("failed", error=line)
            self._write_log(line)
            raise
        if ends:
            self._write_status("finished")

    def start(self, done: float) -> None:
        """The first step is about to begin, after `done` epochs of an earlier run."""
        self._first = done
        self._at: _Position | None = None
        self._started = self._drawn = self._logged = self._wrote = time.perf_counter()

    def say(self, line: str) -> None:
        """A line of its own."""
        self._print(line)
        self._write_log(line)

    def step(self, epoch: int, step: int, steps: int, batch: int, loss: float | None = None) -> None:
        """A step has ended, with that loss if it is known; draws and writes if it is time to."""
        now = time.perf_counter()
        elapsed = now - self._started
        done = epoch - self._first + step / steps
        left_s = max(0.0, elapsed * (self._epochs - self._first - done) / done)
        rate, whole_s = done * steps * batch / elapsed, elapsed * self._epochs / done
        self._at, self._stepped = _Position(epoch + 1, step, steps, rate, left_s, whole_s), now
        self._loss = self._loss if loss is None else loss
        self._report("training")
        redraw = self._terminal and now - self._drawn >= _REDRAW_S
        record = now - self._logged >= _LOG_S
        if not (redraw or record):
            return
        line = self._line(epoch + 1, f"ETA {clock(left_s)}", rate)
        if self._terminal:
            self._drawn = now
            self._print(line, end="")
        if record:
            self._logged = now
            self._write_log(line)
            if not self._terminal:
                self._print(line)

    def evaluating(self) -> None:
        """The weights are being evaluated; call it after each batch, so that the status stays fresh."""
        self._report("evaluating")

    def epoch(self, top1: float) -> None:
        """An epoch has ended with that top-1."""
        self._top1 = top1

    def checkpoint(self, epochs: int, steps: int) -> None:
        """The newest checkpoint has so many epochs, and so many steps of the next one."""
        self._checkpoint = (epochs, steps)

    def end(self, row: Row) -> None:
        """The cell is finished; the line stays."""
        self._top1 = row.metrics.last.top1
        line = self._line(self._epochs, f"took {clock(row.time.total)}", row.time.images_per_s)
        self._print(line)
        self._write_log(line)

    def _line(self, epoch: int, when: str, rate: float) -> str:
        parts = [
            f"{self._cell:<32}",
            f"epoch {epoch}/{self._epochs}",
            when,
            f"{rate:,.0f} images/s",
            f"{_peak_mib():,.0f} MiB",
            "top-1 –" if self._top1 is None else f"top-1 {self._top1:.1f} %",
        ]
        return "  ".join(parts)

    def _print(self, line: str, end: str = "\n") -> None:
        if not self._silent:
            print(f"\r\x1b[2K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)

    def _report(self, state: State) -> None:
        self._state = state
        if time.perf_counter() - self._wrote >= _STATUS_S:
            self._write_status()

    def _write_status(self, state: State | None = None, **end: Any) -> None:
        self._state, self._wrote = state or self._state, time.perf_counter()
        if self._folder is None:
            return
        position: dict[str, Any] = {}
        if self._at is not None:  # readers count down from the moment of writing
            left_s = max(0.0, self._at.left_s - (self._wrote - self._stepped))
            position = self._at._replace(left_s=left_s)._asdict()
        try:
            status = Status(
                cell=self._cell, state=self._state, epochs=self._epochs, **position, loss=self._loss, top1=self._top1,
                memory_mib=_peak_mib(), checkpoint_epochs=self._checkpoint[0], checkpoint_steps=self._checkpoint[1],
                pid=os.getpid(), host=socket.gethostname(), started=self._began, updated=datetime.now(UTC),
                oom_kills=self._oom_kills, **end,
            )  # fmt: skip
            write_status(self._folder, status)
        except Exception as error:  # whatever it is: it must not end a training, nor hide why one ended
            if not self._status_lost:  # the next write may succeed: a full disk may be cleared
                self._status_lost = True
                # a file error says what to free; anything else is a defect
                reason = str(error) if isinstance(error, InputError) else f"{NAME} cannot be written ({error!r})"
                self.say(f"{self._cell}: {one_line(reason)}; meanwhile the training continues without it")

    def _write_log(self, line: str) -> None:
        """A log that can no longer be written ends; the training does not."""
        if reason := self._unwritten(line + "\n"):
            self._print(f"{self._cell}: {self._log} cannot be written ({reason}); the training continues without it")
            self._log = None

    def _unwritten(self, text: str) -> str | None:
        """Why the log does not take the text; None if it has, or there is none."""
        if self._log is None:
            return None
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            return error.strerror
        return None


def _peak_mib() -> float:
    """The largest memory so far, of the GPU if the training runs on one."""
    return (torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else host_peak_bytes()) / 2**20
