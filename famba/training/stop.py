"""Requests to stop: SIGTERM, and SIGUSR1, which SLURM can send ahead of a time limit (`--signal=USR1@60`)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class StopRequest:
    """Whether this process has been asked to stop, and by which signal."""

    signal: signal.Signals | None = None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Record `SIGNALS` within the context instead of ending the process; main thread only."""
    request, own_pid = StopRequest(), os.getpid()

    def record(number: int, _: FrameType | None) -> None:
        if os.getpid() != own_pid:  # a DataLoader worker inherits the handler and has nothing to save
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        request.signal = signal.Signals(number)

    before = {number: signal.signal(number, record) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
