"""What a training saves from one run to the next, beside weights and optimiser: epochs, losses, times."""

from __future__ import annotations

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


def is_whole(history: Any, epochs: int, steps: int) -> bool:
    """Whether a history is one of at most `epochs` of so many steps each: every field, in its type and range."""
    empty = asdict(History())
    if not _is_like(history, empty) or not _is_like(history["epoch_so_far"], empty["epoch_so_far"]):
        return False
    if not all(isinstance(value, str | None) for value in history["init"].values()):
        return False
    done, so_far, losses = len(history["epochs"]), history["epoch_so_far"], len(history["losses"])
    numbers = [value for name, value in history.items() if isinstance(empty[name], int | float)]
    if history["energy_joules"] is None:
        numbers.remove(None)
    return (
        0 <= so_far["steps"] <= steps  # all of them: evaluation comes next
        and 0 < losses == done * steps + so_far["steps"] <= epochs * steps
        and len(history["step_ms"]) == len(history["step_cpu_ms"]) <= losses
        and all(_is_epoch(epoch, number) for number, epoch in enumerate(history["epochs"]))
        and all(map(_is_number, [*numbers, *so_far.values(), *history["step_ms"], *history["step_cpu_ms"]]))
        and all(_is_number(loss, -_LARGEST) for loss in history["losses"])
    )


_LARGEST = 1e300


def _is_like(found: Any, empty: dict[str, Any]) -> bool:
    """Whether it has the fields of an empty one, in their types; a time may be a whole number, energy is not known."""
    return (
        isinstance(found, dict)
        and found.keys() == empty.keys()
        and all(
            isinstance(found[name], float | int | None if isinstance(value, float) else type(value))
            for name, value in empty.items()
        )
    )


def _is_epoch(epoch: Any, number: int) -> bool:
    return (
        isinstance(epoch, dict)
        and epoch.keys() == set(EPOCH_FIELDS)
        and epoch["epoch"] == number
        and all(map(_is_number, epoch.values()))
        and all(epoch[f"{of}top1"] <= epoch[f"{of}top5"] <= 100 for of in ("", "ema_"))
    )


def _is_number(value: Any, least: float = 0) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _LARGEST
