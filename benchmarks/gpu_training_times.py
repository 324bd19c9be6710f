"""What an epoch of each cell takes, from a few steps, and how many epochs fit into the time of gpu_training.py."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from gpu_sections import clock_mhz

from famba import data, ops
from famba.config import Cell
from famba.data.dataset import Dataset
from famba.data.loader import Batch, TrainLoader
from famba.errors import InputError
from famba.files import sealed_file
from famba.ops.precision import DTYPES
from famba.system import float32
from famba.system.device import environment, pick_device
from famba.training.step import Step
from famba.training.timing import running

WARM, TIMED = 3, 10  # steps
RECIPE_EPOCHS = 300  # of the released recipe
RESERVE = 0.08  # of the minutes: steps slower than the timed ones, and what each cell checks and writes at its ends
CHECKPOINT_BYTES = 16  # of each parameter: weights, moving average and AdamW's two moments, 4 bytes each


def measure(cells: Sequence[Cell], root: Path, folder: Path) -> dict[str, Any]:
    """Times by strategy, in seconds, and the device that they were measured on.

    Args:
        cells: one of each strategy, all on the same device and data set.
        root: where the data sets are. folder: on the disk that the checkpoints will be written to.
    """
    device = pick_device(cells[0].device)
    float32.fix()
    if cells[0].threads is not None:
        torch.set_num_threads(cells[0].threads)
    dataset = data.load(cells[0].dataset, root)
    torch.zeros((), device=device)  # starts CUDA: every training does so, and no strategy's setup is to hold it
    choice = ops.choose(device, DTYPES[cells[0].recipe.precision], cells[0].scan)
    times = {cell.strategy: _times(cell, dataset, device, choice.name, folder) for cell in cells}
    clock = clock_mhz()
    return {
        "environment": environment(device, 1).model_dump(),
        "clock_mhz_after_the_steps": clock,
        "scan": asdict(choice),
        "data": asdict(dataset.identity),
        "strategies": times,
    }


def epochs_that_fit(
    budget_s: float, spent_s: float, epoch_s: Mapping[str, float], start_s: float, starts: int
) -> tuple[int, str]:
    """The epochs that every cell can have, at most the recipe's, and the sentence that says why.

    `epoch_s`: seconds of an epoch of each cell. `start_s`: of a training from its launch to its first step, which
    happens `starts` times. Raises InputError if not one epoch fits.
    """
    left_s = budget_s * (1 - RESERVE) - spent_s - starts * start_s
    epochs = min(RECIPE_EPOCHS, math.floor(left_s / sum(epoch_s.values())))
    why = (
        f"{epochs} epochs: {budget_s:.0f} s less {RESERVE:.0%} reserve, {spent_s:.0f} s of timing and packing and "
        f"{starts} starts of {start_s:.0f} s leave {left_s:.0f} s; an epoch of all {len(epoch_s)} cells takes "
        f"{sum(epoch_s.values()):.1f} s"
    )
    if epochs < 1:
        raise InputError(f"--minutes: not one epoch fits ({why}); allow more")
    return epochs, why


def _times(cell: Cell, dataset: Dataset, device: torch.device, backend: str, folder: Path) -> dict[str, float]:
    """`setup_s`: to the end of the first steps, with compilation and capture. `whole_s`: all that this took."""
    began = time.perf_counter()
    torch.manual_seed(cell.seed)
    loader = TrainLoader(dataset, cell.recipe, cell.architecture.img_size, cell.seed, device)
    _, alone, forward = running(cell, device, backend, len(dataset.classes))
    step: Step = alone.func
    batches = _endless(loader)

    def steps(number: int) -> None:
        for micro_batches in islice(batches, number):
            step(micro_batches)

    steps(WARM)
    _wait(device)
    setup_s = time.perf_counter() - began
    step_s = _seconds(lambda: steps(TIMED), device) / TIMED
    forward()
    images = cell.recipe.micro_batch
    image_s = _seconds(lambda: [forward() for _ in range(TIMED)], device) / (TIMED * images)
    parameters = sum(p.numel() for p in step.parameters)
    checkpoint_s = _checkpoint_s(parameters * CHECKPOINT_BYTES, folder)
    evaluation_s = 2 * len(dataset.test_labels) * image_s  # of the weights and of their moving average
    return {
        "step_s": step_s,
        "steps": loader.steps,
        "evaluation_s": evaluation_s,
        "checkpoint_s": checkpoint_s,
        "epoch_s": loader.steps * step_s + evaluation_s + checkpoint_s,
        "setup_s": setup_s,
        "whole_s": time.perf_counter() - began,
    }


def _endless(loader: TrainLoader) -> Iterator[list[Batch]]:
    for epoch in count():
        yield from loader.epoch(epoch)


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _checkpoint_s(size: int, folder: Path) -> float:
    """To write and seal that many bytes on disk."""
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        content = bytes(size)
        began = time.perf_counter()
        with sealed_file(Path(inside, "checkpoint")) as file:
            file.write(content)
        return time.perf_counter() - began
