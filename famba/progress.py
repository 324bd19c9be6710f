"""The terminal while a cell trains: one calm line."""

from __future__ import annotations

import sys
import time

import torch

from famba.device import host_peak_bytes
from famba.record import Row

_REDRAW_S = 0.5  # on a terminal the line is redrawn this often
_LOG_S = 60.0  # elsewhere a new line is written this often


def say(line: str) -> None:
    """One line to the person at the terminal; standard output stays free for results."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """`<cell>  epoch 7/12  ETA 0:12  1,234 images/s  312 MiB  top-1 91.4 %`, redrawn in place on a terminal."""

    def __init__(self, cell: str, epochs: int, done: int) -> None:
        self._cell = cell
        self._epochs = epochs
        self._first = done
        self._started = self._drawn = time.perf_counter()
        self._top1: float | None = None
        self._terminal = sys.stderr.isatty()

    def step(self, epoch: int, step: int, steps: int, batch: int) -> None:
        """A step has ended; draws if it is time to."""
        now = time.perf_counter()
        if now - self._drawn < (_REDRAW_S if self._terminal else _LOG_S):
            return
        self._drawn = now
        done = epoch - self._first + step / steps
        elapsed = now - self._started
        rate = done * steps * batch / elapsed
        eta = elapsed * (self._epochs - self._first - done) / done
        self._draw(epoch + 1, f"ETA {_clock(eta)}", rate)

    def epoch(self, epoch: int, top1: float) -> None:
        """An epoch has ended with that top-1."""
        self._top1 = top1

    def end(self, row: Row) -> None:
        """The cell is finished; the line stays."""
        self._top1 = row.metrics.last.top1
        self._draw(self._epochs, f"took {_clock(row.time.total)}", row.time.images_per_s)
        if self._terminal:
            print(file=sys.stderr)

    def _draw(self, epoch: int, when: str, rate: float) -> None:
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else host_peak_bytes()
        parts = [
            f"{self._cell:<32}",
            f"epoch {epoch}/{self._epochs}",
            when,
            f"{rate:,.0f} images/s",
            f"{memory / 2**20:,.0f} MiB",
            "top-1 –" if self._top1 is None else f"top-1 {self._top1:.1f} %",
        ]
        line = "  ".join(parts)
        print(
            f"\r\x1b[2K{line}" if self._terminal else line,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )


def _clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
