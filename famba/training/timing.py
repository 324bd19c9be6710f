"""Times of training steps, and all that a training costs: wall clock, CPU time, energy and peak memory.

A training's history adds up the runs of it, so that one which was stopped and resumed reports what all of it took.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from famba.config import Cell
from famba.data.loader import TrainLoader
from famba.flops import StepCost, step_cost
from famba.system import float32
from famba.system.cpu_time import cpu_seconds
from famba.system.device import energy_joules, host_peak_bytes
from famba.training.distributed import Processes
from famba.training.history import History
from famba.training.train_state import build


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of each step: by the wall clock, of CPU time in this process, of CPU time in the main thread."""

    wall: list[float]
    cpu: list[float]
    thread: list[float]


class StepClock:
    """Times optimiser steps without making the host wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._wall: list[Any] = []
        self._cpu: list[float] = []
        self._thread: list[float] = []
        self.mark()

    def mark(self) -> None:
        """A step starts or ends here."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._wall.append(event)
        else:
            self._wall.append(time.perf_counter())
        self._cpu.append(time.process_time())
        self._thread.append(time.thread_time())

    def times(self) -> StepTimes:
        """Times between the marks so far; waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
            wall = [a.elapsed_time(b) for a, b in pairwise(self._wall)]
        else:
            wall = _differences(self._wall)
        return StepTimes(wall, _differences(self._cpu), _differences(self._thread))


def _differences(seconds: list[float]) -> list[float]:
    """In milliseconds."""
    return [(b - a) * 1e3 for a, b in pairwise(seconds)]


class Meter:
    """Measures one run of a training, from here on.

    Args:
        history: what it adds to.
        device, world: where the training runs.
        images: its loader, which counts the time that the loop waits for it.
    """

    def __init__(self, history: History, device: torch.device, world: Processes, images: TrainLoader) -> None:
        self.history, self.device, self.world, self.images = history, device, world, images
        self._warmed_up = False
        self._lap, self._cpu_lap, self._joules = time.perf_counter(), cpu_seconds(), energy_joules(device)

    def lap(self) -> None:
        """Add wall clock, CPU time, energy and memory peaks since the last lap."""
        history = self.history
        now, cpu_now, joules = time.perf_counter(), cpu_seconds(), energy_joules(self.device)
        history.total_s += now - self._lap
        history.loop_cpu_s += self._of_all(cpu_now - self._cpu_lap)
        if history.energy_joules is None or joules is None or self._joules is None:
            history.energy_joules = None
        else:
            history.energy_joules += joules - self._joules
        self._lap, self._cpu_lap, self._joules = now, cpu_now, joules
        history.host_peak = max(history.host_peak, host_peak_bytes())
        if self.device.type == "cuda":
            peak = self.world.all_max(torch.cuda.max_memory_allocated(self.device), self.device)
            history.device_peak = max(history.device_peak, peak)

    def start_steps(self) -> None:
        """Steps begin here."""
        self._waited = self.images.wait_s
        self._began, self._cpu_began = time.perf_counter(), cpu_seconds()
        self._clock = StepClock(self.device)

    def mark_step(self) -> None:
        """A step has ended."""
        self._clock.mark()

    def stop_steps(self, losses: Tensor) -> None:
        """Add the steps since `start_steps`. `losses`: of the whole epoch, (steps,)."""
        so_far, times = self.history.epoch_so_far, self._clock.times()
        so_far.train_s += time.perf_counter() - self._began
        so_far.cpu_s += self._of_all(cpu_seconds() - self._cpu_began)
        so_far.data_wait_s += self.images.wait_s - self._waited
        first, so_far.steps = so_far.steps, so_far.steps + len(times.wall)
        self.history.losses += losses[first : so_far.steps].tolist()
        self._add_steps(times)

    def leave_out(self, cpu_since: float) -> None:
        """Take the CPU time since then, of `cpu_seconds`, out of the loop's: `lap` counts it with the rest."""
        self.history.loop_cpu_s -= self._of_all(cpu_seconds() - cpu_since)

    def _add_steps(self, times: StepTimes) -> None:
        """The first step of a run is its warm-up."""
        if not times.wall:
            return
        history = self.history
        warmup = 0 if self._warmed_up else 1
        self._warmed_up = True
        history.warmup_s += sum(times.wall[:warmup]) / 1e3
        history.warmup_cpu_s += self._of_all(sum(times.cpu[:warmup]) / 1e3)
        if len(times.wall) == warmup:
            warmup = 0  # one step alone has no other to time
        history.step_ms += times.wall[warmup:]
        history.step_cpu_ms += times.cpu[warmup:]
        history.thread_cpu_s += sum(times.thread[warmup:]) / 1e3

    def _of_all(self, seconds: float) -> float:
        """The sum over all processes."""
        held = torch.tensor(seconds, dtype=torch.float64, device=self.device)
        self.world.all_sum_([held])
        return held.item()


def running(
    cell: Cell, device: torch.device, scan: str, classes: int
) -> tuple[StepCost, Callable[[], Any], Callable[[], Any]]:
    """A cell's cost by count, its training step and an evaluation's forward pass, ready to be called on random images.

    They run as in `famba train`, in one process; the step takes a single micro-batch.
    """
    float32.fix()
    settings, size = cell.recipe, cell.architecture.img_size
    state = build(cell, device, scan, classes)
    images = torch.randn(settings.micro_batch, 3, size, size, device=device)
    targets = torch.full((len(images), classes), 1 / classes, device=device)
    counted = step_cost(cell, classes, scan, method=state.model.method)
    return counted, partial(state.step, [(images, targets)]), partial(state.forward, images)
