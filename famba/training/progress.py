"""The terminal while a cell trains: one calm line."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from famba.errors import InputError
from famba.results.row import Row
from famba.system.device import host_peak_bytes
from famba.text import clock

_REDRAW_S = 0.5  # on a terminal the line is redrawn this often
_LOG_S = 60.0  # elsewhere, and in the log, a new line is written this often


class Progress:
    """`<cell>  epoch 7/12  ETA 0:12  1,234 images/s  312 MiB  top-1 91.4 %`, redrawn in place on a terminal.

    Goes to standard error; standard output stays free for results. `log` gets the same lines, one a minute.
    """

    def __init__(self, cell: str, epochs: int, log: Path | None = None, silent: bool = False) -> None:
        self._cell = cell
        self._epochs = epochs
        self._log = None if silent else log
        self._silent = silent
        self._terminal = sys.stderr.isatty() and not silent
        self._top1: float | None = None
        if reason := self._unwritten(""):  # known before hours are spent
            raise InputError(f"--log {log}: cannot be written ({reason}); name another file")
        self.start(done=0.0)

    def start(self, done: float) -> None:
        """The first step is about to begin, after `done` epochs of an earlier run."""
        self._first = done
        self._started = self._drawn = self._logged = time.perf_counter()

    def say(self, line: str) -> None:
        """A line of its own."""
        self._print(line)
        self._write_log(line)

    def step(self, epoch: int, step: int, steps: int, batch: int) -> None:
        """A step has ended; draws if it is time to."""
        now = time.perf_counter()
        redraw = self._terminal and now - self._drawn >= _REDRAW_S
        record = now - self._logged >= _LOG_S
        if not (redraw or record):
            return
        done = epoch - self._first + step / steps
        elapsed = now - self._started
        rate = done * steps * batch / elapsed
        eta = elapsed * (self._epochs - self._first - done) / done
        line = self._line(epoch + 1, f"ETA {clock(eta)}", rate)
        if self._terminal:
            self._drawn = now
            self._print(line, end="")
        if record:
            self._logged = now
            self._write_log(line)
            if not self._terminal:
                self._print(line)

    def epoch(self, epoch: int, top1: float) -> None:
        """An epoch has ended with that top-1."""
        self._top1 = top1

    def end(self, row: Row) -> None:
        """The cell is finished; the line stays."""
        self._top1 = row.metrics.last.top1
        line = self._line(self._epochs, f"took {clock(row.time.total)}", row.time.images_per_s)
        self._print(line)
        self._write_log(line)

    def _line(self, epoch: int, when: str, rate: float) -> str:
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else host_peak_bytes()
        parts = [
            f"{self._cell:<32}",
            f"epoch {epoch}/{self._epochs}",
            when,
            f"{rate:,.0f} images/s",
            f"{memory / 2**20:,.0f} MiB",
            "top-1 –" if self._top1 is None else f"top-1 {self._top1:.1f} %",
        ]
        return "  ".join(parts)

    def _print(self, line: str, end: str = "\n") -> None:
        if not self._silent:
            print(f"\r\x1b[2K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)

    def _write_log(self, line: str) -> None:
        """A log that can no longer be written ends; the training does not."""
        if reason := self._unwritten(line + "\n"):
            self._print(f"{self._cell}: {self._log} cannot be written ({reason}); training on without it")
            self._log = None

    def _unwritten(self, text: str) -> str | None:
        """Why the log does not take the text; None if it has, or there is none."""
        if self._log is None:
            return None
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            return error.strerror
        return None
