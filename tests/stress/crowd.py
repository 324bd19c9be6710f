"""Many cells at once, two trainings each: locks and caches hold, and every row is that of a training that was alone.

    python -m tests.stress.crowd CELLS

Of each cell's two trainings one is refused while the other runs, or finds its row. The C++ kernels are not built yet
when they start: one of them builds, the others wait for it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from famba.config import Cell
from tests.helpers.cells import small_cell
from tests.helpers.forked import start, wait
from tests.stress.kills import LEFT, result


def crowd(cells: int, folder: Path) -> tuple[int, int]:
    """How many trainings finished, and how many were refused. Raises AssertionError naming the cell that differs."""
    made: list[Cell] = [small_cell(epochs=1).model_copy(update={"seed": seed}) for seed in range(cells)]
    os.environ["FAMBA_CACHE"] = str(folder / "cache")
    processes = [(cell, start(cell, folder / str(cell.seed))) for cell in made for _ in range(2)]
    ends = [wait(process) for _, process in processes]
    for seed in range(cells):
        assert sorted(ends[2 * seed : 2 * seed + 2]) in ([0, 0], [0, 2]), (seed, ends)
    for cell in (made[0], made[-1]):
        alone = folder / f"alone-{cell.seed}"
        assert wait(start(cell, alone)) == 0
        assert result(alone) == result(folder / str(cell.seed)), cell.seed
    for cell in made:
        assert {path.name for path in (folder / str(cell.seed)).iterdir()} == LEFT, cell.seed
    return ends.count(0), ends.count(2)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        finished, refused = crowd(int(sys.argv[1]), Path(scratch))
    print(f"{sys.argv[1]} cells, {2 * int(sys.argv[1])} trainings at once: {finished} finished, {refused} refused")
