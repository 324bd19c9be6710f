"""What fusion saves of a step on a CPU, measured in pairs, so that other load on the machine cancels."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from famba.config import Cell
from famba.training.timing import running

PAIRS = 16
MAX_IMAGES = 128  # per step: of a larger micro-batch, so many
MAX_SECONDS = 60.0  # of wall clock; at least three pairs are measured, however long they take


def step_ratio(cell: Cell, scan: str, classes: int, each_pair: Callable[[], None] = lambda: None) -> float:
    """CPU time of a cell's optimiser step relative to the step of the same model without fusion.

    The two steps run in turn, so that clock, caches and hyperthreads, through which another program changes CPU times
    by a tenth and more from one minute to the next, affect both alike; the one that goes first changes from pair to
    pair. On random images, without loading or augmentation. `scan`: the backend. `classes`: of the data set.
    `each_pair` is called after every one, untimed.

    Returns:
        The median of the pairs' ratios; 1 for a cell that fuses nothing, which is not measured.
    """
    if not any(cell.schedule):
        return 1.0
    batch = min(cell.recipe.micro_batch, MAX_IMAGES)
    recipe = cell.recipe.model_copy(update=dict.fromkeys(("global_batch", "mixup_batch", "micro_batch"), batch))
    fused = cell.model_copy(update={"recipe": recipe})
    unfused = fused.model_copy(update={"schedule": (0,) * len(cell.schedule)})
    steps = [running(each, torch.device("cpu"), scan, classes)[1] for each in (fused, unfused)]
    for step in steps:
        step()  # allocations, and the optimiser's state
    ratios: list[float] = []
    end = time.perf_counter() + MAX_SECONDS
    while len(ratios) < PAIRS and (len(ratios) < 3 or time.perf_counter() < end):
        if len(ratios) % 2:
            whole, part = _cpu_s(steps[1]), _cpu_s(steps[0])
        else:
            part, whole = _cpu_s(steps[0]), _cpu_s(steps[1])
        ratios.append(part / whole)
        each_pair()
    return statistics.median(ratios)


def _cpu_s(run: Callable[[], Any]) -> float:
    """CPU seconds that one call takes, all threads of this process together."""
    began = time.process_time()
    run()
    return time.process_time() - began
