"""How time and memory grow with the number of tokens, with fusion and without, and how straight the lines are.

A scan is linear in tokens. Famba-V's matching compares every even token with every odd one, which is quadratic in time:
it is measured by itself, too, so that its share is known.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.optimize import lsq_linear

from famba.config import Architecture
from famba.cost.bench import CLASSES, cell_of
from famba.cost.inference import peak_of
from famba.cost.roofline import elapsed_s
from famba.flops import scheduled_tokens
from famba.fusion import match
from famba.model import VisionMamba
from famba.training.activations import saved_activation_bytes
from famba.training.timing import running

PATCHES = tuple(side * side for side in (8, 12, 16, 24, 32, 48, 64, 96, 128))  # 64 to 16,384
STRAIGHT = 0.1  # of the fitted line: what is farther from it is not linear
MANY = 1024  # tokens from which on a layer's work outweighs what it costs however few they are
_SHORTEST_S = 0.02  # of a timed turn: a short run is repeated in it
Run = Callable[[], Any]
Key = tuple[str, str, int]  # what, strategy, tokens


@dataclass(frozen=True)
class Line:
    """The line fixed + per_token * tokens that comes nearest in relative terms, and how near that is.

    Attributes:
        deviation: largest distance of a value from the line, as a share of the line.
        exponent, low, high: slope in log-log of the sizes from `MANY` tokens on, with the ends of its 95 % interval
            (Student's t); None where fewer than three are left.
    """

    fixed: float
    per_token: float
    deviation: float
    exponent: float | None
    low: float | None
    high: float | None

    @property
    def straight(self) -> bool:
        """Whether the values are linear in tokens within `STRAIGHT`."""
        return self.deviation <= STRAIGHT


@dataclass(frozen=True)
class Series:
    """A quantity at each size. `what`: step, forward, matching, saved; `unit`: s or bytes; `strategy`: of the model."""

    what: str
    unit: str
    strategy: str
    tokens: tuple[int, ...]
    values: tuple[float, ...]
    line: Line

    @property
    def name(self) -> str:
        return f"{self.what} ({self.unit}), {self.strategy}"


def fitted(tokens: Sequence[int], values: Sequence[float]) -> Line:
    """The line of positive values at three or more sizes. Neither of its two parts is negative."""
    x, y = np.array(tokens, dtype=float), np.array(values, dtype=float)
    terms = np.stack([np.ones_like(x), x], axis=1)
    scale = (terms / y[:, None]).max(axis=0)
    fixed, per_token = lsq_linear(terms / y[:, None] / scale, np.ones_like(y), bounds=(0, np.inf)).x / scale
    line = fixed + per_token * x
    many = x >= MANY
    exponent = low = high = None
    if many.sum() >= 3:
        slope = stats.linregress(np.log(x[many]), np.log(y[many]))
        half = stats.t.ppf(0.975, int(many.sum()) - 2) * slope.stderr
        exponent, low, high = float(slope.slope), float(slope.slope - half), float(slope.slope + half)
    return Line(float(fixed), float(per_token), float(np.abs(y / line - 1).max()), exponent, low, high)


def growth(
    shape: Architecture,
    strategy: str,
    patches: Sequence[int],
    device: torch.device,
    scan: str,
    batch: int = 1,
    rounds: int = 5,
    precision: str = "fp32",
) -> list[Series]:
    """Measure a model without fusion and under a strategy, at the paper's share of the tokens, for every size.

    Args:
        shape: the model at any size; its patches keep their pixels, so that the images grow.
        patches: square numbers, ascending.
        scan: the backend. batch: images of a pass.
        rounds: turns that a time is the median of. All sizes take turns in each, and short runs are repeated.

    Returns:
        Seconds of a training step, of a forward pass and of its matchings: on a CPU, CPU seconds of this process. Bytes
        that a forward pass saves for the backward pass, and the peak that a step adds, where it can be measured.
    """
    times: dict[Key, Run] = {}
    memory: dict[Key, float] = {}
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")
    for name in ("baseline", strategy):
        for count in patches:
            a = shape.model_copy(update={"img_size": math.isqrt(count) * shape.patch_size})
            cell = cell_of(a, name, batch, precision=precision, cuda_graphs=False)
            _, step, forward = running(cell, device, scan, CLASSES)
            model = VisionMamba(**a.model_dump(), num_classes=CLASSES, fusion=cell.schedule, scan=scan).to(device)
            memory["saved", name, a.tokens] = batch * saved_activation_bytes(model, device, autocast)
            times["step", name, a.tokens], times["forward", name, a.tokens] = step, forward
            if any(cell.schedule):
                times["matching", name, a.tokens] = _matchings(a, cell.schedule, batch, device)
    for key, run in times.items():
        run()
        if key[0] == "step" and (added := _added(run, device)):
            memory[key] = added
    seconds = _taking_turns(times, device, rounds)
    return _series(seconds, "s") + _series(memory, "bytes")


def _added(run: Run, device: torch.device) -> float | None:
    """Peak bytes that a run adds: the least of three, for a resident set also grows by holes in the heap."""
    found = [peak_of(run, device).added for _ in range(3)]
    return min((float(added) for added in found if added), default=None)


def _series(values: Mapping[Key, float], unit: str) -> list[Series]:
    """One for each quantity and strategy."""
    found = []
    for what, strategy in dict.fromkeys(key[:2] for key in values):
        own = {tokens: value for (*of, tokens), value in values.items() if of == [what, strategy]}
        tokens, measured = tuple(own), tuple(own.values())
        found.append(Series(what, unit, strategy, tokens, measured, fitted(tokens, measured)))
    return found


def _taking_turns(runs: Mapping[Key, Run], device: torch.device, rounds: int) -> dict[Key, float]:
    """Median seconds of each, one after the other in every round."""
    repeats = {key: max(1, math.ceil(_SHORTEST_S / _seconds(run, 1, device))) for key, run in runs.items()}
    times: dict[Key, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(_seconds(run, repeats[key], device) / repeats[key])
    return {key: statistics.median(seconds) for key, seconds in times.items()}


def _seconds(run: Run, repeats: int, device: torch.device) -> float:
    """Of so many runs. On a CPU those of this process: other load on the machine affects them less than wall time."""

    def several() -> None:
        for _ in range(repeats):
            run()

    if device.type == "cuda":
        return elapsed_s(several, device)
    began = time.process_time()
    several()
    return time.process_time() - began


def _matchings(a: Architecture, schedule: Sequence[int], batch: int, device: torch.device) -> Run:
    """All matchings of a forward pass, of random tokens."""
    trace = (a.tokens, *scheduled_tokens(a, schedule)[:-1])
    generator = torch.Generator().manual_seed(0)
    sizes = [
        (torch.randn(batch, before, a.embed_dim, generator=generator).to(device), before - after)
        for before, after in pairwise(trace)
        if after < before
    ]
    return lambda: [match(metric, r, metric.shape[1] // 2) for metric, r in sizes]
