"""The paper's two studies of `upper`: by the layer that it starts in, and by the tokens that each layer fuses.

An experiment takes part in one by the names of its strategies: `start_15`, `tokens_9`. No torch, no pandas: Snakemake
reads this at every start.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """One study. `name`: of its figure; `table`: the paper's; `prefix`: of its strategies' names; `axis`: a label."""

    name: str
    table: int
    prefix: str
    axis: str

    def number(self, strategy: str) -> int | None:
        """The setting in a strategy's name, None for a strategy of no setting of this study."""
        found = re.fullmatch(rf"{self.prefix}_(\d+)", strategy)
        return int(found[1]) if found else None

    def takes(self, strategy: str) -> bool:
        """Whether a strategy is a setting of this study: by its name, or as `upper`, of which both are variations."""
        return strategy == "upper" or self.number(strategy) is not None

    def at(self, schedule: Sequence[int]) -> float:
        """Where a schedule stands on the axis of this study."""
        return first_layer(schedule) if self.prefix == "start" else fused_per_layer(schedule)


SWEEPS = (
    Sweep("starting_layer", 2, "start", "starting layer (from 1)"),
    Sweep("tokens_per_layer", 3, "tokens", "tokens fused per layer"),
)


def sweeps(strategies: Iterable[str]) -> list[Sweep]:
    """The studies that strategies take part in: two settings are needed, one is no study."""
    names = list(strategies)
    return [sweep for sweep in SWEEPS if sum(sweep.number(name) is not None for name in names) > 1]


def first_layer(schedule: Sequence[int]) -> int:
    """The first layer that fuses, counted from 1 as the paper counts. The schedule fuses somewhere."""
    return next(layer for layer, r in enumerate(schedule, 1) if r)


def fused_per_layer(schedule: Sequence[int]) -> float:
    """Tokens that a layer fuses, the mean from the first layer that fuses to the last layer of the model."""
    return sum(schedule) / (len(schedule) - first_layer(schedule) + 1)
