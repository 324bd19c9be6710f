"""Every cell of an experiment while it trains: one calm line each, redrawn in place."""

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from famba.config import Experiment
from famba.errors import InputError
from famba.text import clock
from famba.training.status import RUNNING, CellState, Kind, cell_state

REFRESH_S = 1.0
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen without a cursor; back again
# where the terminal has too few lines; the total counts in the reverse order
_FIRST_TO_GO: tuple[Kind, ...] = (
    "done", "waiting", "unreadable", "failed", "stopped", "died", "quiet", "starting", "evaluating", "training"
)  # fmt: skip
_HOME, _END_LINE, _END_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def cells_of(results: Path, config: Path | None) -> list[str]:
    """Ids of the cells: those of the experiment file, or those that have a folder where there is no such file.

    Raises InputError where there is neither, or the file is of another experiment.
    """
    named = config or Path("config", f"{results.name}.yaml")
    if config is not None or named.exists():
        experiment = Experiment.load(named)
        if experiment.experiment == results.name:
            return [cell.id for cell in experiment.cells()]
        if config is not None:
            raise InputError(f"{config} is the experiment {experiment.experiment!r}, not {results.name!r}")
    found = sorted(path.name for path in results.glob("cells/*") if path.is_dir())
    if not found:
        raise InputError(f"{results}: no cells here, and no {named}; name the experiment's file with --config")
    return found


def table(states: Sequence[CellState], name: str) -> list[str]:
    """A line per cell and one for all of them."""
    width = max(len(state.cell) for state in states)
    return [*(_line(state, width) for state in states), total(states, name)]


def total(states: Sequence[CellState], name: str) -> str:
    """`smoke: 3 of 10 done, 2 training, 5 waiting   ETA 4:10`."""
    done = _count(states, "done")
    others = [kind for kind in reversed(_FIRST_TO_GO) if kind != "done"]
    parts = [f"{done} of {len(states)} done", *(f"{n} {kind}" for kind in others if (n := _count(states, kind)))]
    line = f"{name}: {', '.join(parts)}"
    if done == len(states):
        return line
    left = remaining(states)
    return f"{line}   ETA {'–' if left is None else clock(left)}"


def remaining(states: Sequence[CellState]) -> float | None:
    """Seconds until all cells are done, if as many run side by side as now; None while it is unknown.

    A cell that has not begun takes as long as those of its model that have, or as all that have.
    """
    active = [state for state in states if state.kind in RUNNING]
    known = [state for state in states if state.whole_s is not None]
    if not active or not known:
        return None
    work = 0.0
    for state in states:
        if state.kind == "done":
            continue
        alike = [other.whole_s for other in known if _model(other) == _model(state)] or [s.whole_s for s in known]
        work += statistics.fmean(s for s in alike if s is not None) if state.left_s is None else state.left_s
    return max(work / len(active), *(state.left_s or 0.0 for state in active))


def frame(states: Sequence[CellState], name: str, columns: int, rows: int) -> str:
    """The table for a terminal of that size, in one string that overwrites the last one without erasing it first.

    Where the lines are too many, cells that are done are left out, then those that wait; the last line counts them.
    """
    *lines, summed = table(states, name)
    dispensable = sorted(range(len(lines)), key=lambda i: _FIRST_TO_GO.index(states[i].kind))
    left_out = dispensable[: max(0, len(lines) + 1 - rows)]
    shown = [*(line for i, line in enumerate(lines) if i not in left_out), summed]
    # a character in the last column would leave the cursor between two lines
    return _HOME + "\r\n".join(line[: columns - 1] + _END_LINE for line in shown) + _END_SCREEN


def _line(state: CellState, width: int) -> str:
    epoch = "" if state.epoch is None else f"epoch {state.epoch}/{state.epochs}"
    what: str = state.kind
    when, note = epoch, state.note
    if state.kind in ("training", "evaluating"):
        what, when = epoch, "" if state.left_s is None else f"ETA {clock(state.left_s)}"
        note = "evaluating" if state.kind == "evaluating" else ""
    elif state.kind == "quiet":
        what = f"quiet {clock(state.quiet_s)}"
    elif state.kind == "done":
        when = "" if state.whole_s is None else f"took {clock(state.whole_s)}"
    elif state.kind == "unreadable":
        return f"{state.cell:<{width}}  {state.note}"
    parts = [
        f"{state.cell:<{width}}",
        f"{what:<13}",
        f"{when:<13}",
        "" if state.images_per_s is None else f"{state.images_per_s:>6,.0f} images/s",
        "" if state.mib is None else f"{state.mib:>6,.0f} MiB",
        "" if state.top1 is None else f"top-1 {state.top1:4.1f} %",
        note,
    ]
    return "  ".join(parts).rstrip()


def _count(states: Sequence[CellState], kind: Kind) -> int:
    return sum(state.kind == kind for state in states)


def _model(state: CellState) -> str:
    return state.cell.rsplit("-", 2)[0]


def _live(read: Callable[[], list[CellState]], name: str) -> None:
    """Redraw until all cells are done or the user leaves; the last table stays on the screen."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through `finally`, or the terminal stays ours
    states = read()
    sys.stdout.write(_ENTER)
    try:
        while True:
            columns, rows = os.get_terminal_size(sys.stdout.fileno())
            sys.stdout.write(frame(states, name, columns, rows))
            sys.stdout.flush()
            if all(state.kind == "done" for state in states):
                break
            time.sleep(REFRESH_S)
            states = read()
    except KeyboardInterrupt:  # the way to leave, not a failure
        pass
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
    print("\n".join(line[: columns - 1] for line in table(states, name)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba watch`."""
    parser.description = (
        "One line per cell, redrawn in place until all are done; Ctrl-C leaves, and stops no training. It "
        "reads each cell's status.json, so it may start before, while or after they run. A cell that has written "
        "nothing for five minutes is quiet; one whose process on this machine has ended is died. "
        "Example: famba watch results/smoke"
    )
    parser.add_argument("results", type=Path, metavar="RESULTS", help="folder of an experiment, results/<experiment>")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="experiment file with the cells to expect [config/<experiment>.yaml, else the cells that have a folder]",
    )
    parser.add_argument("--once", action="store_true", help="print once and exit, as when the output is not a terminal")


def main(args: argparse.Namespace) -> int:
    results = Path(os.path.abspath(args.results))  # a name even for `.`
    cells = cells_of(results, args.config)

    def read() -> list[CellState]:
        return [cell_state(results / "cells" / cell) for cell in cells]

    if args.once or not sys.stdout.isatty():
        print("\n".join(table(read(), results.name)))
    else:
        _live(read, results.name)
    return 0
