"""Rows by their recipes: what may be pooled, and how the trainings of one model under two recipes differ.

The settings of the recipe decide what is pooled. An experiment that trains one model under several recipes gives it a
name for each: `vim_tiny_text` and `vim_tiny_scripts` are both the paper's `vim_tiny`, by their architecture.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from famba.config import Architecture
from famba.config.protocol import published_model
from famba.config.validation import Strict
from famba.results.row import Row, grouped
from famba.results.statistics import interval
from famba.results.summary import measures, step_of

# the measures that are compared, with the unit of a difference
_ACCURACIES = {"top1_last_percent": "points", "top1_best_percent": "points", "top5_last_percent": "points"}
_COSTS = {
    "cuda": {"loop_s": "s", "peak_memory_mib": "MiB"},
    "cpu": {"cpu_s": "s"},  # the wall clock and the resident set there are not the training's alone
}


@dataclass(frozen=True)
class SameRecipe:
    """Rows of one recipe. `name`: its preset; where two recipes here have one, with the models that they train."""

    name: str
    rows: Sequence[Row]

    @property
    def models(self) -> Mapping[str, str]:
        """The names that the experiment gave its models, by what the paper calls them."""
        return {published_model(row.cell): row.cell.model for row in self.rows}

    @property
    def architectures(self) -> Mapping[Architecture, str]:
        """The names that the experiment gave its models, by what they are."""
        return {row.cell.architecture: row.cell.model for row in self.rows}


def by_recipe(rows: Sequence[Row]) -> list[SameRecipe]:
    """Rows of one experiment, those of each recipe together, in the order in which recipes first appear."""
    groups = grouped(rows, lambda row: row.cell.recipe.identity).values()
    presets = [group[0].cell.recipe.preset for group in groups]
    found = []
    for preset, group in zip(presets, groups, strict=True):
        models = ", ".join(dict.fromkeys(row.cell.model for row in group))
        found.append(SameRecipe(preset if presets.count(preset) == 1 else f"{preset} ({models})", group))
    return found


class Difference(Strict):
    """A measure of one cell under two recipes: the means over the seeds that both have, and the second less the first.

    `models`: the model's names under the first recipe and the second. `low`, `high`: of the difference's 95 % interval,
    Student's t over the seeds; null for fewer than three.
    """

    recipes: tuple[str, str]
    models: tuple[str, str]
    strategy: str
    measure: str
    unit: str
    n: int
    means: tuple[float, float]
    difference: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


def differences(rows: Sequence[Row]) -> list[Difference]:
    """Every cell that was trained under two recipes, measure by measure; none where all rows are of one recipe.

    A seed has the same initial weights under both, so that differences are taken seed by seed.
    """
    return [
        found
        for one, other in combinations(by_recipe(rows), 2)
        for architecture, name in one.architectures.items()
        if architecture in other.architectures
        for found in _of_model(one, name, other, other.architectures[architecture])
    ]


def _of_model(one: SameRecipe, name: str, other: SameRecipe, name_there: str) -> Iterator[Difference]:
    first, second = (
        {(r.cell.strategy, r.cell.schedule, r.cell.seed): measures(r) for r in group.rows if r.cell.model == model}
        for group, model in ((one, name), (other, name_there))
    )
    units = _ACCURACIES | _COSTS[one.rows[0].environment.device_kind]
    images = one.rows[0].data.test
    shared = [key for key in first if key in second]
    for strategy in dict.fromkeys(strategy for strategy, _, _ in shared):
        keys = [key for key in shared if key[0] == strategy]
        for measure, unit in units.items():
            a, b = ([of[key][measure] for key in keys] for of in (first, second))
            apart = [after - before for before, after in zip(a, b, strict=True)]
            difference, half = statistics.fmean(apart), interval(apart, step_of(measure, images))
            yield Difference(
                recipes=(one.name, other.name), models=(name, name_there), strategy=strategy, measure=measure,
                unit=unit, n=len(keys), means=(statistics.fmean(a), statistics.fmean(b)), difference=difference,
                low=None if half is None else difference - half, high=None if half is None else difference + half,
            )  # fmt: skip
