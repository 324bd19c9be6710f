"""The schedules that cost least for the damage that they do: dynamic programming over layers and tokens left.

The damage of a schedule is modelled as a sum over layers, of what was measured in each layer alone (damage.py), and its
cost is the cost model's, which is a sum over layers already. Both depend on the tokens that enter a layer and on those
that are left, and so the best schedules are found exactly, up to the rounding of costs.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from famba.config import Architecture
from famba.flops import LayerCost
from famba.strategies import capped

Array = NDArray[np.float64]
UNITS = 4000  # that the cost of the unreduced model is counted in


class Front:
    """The least damage that any schedule does at each cost.

    Args:
        costs, damages: (depth, T + 1, T + 1): of a layer that so many tokens enter and so many are left of; infinite
            where that cannot be.
        unit: costs are rounded up to multiples of it, so that no schedule costs more than asked. A schedule that is
            cheaper by less than `depth` units than one that is found may be missed.
        limit: the highest cost of interest.
    """

    def __init__(self, costs: Array, damages: Array, unit: float, limit: float) -> None:
        self.unit = unit
        depth, size = costs.shape[0], costs.shape[1]
        self._tokens = size - 1
        possible = np.isfinite(costs) & np.isfinite(damages)
        rounded = np.ceil(np.where(possible, costs, 0) / unit - 1e-9).astype(np.int64)
        columns = math.floor(limit / unit + 1e-9) + 1
        best = np.full((size, columns), np.inf)  # least damage by tokens left and cost so far
        best[self._tokens, 0] = 0
        self._entered: list[NDArray[np.int32]] = []  # by layer, tokens left and cost: the tokens that entered
        self._rounded = rounded
        for layer in range(depth):
            after = np.full_like(best, np.inf)
            entered = np.zeros(best.shape, dtype=np.int32)
            for entering in np.flatnonzero(np.isfinite(best).any(axis=1)):
                for left in np.flatnonzero(possible[layer, entering]):
                    cost = rounded[layer, entering, left]
                    if cost >= columns:
                        continue
                    damage = best[entering, : columns - cost] + damages[layer, entering, left]
                    better = damage < after[left, cost:]
                    after[left, cost:][better] = damage[better]
                    entered[left, cost:][better] = entering
            best = after
            self._entered.append(entered)
        self._best = best
        self._least = best.min(axis=0)

    @property
    def points(self) -> list[tuple[float, float]]:
        """(cost, damage) of all schedules that no other equals in one and beats in the other, by rising cost."""
        found: list[tuple[float, float]] = []
        for column in np.flatnonzero(np.isfinite(self._least)):
            if not found or self._least[column] < found[-1][1]:
                found.append((column * self.unit, float(self._least[column])))
        return found

    def at_cost(self, budget: float) -> tuple[int, ...] | None:
        """The schedule of the least damage that costs no more; None where none is so cheap."""
        columns = self._least[: max(0, math.floor(budget / self.unit + 1e-9) + 1)]
        if not len(columns) or not np.isfinite(columns).any():
            return None
        return self._schedule(int(columns.argmin()))

    def at_damage(self, budget: float) -> tuple[int, ...] | None:
        """The cheapest schedule that does no more damage; None where there is none."""
        columns = np.flatnonzero(self._least <= budget)
        return self._schedule(int(columns[0])) if len(columns) else None

    def _schedule(self, column: int) -> tuple[int, ...]:
        """Back through the layers, from a cost at the end."""
        damages = self._best[::-1, column]  # of equal damage, what removes least
        left = self._tokens - int(damages.argmin())
        schedule = []
        for layer in range(len(self._entered) - 1, -1, -1):
            entering = int(self._entered[layer][left, column])
            schedule.append(entering - left)
            column -= int(self._rounded[layer, entering, left])
            left = entering
        return tuple(reversed(schedule))


class CostModel:
    """What a schedule costs: the sum of what each layer costs, and of all that no schedule changes.

    Args:
        value: of a layer, from its counts. layer_cost: (tokens that enter, tokens left) -> its counts.
        whole: what the model costs without a reduction.
    """

    def __init__(
        self,
        architecture: Architecture,
        value: Callable[[LayerCost], float],
        layer_cost: Callable[[int, int], LayerCost],
        whole: float,
    ) -> None:
        self.whole, self.depth = whole, architecture.depth
        tokens = architecture.tokens
        table = np.full((tokens + 1, tokens + 1), np.inf)
        for entering in range(1, tokens + 1):
            for gone in range(capped(entering, entering, True, None) + 1):
                table[entering, entering - gone] = value(layer_cost(entering, entering - gone))
        self.layers = np.repeat(table[None], self.depth, axis=0)
        self.fixed = whole - table[tokens, tokens] * self.depth

    def of(self, schedule: Sequence[int]) -> float:
        """The cost of a schedule."""
        return self.fixed + summed(self.layers, schedule)

    def front(self, damages: Array, units: int = UNITS) -> Front:
        """The best schedules. Costs in it are without `fixed`."""
        unreduced = float(self.layers[0, -1, -1])
        # a whole number of units, so that the unreduced model is one of the schedules
        return Front(self.layers, damages, unreduced / max(1, units // self.depth), self.whole - self.fixed)


def summed(layers: Array, schedule: Sequence[int]) -> float:
    """The sum over the layers of costs or damages, as `Front` takes them, under a schedule that removes what it can."""
    entering, total = layers.shape[1] - 1, 0.0
    for table, gone in zip(layers, schedule, strict=True):
        left = entering - capped(gone, entering, True, None)
        total += float(table[entering, left])
        entering = left
    return total
