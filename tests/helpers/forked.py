"""Trainings in forks of one process that has imported everything: real processes to kill, without seconds of imports.

The parent must not have computed with torch: a fork has none of its threads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from famba.cli import main
from famba.commands import train as _train  # noqa: F401 (so that no fork imports it)
from famba.config import Cell
from famba.training import paired

Hook = Callable[[str, tuple[object, ...]], None]
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir")  # audit events of files that come, change or go

paired.MAX_SECONDS = 0.0  # no pairs of steps for a time ratio, which nothing here reads


def start(cell: Cell, folder: Path, hook: Hook | None = None) -> int:
    """Start the cell's training in a fork, with an audit hook if one is given; returns its process id."""
    if pid := os.fork():
        return pid
    status = 70  # a defect; the traceback goes to the file
    try:
        with open(folder.with_suffix(".err"), "a", encoding="utf-8") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        if hook:
            sys.addaudithook(hook)
        status = main(["train", "--cell", cell.model_dump_json(), "--out", str(folder / "row.json")])
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    """Wait for the end of a training; its exit status, minus the signal's number if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
