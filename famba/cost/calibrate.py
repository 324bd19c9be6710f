"""From counts to seconds: a few measured steps of small probes say what share of its bound this device reaches.

A step is taken to be a sum of four terms, each the cost model's count times one measured factor: the layers' bound, the
number of layers (what a layer costs however few its tokens), the fusions' bound, and the bound of all the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import lsq_linear

from famba import recipe
from famba.augment import pil, tensor
from famba.config import Cell
from famba.cost.counts import StepCost, step_cost, total
from famba.cost.roofline import Probe, Rates, interleaved_s
from famba.distributed import Processes
from famba.errors import InputError
from famba.model import VisionMamba
from famba.step import CapturedForward, CapturedStep, Forward, Step

# both deep enough that most activations leave the caches, as a whole model's do; they differ by layers alone
DEPTHS = (4, 12)
CPU_IMAGES = 8  # per probe step; what a layer costs by the image is the same from here on


@dataclass(frozen=True)
class Calibration:
    """What one device makes of one model's counts.

    Attributes:
        rates: the device's, from the same run.
        layers, fusion, fixed: seconds per second of bound. per_layer_s: seconds per layer and micro-batch.
        evaluation: seconds of a forward pass per second of its bound.
        data_s: of one process per training image, to load and augment it; None where that was not measured.
        launch_s: the host's to launch a kernel, where that was assumed rather than measured with the layers.
    """

    rates: Rates
    layers: float
    per_layer_s: float
    fusion: float
    fixed: float
    evaluation: float
    data_s: float | None
    launch_s: float = 0.0

    def step_s(self, step: StepCost) -> float:
        """Seconds of an optimiser step without its data."""
        factors = (self.layers, self.per_layer_s, self.fusion, self.fixed)
        return max(float(np.dot(_terms(step, self.rates), factors)), self.launch_s * step.launches)

    def evaluation_s(self, step: StepCost, images: int) -> float:
        """Seconds of a forward pass over so many images."""
        return self.evaluation * self.rates.bound_s(step.forward_per_image) * images


def _terms(step: StepCost, rates: Rates) -> tuple[float, float, float, float]:
    fusion = rates.bound_s(total(layer.fusion.both for layer in step.layers) * step.images)
    fixed = rates.bound_s(step.ends.both * step.images + step.weights * step.passes + step.update)
    return rates.bound_s(step.layer_work) - fusion, len(step.layers) * step.passes, fusion, fixed


def fit(steps: Sequence[StepCost], seconds: Sequence[float], rates: Rates) -> np.ndarray:
    """The four factors that come nearest to the measured seconds in relative terms; no bound is beaten."""
    terms = np.array([_terms(step, rates) for step in steps]) / np.array(seconds)[:, None]
    scale = np.abs(terms).max(axis=0)  # columns of seconds and of counts, brought together
    lowest = np.array([1.0, 0.0, 1.0, 1.0]) * scale
    return lsq_linear(terms / scale, np.ones(len(seconds)), bounds=(lowest, np.inf)).x / scale


class Probes:
    """Small models of a cell's width, tokens and precision: without fusion, thinned at once, thinned in every layer.

    Args:
        scan: the backend. classes: of the data set. small: measure the device's rates on less work, for rehearsals.

    Attributes:
        runs: by name, to be timed in turn, with whatever is to be held against them.
    """

    def __init__(self, cell: Cell, device: torch.device, scan: str, classes: int, small: bool = False) -> None:
        images = min(cell.recipe.micro_batch, CPU_IMAGES) if device.type == "cpu" else cell.recipe.micro_batch
        settings = cell.recipe.model_copy(update=dict.fromkeys(("global_batch", "mixup_batch", "micro_batch"), images))
        half, (shallow, deep) = cell.architecture.tokens // 2, DEPTHS
        schedules = [
            (0,) * shallow,
            (0,) * deep,
            (half, half // 2, *(0,) * (deep - 2)),
            (max(1, half // 14),) * deep,
        ]
        self._images = images
        self._roof = Probe(device, cell.recipe.precision, small)
        self._steps: dict[str, StepCost] = {}
        self.runs: dict[str, Callable[[], Any]] = dict(self._roof.runs)
        for number, schedule in enumerate(schedules):
            probe = cell.model_copy(
                update={
                    "architecture": cell.architecture.model_copy(update={"depth": len(schedule)}),
                    "schedule": schedule,
                    "recipe": settings,
                }
            )
            self._steps[f"probe {number}"], self.runs[f"probe {number}"], forward = running(
                probe, device, scan, classes
            )
            if number == 1:
                self.runs["forward"] = forward

    def calibration(self, seconds: Mapping[str, float], data_s: float | None = None) -> Calibration:
        """What the seconds of all `runs` mean."""
        rates = self._roof.rates(seconds)
        factors = fit(list(self._steps.values()), [seconds[name] for name in self._steps], rates)
        bound = rates.bound_s(self._steps["probe 1"].forward_per_image) * self._images
        layers, per_layer_s, fusion, fixed = map(float, factors)
        return Calibration(rates, layers, per_layer_s, fusion, fixed, seconds["forward"] / bound, data_s)


def calibrate(
    cell: Cell, device: torch.device, scan: str, classes: int, stored: tuple[int, int, int], rounds: int = 5
) -> Calibration:
    """Measure the probes of a cell, and its data: seconds on a GPU, half a minute on a CPU.

    `stored`: height, width and channels of the data set's images. See `Probes` for the rest.
    """
    probes = Probes(cell, device, scan, classes)
    return probes.calibration(interleaved_s(probes.runs, device, rounds), data_seconds(cell, device, stored))


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

    optimizer, ema = recipe.optimizer(model, settings), recipe.Ema(model, settings.ema_decay)
    step = (CapturedStep if captured else Step)(model, optimizer, ema, settings, autocast, Processes())
    forward = (CapturedForward if captured else Forward)(model, autocast)
    images = torch.randn(settings.micro_batch, 3, size, size, device=device)
    targets = torch.full((len(images), classes), 1 / classes, device=device)
    counted = step_cost(cell.model_copy(update={"recipe": settings}), classes, device.type, scan)
    return counted, partial(step, [(images, targets)]), partial(forward, images)


def data_seconds(cell: Cell, device: torch.device, stored: tuple[int, int, int]) -> float | None:
    """Seconds of one process per training image, from stored pixels to the model's input; None where timm misses."""
    settings, size = cell.recipe, cell.architecture.img_size
    if settings.augmentation == "tensor":
        batch = min(settings.mixup_batch, 64) if device.type == "cpu" else settings.mixup_batch
        pixels = torch.randint(256, (batch, *stored), device=device).byte()
        generator, transform = torch.Generator().manual_seed(0), tensor.TrainTransform(settings, size, device)
        mix = recipe.Mix(0.5) if settings.mixup or settings.cutmix else recipe.Mix()
        runs = {"data": lambda: mix.images(transform(pixels, generator))}
        return interleaved_s(runs, device, rounds=5)["data"] / batch
    try:
        transform_one = pil.train_transform(settings, size)
    except InputError:
        return None
    levels = np.random.default_rng(0).integers(256, size=(16, *stored), dtype=np.uint8)
    with pil.kept_random_state():
        pil.seed_sample(0)
        began = time.perf_counter()
        for one in levels:
            transform_one(pil.rgb(one))
    return (time.perf_counter() - began) / len(levels)
