"""Decide the ledger's claims from measurements.

`decide` accepts any leading axes, so that the function that judges real rows also runs on thousands of simulated grids.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from famba.claims.entries import RELATIVE, Claim, Hypothesis, TradeOff
from famba.claims.ledger import Ledger
from famba.results.row import Row, by_line
from famba.results.statistics import ALPHA, Array, Evidence, Region, dominates, every, mean_in, some

_REDUCTIONS = {"time_reduction", "memory_reduction", "activations_reduction"}
_EXACT = {"tokens_removed", "activations_reduction"}  # by the schedule, unless a threshold decides
_ACCURACIES = {"top1", "top5", "top1_difference"}
_MIN_SPREAD = 2  # seeds, for a spread
_BOOTSTRAP_SHARE = 0.95


@dataclass(frozen=True)
class Samples:
    """Measurements of one cell: each quantity (..., n), a column per seed. `images`: of the test set.

    `varies`: a threshold decides how many tokens go, so that they depend on the weights, and these on the seed.
    """

    seeds: tuple[int, ...]
    quantities: Mapping[str, Array]
    images: float = math.inf
    varies: bool = False


Grid = Mapping[tuple[str, str], Samples]  # by model and strategy


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim, not yet judged. `values`: (..., n) on the test's scale; None if a cell is missing.

    `advantages`: trade-offs only, (..., objectives, n) over the rival `against`. `step`: what one test image is of an
    accuracy, in points, a number for each objective of a trade-off; 0 of other quantities. `exact`: chance has no part
    in the values.
    """

    model: str
    strategy: str
    against: str | None
    test: Hypothesis | None
    values: Array | None
    advantages: Array | None = None
    step: float | Array = 0.0
    exact: bool = False

    @property
    def n(self) -> int:
        values = self.values if self.advantages is None else self.advantages
        return 0 if values is None else values.shape[-1]


def grid_of(rows: Sequence[Row], accuracy: Literal["best", "last"] = "best") -> dict[tuple[str, str], Samples]:
    """The measurements that claims are about, cell by cell, in the order of the seeds. `accuracy`: of which epoch."""
    grid = {}
    for key, group in by_line(sorted(rows, key=lambda row: row.cell.seed)).items():
        of = {
            "top1": [getattr(row.metrics, accuracy).top1 for row in group],
            "top5": [getattr(row.metrics, accuracy).top5 for row in group],
            "hours": [row.time.judged_seconds / 3600 for row in group],
            "activations": [float(row.memory.saved_activations) for row in group],
            "tokens_removed": [float(row.cell.architecture.tokens - row.tokens.measured[-1]) for row in group],
        }
        peaks = [row.memory.device_peak for row in group if row.memory.device_peak is not None]
        if len(peaks) == len(group):
            of["memory"] = [float(peak) for peak in peaks]
            of["memory_mib"] = [peak / 2**20 for peak in peaks]
        if all(row.environment.device_kind == "cpu" for row in group):
            of["cpu_hours"] = [row.time.loop_cpu / 3600 for row in group]
        seeds, quantities = tuple(row.cell.seed for row in group), {name: np.array(v) for name, v in of.items()}
        varies = any(row.tokens.range is not None for row in group)
        grid[key] = Samples(seeds, quantities, group[0].data.test, varies)
    return grid


def decide(claim: Claim, ledger: Ledger, grid: Grid) -> tuple[Array, list[tuple[Comparison, Evidence]]]:
    """Returns the verdicts, an array of strings of the grid's leading shape, and the evidence of each comparison.

    A comparison that is missing, or has fewer seeds than the claim needs, is no evidence either way (p = 1).
    """
    judged = [(c, _evidence(c, claim, ledger)) for c in comparisons(claim, grid)]
    shape = np.broadcast_shapes(*(e.p_inside.shape for _, e in judged))
    # missing ones count too: leaving a cell out cannot help a claim about all cells
    whole = [Evidence(np.broadcast_to(e.p_inside, shape), np.broadcast_to(e.p_outside, shape)) for _, e in judged]
    together = every(whole) if claim.scope == "all" else some(whole)
    verdict = np.select(
        [together.p_inside <= ALPHA, together.p_outside <= ALPHA], ["reproduced", "not reproduced"], "inconclusive"
    )
    return verdict, judged


def comparisons(claim: Claim, grid: Grid) -> Iterator[Comparison]:
    """The comparisons that a claim is made of, with the values that the grid has for them."""
    for test in claim.tests:
        for model in test.models:
            for strategy in test.strategies:
                values = _values(grid, test.quantity, model, strategy, test.against)
                step = _image(grid, model, strategy) if test.quantity in _ACCURACIES else 0.0
                exact = test.quantity in _EXACT and not _varies(grid, model, strategy, test.against)
                yield Comparison(model, strategy, test.against, test, values, step=step, exact=exact)
    if claim.trade_off:
        for model in claim.trade_off.models:
            for rival in claim.trade_off.rivals:
                of = claim.trade_off
                image = _image(grid, model, of.strategy)
                steps = np.array([image if objective == "top1" else 0.0 for objective in of.objectives])
                yield Comparison(model, of.strategy, rival, None, None, _advantages(grid, of, model, rival), steps)


def _varies(grid: Grid, model: str, *strategies: str | None) -> bool:
    """Whether a threshold decides on the tokens of one of these cells."""
    return any(grid[model, name].varies for name in strategies if name and (model, name) in grid)


def _image(grid: Grid, model: str, strategy: str) -> float:
    """What one test image is of an accuracy, in points; 0 without the cell."""
    return 100 / grid[model, strategy].images if (model, strategy) in grid else 0.0


def _values(grid: Grid, quantity: str, model: str, strategy: str, against: str | None) -> Array | None:
    """A test's values (..., n) on its scale (see `scaled`)."""
    if against is None:
        cell = grid.get((model, strategy))
        return cell.quantities.get(quantity) if cell else None
    pair = _paired(grid, RELATIVE[quantity], (model, strategy), (model, against))
    if pair is None:
        return None
    ours, theirs = pair
    return np.log(theirs / ours) if quantity in _REDUCTIONS else ours - theirs


def _paired(grid: Grid, measured: str, one: tuple[str, str], other: tuple[str, str]) -> tuple[Array, Array] | None:
    """Measurements of two cells (..., n), paired over the seeds that both have, so that seed effects cancel.

    Hours on a CPU are compared as CPU hours: the wall clock there depends on what else runs on the machine.
    """
    if measured == "hours" and all(cell in grid and "cpu_hours" in grid[cell].quantities for cell in (one, other)):
        measured = "cpu_hours"
    if (
        one not in grid
        or other not in grid
        or measured not in grid[one].quantities
        or measured not in grid[other].quantities
    ):
        return None
    seeds = [seed for seed in grid[one].seeds if seed in grid[other].seeds]
    if not seeds:
        return None
    a, b = (
        grid[cell].quantities[measured][..., [grid[cell].seeds.index(seed) for seed in seeds]] for cell in (one, other)
    )
    return a, b


def _advantages(grid: Grid, trade_off: TradeOff, model: str, rival: str) -> Array | None:
    """(..., objectives, n): how much better the strategy is than the rival, seed by seed."""
    advantages = []
    for objective in trade_off.objectives:
        pair = _paired(grid, objective, (model, trade_off.strategy), (model, rival))
        if pair is None:
            return None
        ours, theirs = pair
        advantages.append(ours - theirs if objective == "top1" else np.log(theirs / ours))
    return np.stack(np.broadcast_arrays(*advantages), axis=-2)


def _evidence(comparison: Comparison, claim: Claim, ledger: Ledger) -> Evidence:
    if comparison.n < needed(comparison, claim):
        return Evidence(np.ones(()), np.ones(()))
    if comparison.advantages is not None:
        (p, share), (p_rival, share_rival) = (
            dominates(sign * comparison.advantages, comparison.step) for sign in (1, -1)
        )
        return Evidence(
            np.where(share >= _BOOTSTRAP_SHARE, p, 1), np.where(share_rival >= _BOOTSTRAP_SHARE, p_rival, 1)
        )
    assert comparison.test is not None
    assert comparison.values is not None
    return mean_in(comparison.values, region(comparison.test, ledger), comparison.step)


def needed(comparison: Comparison, claim: Claim) -> int:
    """Seeds without which a comparison is no evidence: the claim's, and two where chance has a part in the quantity."""
    return max(claim.needs.minimum_n, 1 if comparison.exact else _MIN_SPREAD)


def region(test: Hypothesis, ledger: Ledger) -> Region:
    """The region in which the claim says the mean lies, on the scale of the test."""
    low, high = (scaled(test.quantity, end) for end in ledger.reference(test))
    # strict: the end itself is excluded, and with it the largest or smallest value that the printed number stands for
    below, above = np.nextafter(high, -math.inf), np.nextafter(low, math.inf)
    return {
        "equal": Region(low, high, test.noise),
        "at_least": Region(low=low, noise=test.noise),
        "at_most": Region(high=high, noise=test.noise),
        "below": Region(high=float(below), noise=test.noise),
        "above": Region(low=float(above), noise=test.noise),
    }[test.relation]


def scaled(quantity: str, value: float) -> float:
    """A quantity on the scale of its test: a reduction in per cent as -log(1 - reduction).

    A ratio and its inverse then lie symmetrically around 0.
    """
    return -math.log1p(-value / 100) if quantity in _REDUCTIONS else value


def unscaled(quantity: str, value: float) -> float:
    """The reverse of `scaled`: back in the quantity's own unit."""
    return -100 * math.expm1(-value) if quantity in _REDUCTIONS else value
