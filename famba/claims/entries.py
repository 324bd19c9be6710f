"""What a ledger is made of: published numbers, and claims with the tests that judge them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from famba.config.image_folder import DataName
from famba.config.settings import ModelName, Name, Protocol
from famba.config.validation import Strict

Relation = Literal["equal", "at_least", "at_most", "above", "below"]
Quantity = Literal[
    "top1", "top5", "hours", "memory_mib",
    "top1_difference", "time_reduction", "memory_reduction", "activations_reduction", "tokens_removed",
]  # fmt: skip
Objective = Literal["top1", "hours", "memory", "activations"]
# the published quantity that a test's quantity is compared with
MEANS = {
    "top1": "top1",
    "top1_difference": "top1",
    "top5": "top5",
    "hours": "training_time",
    "memory_mib": "peak_memory",
    "time_reduction": "training_time_reduction",
    "memory_reduction": "peak_memory_reduction",
    "activations_reduction": "saved_activations_reduction",
    "tokens_removed": "tokens_removed",
}

# quantities relative to the cell `against`, paired by seed, and what is measured of both
RELATIVE = {
    "top1_difference": "top1", "time_reduction": "hours", "memory_reduction": "memory",
    "activations_reduction": "activations",
}  # fmt: skip


class Published(Strict):
    """One published number. `value` is None where the sources we have give none."""

    id: str
    dataset: DataName | None = None
    model: ModelName | None = None
    strategy: Name | None = None
    quantity: str
    metric: Literal["best", "last"] | None = None
    relation: Literal["=", "<", "<=", "range"]
    value: float | tuple[float, float] | None = None
    unit: str
    source: str
    says: str | None = None

    @property
    def point(self) -> float:
        """The value, of a number that has one."""
        assert isinstance(self.value, float)
        return self.value


class Needs(Strict):
    """What rows must be for a claim to be tested on them."""

    dataset: DataName = "cifar100"
    protocols: tuple[Protocol, ...] = ("paper",)
    minimum_n: Annotated[int, Field(ge=1)] = 3
    device_kind: Literal["cpu", "cuda"] | None = None
    device: str | None = None  # part of the device's name
    gpus: int | None = None
    images_per_gpu: int | None = None  # of a backward pass: peak memory follows it


class Hypothesis(Strict):
    """One mean of each of the named cells, compared with a reference.

    The reference is the published number, or the first of two less the second; without one it is zero. `rounding` is
    half a unit of the last published digit; `noise` counts standard deviations of one seed, as measured on the same
    cells. Both widen the region in which the claim puts the mean.
    """

    quantity: Quantity
    models: Annotated[list[ModelName], Field(min_length=1)]
    strategies: Annotated[list[Name], Field(min_length=1)]
    against: Name | None = None
    relation: Relation
    published: Annotated[tuple[str, ...], Field(max_length=2)] = ()
    rounding: Annotated[float, Field(ge=0)] = 0
    noise: Annotated[float, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _whole(self) -> Hypothesis:
        if (self.quantity in RELATIVE) != (self.against is not None):
            raise ValueError(f"{self.quantity} {'needs' if self.against is None else 'takes no'} `against`")
        return self


class TradeOff(Strict):
    """Pareto dominance of a strategy over each of its rivals, in every objective, for each model."""

    models: Annotated[list[ModelName], Field(min_length=1)]
    strategy: Name
    rivals: Annotated[list[Name], Field(min_length=1)]
    objectives: Annotated[list[Objective], Field(min_length=2)]


class Claim(Strict):
    """One published claim. `interpretation`: how its words were made a test, where they leave a choice."""

    id: str
    quote: str
    source: str
    tests: tuple[Hypothesis, ...] = ()
    trade_off: TradeOff | None = None
    scope: Literal["all", "any"] = "all"
    needs: Needs = Needs()
    interpretation: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Claim:
        if bool(self.tests) == (self.trade_off is not None):
            raise ValueError(f"claim {self.id!r} needs either `tests` or a `trade_off`")
        return self
