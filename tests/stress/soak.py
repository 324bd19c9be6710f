"""A long training holds no more memory and no more open files at its end than after its first steps.

    python -m tests.stress.soak STEPS

Trains a tiny cell for so many steps, evaluations and checkpoints included, and compares the second half of them with
their middle: resident memory may grow by 1 KiB a step, open files not at all. Exits 1 if either does not hold.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path

from famba.system.memory import process_memory
from famba.training import paired
from famba.training.train import Training
from tests.helpers.cells import small_cell

STEPS_OF_AN_EPOCH = 1437 // 256
LARGEST_GROWTH = 1024  # bytes a step


def soak(steps: int, folder: Path) -> tuple[float, int]:
    """Bytes a step, and open files, that came in the second half of a training of at least so many steps."""
    epochs = math.ceil(steps / STEPS_OF_AN_EPOCH)
    training = Training(small_cell(epochs=epochs), folder, Path("data"))
    save, seen = training._save, []

    def saved() -> None:
        save()
        seen.append((process_memory()["VmRSS"], len(os.listdir("/proc/self/fd"))))

    training._save = saved  # type: ignore[method-assign]
    training.run()
    (memory, files), (memory_after, files_after) = seen[len(seen) // 2], seen[-1]
    return (memory_after - memory) / (STEPS_OF_AN_EPOCH * (len(seen) - 1 - len(seen) // 2)), files_after - files


if __name__ == "__main__":
    paired.MAX_SECONDS = 0.0  # no pairs of steps for a time ratio
    with tempfile.TemporaryDirectory() as scratch:
        growth, files = soak(int(sys.argv[1]), Path(scratch))
    print(f"{sys.argv[1]} steps: {growth:,.0f} bytes a step, {files} open files more in the second half")
    sys.exit(growth > LARGEST_GROWTH or files > 0)
