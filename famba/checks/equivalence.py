"""Whether two protocols reach the same accuracy: `fast` computes what `paper` does in another precision and order.

Per model and strategy, the difference of the mean top-1 after the last epoch is compared with the noise floor: 95 % of
single trainings lie within 1.96 standard deviations of a seed, and two protocols whose means are closer than that
are taken to be equal. Two one-sided tests decide, at 5 % each. The margin is estimated from the same spread, so
the statistic is noncentral t at its ends (Wellek, Testing Statistical Hypotheses of Equivalence and Noninferiority,
2nd ed. 2010). The spread is pooled over the strategies of a model and over both protocols.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import stats

from famba.config.protocol import FREE_OF
from famba.errors import InputError
from famba.results.row import Row, by_line
from famba.results.statistics import ALPHA, Spread, holm, pooled_spread
from famba.results.summary import learned_from

NOISE = 1.96


@dataclass(frozen=True)
class Agreement:
    """One model and strategy under both protocols. p-values: that they are equal, and, adjusted (Holm), that not."""

    cell: str
    n: tuple[int, int]
    top1: tuple[float, float]
    margin: float
    p_equal: float
    p_different: float

    @property
    def verdict(self) -> Literal["equal", "different", "inconclusive"]:
        if self.p_equal <= ALPHA:
            return "equal"
        return "different" if self.p_different <= ALPHA else "inconclusive"


def agreements(rows: Mapping[Path, Row], reference: Mapping[Path, Row]) -> list[Agreement]:
    """Cell by cell. Raises InputError where the two were not meant to be equal, or too few seeds tell their spread."""
    ours, theirs = by_line(rows.values()), by_line(reference.values())
    for key in ours:
        if key not in theirs:
            raise InputError(f"{_name(key)} has no row in the reference; run the same grid there")
        _require_same_work(ours[key], theirs[key])
    spreads = {model: _spread(model, ours, theirs) for model in dict.fromkeys(model for model, _ in ours)}
    found = [_agreement(_name(key), _top1(ours[key]), _top1(theirs[key]), spreads[key[0]]) for key in ours]
    adjusted = holm(np.array([one.p_different for one in found]))
    return [replace(one, p_different=float(p)) for one, p in zip(found, adjusted, strict=True)]


def _agreement(cell: str, ours: Sequence[float], theirs: Sequence[float], spread: Spread) -> Agreement:
    """Of one cell; `p_different` is not adjusted yet."""
    means = statistics.fmean(ours), statistics.fmean(theirs)
    error = math.sqrt(1 / len(ours) + 1 / len(theirs))  # of the difference, in standard deviations of a seed
    t, shift = (means[0] - means[1]) / (spread.sd * error), NOISE / error
    above_low, below_high = stats.nct.sf(t, spread.df, -shift), stats.nct.cdf(t, spread.df, shift)
    different = min(1.0, 2 * float(min(stats.nct.cdf(t, spread.df, -shift), stats.nct.sf(t, spread.df, shift))))
    equal = float(max(above_low, below_high))
    return Agreement(cell, (len(ours), len(theirs)), means, NOISE * spread.sd, equal, different)


def _spread(model: str, *grids: Mapping[tuple[str, str], Sequence[Row]]) -> Spread:
    spread = pooled_spread([_top1(rows) for grid in grids for (name, _), rows in grid.items() if name == model])
    if not spread.df:
        raise InputError(f"{model} has one seed: without its spread over seeds equal cannot be told from different")
    if not spread.sd:
        raise InputError(
            f"{model} has the same top-1 in every seed of a strategy: with a spread of 0 equal cannot be told from "
            "different; add seeds to both"
        )
    return spread


def _require_same_work(ours: Sequence[Row], theirs: Sequence[Row]) -> None:
    """The two may differ in what a protocol leaves free, and in nothing that a model learns from."""
    cell, other = ours[0].cell, theirs[0].cell
    free = FREE_OF["fast"]
    here, there = ({key: value for row in rows for key, value in learned_from(row)} for rows in (ours, theirs))
    pairs = [
        ("dataset", cell.dataset, other.dataset),
        # weights of a seed's own are compared where both have that seed
        *((" of ".join(key), value, there[key]) for key, value in here.items() if key in there),
        ("architecture", cell.architecture, other.architecture),
        ("schedule", cell.schedule, other.schedule),
        ("fusion", cell.fusion, other.fusion),
        *((f"recipe.{name}", v, getattr(other.recipe, name)) for name, v in cell.recipe if name not in free),
    ]
    for what, one, reference in pairs:
        if one != reference:
            raise InputError(f"{cell.model} {cell.strategy}: {what} is {one} here and {reference} in the reference")
    trained = {row.training for row in theirs}
    if both := next((row for row in ours if row.training in trained), None):
        raise InputError(f"{both.id}: the same training as in the reference; a reference has trainings of its own")


def _top1(rows: Sequence[Row]) -> list[float]:
    return [row.metrics.last.top1 for row in rows]


def _name(key: tuple[str, str]) -> str:
    return "-".join(key)
