"""What a forward pass costs: images per second, latency of one image, peak memory."""

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from famba.cost.roofline import interleaved_s
from famba.system.device import host_peak_bytes, reset_host_peak
from famba.training.checks import random_images
from famba.training.evaluate import Forward

_LATENCY_ROUNDS = 20  # at least: one image is quick


class Peak(NamedTuple):
    """Bytes. `total`: of the device; on a CPU the resident set of the process. `added`: by the forward pass.

    None where the system does not let a peak be measured anew.
    """

    total: int | None
    added: int | None


@dataclass(frozen=True)
class Speed:
    """Images per second by batch size, and the milliseconds of one image alone."""

    images_per_s: dict[int, float]
    latency_ms: float


def peak(forward: Forward, batch: int, device: torch.device, some: Tensor | None = None) -> Peak:
    """Peak memory in a forward pass of `batch` images: of `some`, again from the first if too few; None: random."""
    images = random_images(forward.model, batch, device) if some is None else next(_batches(some, batch))
    return peak_of(partial(forward, images), device)


def peak_of(run: Callable[[], Any], device: torch.device) -> Peak:
    """Peak memory in a run."""
    run()  # what is allocated once, is allocated now
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        total = torch.cuda.max_memory_allocated(device)
        return Peak(total, total - before)
    if not reset_host_peak():
        return Peak(None, None)
    before = host_peak_bytes()
    run()
    total = host_peak_bytes()
    return Peak(total, total - before)


def speeds(
    forwards: Sequence[Forward],
    batches: Sequence[int],
    device: torch.device,
    rounds: int,
    some: Tensor | None = None,
) -> list[Speed]:
    """The speed of each, by the median of `rounds` passes after a warm-up, on random images.

    some: (N, 3, S, S) to take instead, others in every round; for where the time depends on the images.
    All take turns in every round, so that what slows the machine for a while slows them all.
    """
    seconds = {
        batch: _medians(forwards, batch, device, max(rounds, _LATENCY_ROUNDS) if batch == 1 else rounds, some)
        for batch in dict.fromkeys([1, *batches])
    }
    return [
        Speed({batch: batch / seconds[batch][i] for batch in batches}, 1e3 * seconds[1][i])
        for i in range(len(forwards))
    ]


def _medians(
    forwards: Sequence[Forward], batch: int, device: torch.device, rounds: int, some: Tensor | None
) -> list[float]:
    runs: dict[str, Callable[[], Any]] = {}
    images = random_images(forwards[0].model, batch, device) if some is None else some[:0]
    for i, forward in enumerate(forwards):
        runs[str(i)] = partial(forward, images) if some is None else partial(_next, forward, _batches(some, batch))
    return list(interleaved_s(runs, device, rounds, warm_up=2).values())


def _next(forward: Forward, batches: Iterator[Tensor]) -> Tensor:
    return forward(next(batches))


def _batches(some: Tensor, batch: int) -> Iterator[Tensor]:
    """Batches of the images one after another, from the first again after the last."""
    for start in itertools.count(step=batch):
        yield some[(start + torch.arange(batch, device=some.device)) % len(some)]
