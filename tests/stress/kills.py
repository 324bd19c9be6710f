"""A training that is killed at random moments must end in the very files of an undisturbed one.

    python -m tests.stress.kills KILLS SEED

Each training is killed three times, by kill -9, SIGTERM or SIGUSR1, at moments spread evenly over the length of an
undisturbed run (its start, steps, evaluations, checkpoints and row), and then runs to its end. Prints how many kills
there were and exits 1 at the first difference.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.helpers import ROOT
from tests.helpers.cells import cell

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
FILES = ("tokens.npz", "predictions.npz")


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The micro cell's training, in a process of its own."""
    given = ["--cell", cell().model_dump_json(), "--out", str(folder / "row.json")]
    return subprocess.Popen(
        [sys.executable, "-m", "famba", "train", *given], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def result(folder: Path) -> tuple[object, ...]:
    """What must not depend on kills: metrics, and the bytes of the files beside the row."""
    metrics = json.loads((folder / "row.json").read_text())["metrics"]
    return metrics, *((folder / name).read_bytes() for name in FILES)


def stress(kills: int, seed: int, folder: Path) -> Counter[str]:
    """The kills that were survived, by signal. Raises AssertionError naming the folder that differs."""
    moments, survived = random.Random(seed), Counter[str]()
    began = time.perf_counter()
    assert start(folder / "undisturbed").wait() == 0
    length = time.perf_counter() - began
    expected = result(folder / "undisturbed")
    number = 0
    while survived.total() < kills:
        killed = folder / str(number)
        number += 1
        for _ in range(3):
            process, by = start(killed), moments.choice(SIGNALS)
            time.sleep(moments.uniform(0, length))
            process.send_signal(by)
            if process.wait() != 0:
                survived[by.name] += 1
        assert start(killed).wait() == 0, killed
        assert result(killed) == expected, killed
        assert not list(killed.glob("*checkpoint*")), killed
    return survived


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        found = stress(int(sys.argv[1]), int(sys.argv[2]), Path(scratch))
    print(f"{found.total()} kills, every end bit-identical: {dict(found)}")
