"""From counts to seconds: a few measured steps of small probes say what share of its bound this device reaches.

A step is taken to be a sum of four terms, each the cost model's count times one measured factor: the layers' bound, the
number of layers (what a layer costs however few its tokens), the fusions' bound, and the bound of all the rest.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import lsq_linear

from famba.config import Cell
from famba.cost.roofline import Probe, Rates, interleaved_s
from famba.data import mixup
from famba.data.augment import batched, timm
from famba.errors import InputError
from famba.flops import LayerCost, StepCost, total
from famba.training.timing import running

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
        wall_to_cpu: wall clock of the probes to the CPU time of their thread; None where it waits for a GPU.
    """

    rates: Rates
    layers: float
    per_layer_s: float
    fusion: float
    fixed: float
    evaluation: float
    data_s: float | None
    launch_s: float = 0.0
    wall_to_cpu: float | None = None

    def step_s(self, step: StepCost) -> float:
        """Seconds of an optimiser step without its data."""
        factors = (self.layers, self.per_layer_s, self.fusion, self.fixed)
        return max(float(np.dot(_terms(step, self.rates), factors)), self.launch_s * step.launches)

    def layer_s(self, layer: LayerCost, images: int, passes: float) -> float:
        """Seconds of a step's share in one layer: of so many images, in so many passes."""
        fusion = self.rates.bound_s(layer.fusion.both * images)
        mixing = self.rates.bound_s(layer.work * images) - fusion
        return self.layers * mixing + self.per_layer_s * passes + self.fusion * fusion

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
        runs: by name, to be timed in turn, with whatever is compared with them.
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
    began, cpu_began = time.perf_counter(), time.thread_time()
    seconds = interleaved_s(probes.runs, device, rounds)
    taken, own = time.perf_counter() - began, time.thread_time() - cpu_began
    found = probes.calibration(seconds, data_seconds(cell, device, stored))
    return replace(found, wall_to_cpu=taken / own if device.type == "cpu" else None)


def data_seconds(cell: Cell, device: torch.device, stored: tuple[int, int, int]) -> float | None:
    """Seconds of one process per training image, from stored pixels to the model's input; None where timm misses."""
    settings, size = cell.recipe, cell.architecture.img_size
    if settings.augmentation == "tensor":
        batch = min(settings.mixup_batch, 64) if device.type == "cpu" else settings.mixup_batch
        pixels = torch.randint(256, (batch, *stored), device=device).byte()
        generator, transform = torch.Generator().manual_seed(0), batched.TrainTransform(settings, size, device)
        mix = mixup.Mix(0.5) if settings.mixup or settings.cutmix else mixup.Mix()
        runs = {"data": lambda: mix.images(transform(pixels, generator))}
        return interleaved_s(runs, device, rounds=5)["data"] / batch
    try:
        transform_one = timm.train_transform(settings, size)
    except InputError:
        return None
    levels = np.random.default_rng(0).integers(256, size=(16, *stored), dtype=np.uint8)
    with timm.kept_random_state():
        timm.seed_sample(0)
        began = time.perf_counter()
        for one in levels:
            transform_one(timm.rgb(one))
    return (time.perf_counter() - began) / len(levels)
