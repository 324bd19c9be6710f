"""A training that is killed at any moment must end in the very files of an undisturbed one.

    python -m tests.stress.kills KILLS SEED [--signals SIGKILL ...]    at random moments
    python -m tests.stress.kills KILLS SEED --files                    kill -9 at random ones of its file operations

At random moments: each training is killed three times, at moments spread evenly over the length of an undisturbed run
(steps, evaluations, checkpoints, row), and then runs to its end. At file operations: each training is killed twice,
before it opens, renames or removes a file of its folder; KILLS larger than their number takes all of them. Prints how
many kills there were and exits 1 at the first difference.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.helpers.cells import small_cell
from tests.helpers.forked import CHANGES, Hook, start, wait

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]
FILES = ("tokens.npz", "predictions.npz", "epochs.csv", "steps.csv")
LEFT = {"row.json", "weights.pt", "status.json", *FILES}  # of a finished training


def result(folder: Path) -> tuple[object, ...]:
    """What must not depend on kills: metrics, and the bytes of the files beside the row but for their times."""
    metrics = json.loads((folder / "row.json").read_text())["metrics"]
    return metrics, *((folder / name).read_bytes() for name in FILES if name != "epochs.csv")


def finish(made, folder: Path, expected: tuple[object, ...]) -> None:
    """Let the training run to its end. Raises AssertionError naming the folder if that is not the undisturbed one's."""
    assert wait(start(made, folder)) == 0, folder
    assert result(folder) == expected, folder
    assert {path.name for path in folder.iterdir()} == LEFT, folder


def at_moments(kills: int, seed: int, signals: list[signal.Signals], folder: Path) -> Counter[str]:
    """The kills that were survived, by signal."""
    made, moments, survived = small_cell(epochs=4), random.Random(seed), Counter[str]()
    assert wait(start(made, folder / "first")) == 0  # the kernels are built and in memory
    began = time.perf_counter()
    assert wait(start(made, folder / "undisturbed")) == 0
    length = time.perf_counter() - began
    expected = result(folder / "undisturbed")
    number = 0
    while survived.total() < kills:
        killed = folder / str(number)
        number += 1
        for _ in range(3):
            process, by = start(made, killed), moments.choice(signals)
            time.sleep(moments.uniform(0, length))
            os.kill(process, by)
            if wait(process) != 0:
                survived[by.name] += 1
        finish(made, killed, expected)
    return survived


def operations(folder: Path, seen: int, fatal: int | None = None) -> Hook:
    """A hook that writes a byte to `seen` for each operation on the folder's files and kills at the `fatal` one."""
    count = 0

    def hook(event: str, given: tuple[object, ...]) -> None:
        nonlocal count
        if event in CHANGES and str(folder) in str(given[0]):
            count += 1
            os.write(seen, b".")
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def at_files(kills: int, seed: int, folder: Path) -> Counter[str]:
    """The kills that were survived."""
    made, drawn, survived = small_cell(), random.Random(seed), Counter[str]()
    read, seen = os.pipe()
    assert wait(start(made, folder / "undisturbed", operations(folder / "undisturbed", seen))) == 0
    count = len(os.read(read, 1 << 16))
    expected = result(folder / "undisturbed")
    for number in sorted(drawn.sample(range(1, count + 1), min(kills, count))):
        killed = folder / str(number)
        for fatal in (number, drawn.randrange(1, count)):
            if wait(start(made, killed, operations(killed, seen, fatal))) != 0:
                survived["SIGKILL"] += 1
            os.read(read, 1 << 16)
        finish(made, killed, expected)
    return survived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--signals", nargs="+", type=signal.Signals.__getitem__, default=SIGNALS)
    parser.add_argument("--files", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if args.files:
            found = at_files(args.kills, args.seed, folder)
        else:
            found = at_moments(args.kills, args.seed, args.signals, folder)
    print(f"{found.total()} kills, every end bit-identical: {dict(found)}")


if __name__ == "__main__":
    main()
