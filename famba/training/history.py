"""What a training saves from one run to the next, beside weights and optimiser: epochs, losses, times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from famba.results.epochs import EPOCH_FIELDS
from famba.results.row import Accuracy


@dataclass
class EpochSoFar:
    """The steps of an epoch that is not over: how many there are, and their times in seconds, summed."""

    steps: int = 0
    train_s: float = 0.0
    cpu_s: float = 0.0
    data_wait_s: float = 0.0


@dataclass
class History:
    """The part of a training that is neither weights nor optimiser."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    epoch_so_far: EpochSoFar = field(default_factory=EpochSoFar)
    losses: list[float] = field(default_factory=list)  # of every step
    step_ms: list[float] = field(default_factory=list)
    step_cpu_ms: list[float] = field(default_factory=list)
    total_s: float = 0.0
    warmup_s: float = 0.0
    warmup_cpu_s: float = 0.0
    thread_cpu_s: float = 0.0  # without the warm-up
    loop_cpu_s: float = 0.0
    runs: int = 0
    device_peak: int = 0
    host_peak: int = 0
    energy_joules: float | None = 0.0
    started: str = ""
    init: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> History:
        """What `asdict` made of one."""
        return cls(**{**saved, "epoch_so_far": EpochSoFar(**saved["epoch_so_far"])})

    def sum(self, key: str) -> float:
        return sum(epoch[key] for epoch in self.epochs)

    def accuracy(self, epoch: dict[str, float], prefix: str = "") -> Accuracy:
        return Accuracy(epoch=int(epoch["epoch"]), top1=epoch[f"{prefix}top1"], top5=epoch[f"{prefix}top5"])

    def last(self, prefix: str = "") -> Accuracy:
        return self.accuracy(self.epochs[-1], prefix)

    def best(self, prefix: str = "") -> Accuracy:
        """The epoch with the highest top-1, the first of equals: chosen on the test set, as the paper's number is."""
        return self.accuracy(max(self.epochs, key=lambda epoch: epoch[f"{prefix}top1"]), prefix)


def is_whole(history: Any, epochs: int) -> bool:
    """Whether a history has every field in its type, and every number of every epoch so far, of at most `epochs`."""
    empty = asdict(History())
    if not isinstance(history, dict) or history.keys() != empty.keys():
        return False
    numbers = [value for name, value in history.items() if isinstance(empty[name], int | float)]
    texts = isinstance(history["started"], str) and isinstance(history["init"], dict)
    so_far = history["epoch_so_far"]
    if not isinstance(so_far, dict) or so_far.keys() != empty["epoch_so_far"].keys():
        return False
    numbers += so_far.values()
    lists = [history[name] for name in ("epochs", "step_ms", "step_cpu_ms", "losses")]
    if not texts or not all(isinstance(found, list) for found in lists) or len(lists[0]) > epochs:
        return False
    if len(lists[0]) == (epochs if so_far["steps"] else 0):  # a step beyond the last epoch, or none at all
        return False
    for number, epoch in enumerate(lists[0]):
        if not isinstance(epoch, dict) or epoch.keys() != set(EPOCH_FIELDS) or epoch["epoch"] != number:
            return False
        numbers += epoch.values()
    if history["energy_joules"] is None:
        numbers.remove(None)
    return all(
        isinstance(value, int | float) and math.isfinite(value) for value in (*numbers, *lists[1], *lists[2], *lists[3])
    )
