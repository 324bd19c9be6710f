"""Times of training steps: the clock of a training, and a step on random images to be timed by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from famba.config import Cell
from famba.flops import StepCost, step_cost
from famba.model import VisionMamba
from famba.training import optim
from famba.training.distributed import Processes
from famba.training.ema import Ema
from famba.training.evaluate import CapturedForward, Forward
from famba.training.step import CapturedStep, Step


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


def running(
    cell: Cell, device: torch.device, scan: str, classes: int
) -> tuple[StepCost, Callable[[], Any], Callable[[], Any]]:
    """A cell's cost by count, its training step and an evaluation's forward pass, ready to be called on random images.

    They run as in `famba train`, in one process; the step takes a single micro-batch.
    """
    settings, size = cell.recipe, cell.architecture.img_size
    model = VisionMamba(
        **cell.architecture.model_dump(), num_classes=classes, fusion=cell.schedule, order=cell.fusion.order, scan=scan
    ).to(device)
    captured = settings.cuda_graphs and device.type == "cuda"

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")

    optimizer, ema = optim.optimizer(model, settings), Ema(model, settings.ema_decay)
    step = (CapturedStep if captured else Step)(model, optimizer, ema, settings, autocast, Processes())
    forward = (CapturedForward if captured else Forward)(model, autocast)
    images = torch.randn(settings.micro_batch, 3, size, size, device=device)
    targets = torch.full((len(images), classes), 1 / classes, device=device)
    counted = step_cost(cell.model_copy(update={"recipe": settings}), classes, device.type, scan)
    return counted, partial(step, [(images, targets)]), partial(forward, images)
