"""Claims on grids whose truth is known: how often a verdict is wrong, how often it is reached at all."""

import math

import numpy as np
import pytest

from famba.claims.decide import Samples, decide
from famba.claims.entries import Claim, Hypothesis, TradeOff
from famba.claims.ledger import load
from tests.helpers import ROOT

LEDGER = load(ROOT / "config" / "claims.yaml")
CLAIMS = {claim.id: claim for claim in LEDGER.judged}
TRADE_OFF = Claim(
    id="trade-off",
    quote="upper is better than each other strategy in top-1, time and memory",
    source="paper",
    trade_off=TradeOff(
        models=["vim_tiny", "vim_small"],
        strategy="upper",
        rivals=["all", "interleaved", "lower"],
        objectives=["top1", "hours", "memory"],
    ),
)
# all that are written out, one of the cells of Table 1 for each quantity, and a trade-off
SIMULATED = {claim.id: claim for claim in (*LEDGER.claims, TRADE_OFF)} | {
    name: CLAIMS[name] for name in (f"table1-vim_tiny-upper-{of}" for of in ("top1", "top5", "time", "memory"))
}
GRIDS = 2000
SHARED_SD = 0.3  # what a seed does to the top-1 of all cells alike, points
MODELS, STRATEGIES = ("vim_tiny", "vim_small"), ("baseline", "all", "interleaved", "lower", "upper")
# spreads that differ between cells: nothing may rest on their being equal
TOP1_SD = dict(zip(STRATEGIES, (0.2, 0.6, 0.35, 0.5, 0.25), strict=True))
LOG_SD = {"hours": 0.02, "memory": 0.001, "memory_mib": 0.001}
NEUTRAL = {"top1": 70.0, "top5": 90.0, "hours": 3.0, "memory": 1e10, "memory_mib": 1e4, "tokens_removed": 0.0}
MEASURED = {"top1_difference": "top1", "time_reduction": "hours", "memory_reduction": "memory"}


def single_sd(test: Hypothesis, strategy: str) -> float:
    """True standard deviation of one seed, on the scale of the test."""
    if test.quantity in ("top1", "top5"):
        return math.hypot(SHARED_SD, TOP1_SD[strategy])
    if test.quantity == "top1_difference":
        return math.hypot(TOP1_SD[strategy], TOP1_SD[test.against])
    if test.quantity in ("hours", "memory_mib"):
        return sum(LEDGER.reference(test)) / 2 * LOG_SD[test.quantity]  # at the published value
    return 0 if test.quantity == "tokens_removed" else math.sqrt(2) * LOG_SD[MEASURED[test.quantity]]


def placed(test: Hypothesis, strategy: str, depth: float) -> float:
    """A true mean `depth` standard deviations inside of the end of a claim's region (negative: outside)."""
    sd = single_sd(test, strategy)
    ends = LEDGER.reference(test)
    if test.quantity in ("time_reduction", "memory_reduction"):
        ends = tuple(-math.log1p(-end / 100) for end in ends)
    low, high = ends[0] - test.noise * sd, ends[1] + test.noise * sd
    if test.quantity == "tokens_removed":
        return high if depth > 0 else 0.0
    if test.relation in ("above", "at_least"):
        return low + depth * sd
    if test.relation == "equal" and depth > test.noise:
        return (low + high) / 2
    return high - depth * sd


def true_means(claim: Claim, depths: list[float]) -> dict[tuple[str, str], dict[str, float]]:
    """A world in which part i of the claim is true by `depths[i]` standard deviations of one seed.

    A trade-off has a depth for every model, rival and objective: by how much upper is the better one.
    """
    means = {(m, s): dict(NEUTRAL) for m in MODELS for s in STRATEGIES}
    if claim.trade_off:
        pairs = [(m, rival) for m in claim.trade_off.models for rival in claim.trade_off.rivals]
        for (model, rival), (top1, hours, memory) in zip(pairs, zip(*[iter(depths)] * 3, strict=True), strict=True):
            ours, theirs = means[model, "upper"], means[model, rival]
            theirs["top1"] = ours["top1"] - top1 * math.hypot(TOP1_SD["upper"], TOP1_SD[rival])
            theirs["hours"] = ours["hours"] * math.exp(hours * math.sqrt(2) * LOG_SD["hours"])
            theirs["memory"] = ours["memory"] * math.exp(memory * math.sqrt(2) * LOG_SD["memory"])
        return means
    parts = [(t, m, s) for t in claim.tests for m in t.models for s in t.strategies]
    for (test, model, strategy), depth in zip(parts, depths, strict=True):
        value, measured = placed(test, strategy, depth), MEASURED.get(test.quantity, test.quantity)
        against = means[model, test.against][measured] if test.against else 0
        reduction = test.quantity in ("time_reduction", "memory_reduction")
        means[model, strategy][measured] = against * math.exp(-value) if reduction else against + value
    return means


def simulated(claim: Claim, depths: list[float], n: int) -> dict[tuple[str, str], Samples]:
    """`GRIDS` grids of n seeds in that world: normal top-1 with a share common to the seed, log-normal time, memory.

    Absolute hours and memory, where a claim is about them, are normal.
    """
    rng = np.random.default_rng(0)
    shared = {model: rng.normal(0, SHARED_SD, (GRIDS, n)) for model in MODELS}
    grid = {}
    for (model, strategy), mean in true_means(claim, depths).items():
        of = {name: mean[name] * np.exp(rng.normal(0, sd, (GRIDS, n))) for name, sd in LOG_SD.items()}
        for name in ("top1", "top5"):
            of[name] = mean[name] + shared[model] + rng.normal(0, TOP1_SD[strategy], (GRIDS, n))
        for test in claim.tests:
            if test.quantity in ("hours", "memory_mib"):  # normal, as the test of a plain mean has it
                of[test.quantity] = mean[test.quantity] + rng.normal(0, single_sd(test, strategy), (GRIDS, n))
        of["tokens_removed"] = np.full((GRIDS, n), mean["tokens_removed"])
        grid[model, strategy] = Samples(tuple(range(n)), of)
    return grid


def rate(verdict: str, claim: Claim, depths: list[float], n: int) -> float:
    """Share of simulated grids in which the claim gets that verdict."""
    verdicts, _ = decide(claim, LEDGER, simulated(claim, depths, n))
    return float(np.mean(np.broadcast_to(verdicts, GRIDS) == verdict))


def worlds(claim: Claim, edge: float) -> dict[str, list[float]]:
    """The hardest true and false worlds, `edge` deviations from the border between them, and clear ones ten away.

    The hardest false one for a claim of every cell has one cell outside; for a claim of any cell all are outside.
    """
    if claim.trade_off:
        parts, deep = 3 * len(claim.trade_off.models) * len(claim.trade_off.rivals), 20.0
        only = [-edge] + [deep] * (parts - 1)
        return {"true": [edge] * parts, "false": only, "clearly true": [10.0] * parts, "clearly false": [-10.0] * parts}
    parts = sum(len(test.models) * len(test.strategies) for test in claim.tests)
    if claim.scope == "all":
        return {
            "true": [edge] * parts,
            "false": [-edge] + [20.0] * (parts - 1),
            "clearly true": [10.0] * parts,
            "clearly false": [-10.0] + [10.0] * (parts - 1),
        }
    return {
        "true": [edge] + [-20.0] * (parts - 1),
        "false": [-edge] * parts,
        "clearly true": [10.0] + [-10.0] * (parts - 1),
        "clearly false": [-10.0] * parts,
    }


@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize("n", [1, 3, 5])
def test_wrong_verdicts_are_rare(name, n):
    """On the border itself the level is met but for what 2,000 grids leave to chance (three standard errors)."""
    claim = SIMULATED[name]
    chance = 3 * math.sqrt(0.05 * 0.95 / GRIDS)
    for edge, allowed in ((1e-9, 0.05 + chance), (0.25, 0.05)):
        world = worlds(claim, edge)
        assert rate("reproduced", claim, world["false"], n) <= allowed
        assert rate("not reproduced", claim, world["true"], n) <= allowed


def test_a_trade_off_that_depends_on_the_weights_is_neither():
    """Rivals better in time and memory, upper in top-1 by next to nothing: nearly dominated, and yet not."""
    claim = TRADE_OFF
    for n in (3, 5):
        assert rate("not reproduced", claim, [0.25, -20.0, -20.0] * 6, n) <= 0.05
        assert rate("reproduced", claim, [20.0, -0.25, 20.0] * 6, n) <= 0.05
        assert rate("inconclusive", claim, [20.0, -20.0, -20.0] * 6, n) == 1


def test_power(capsys):
    """One seed decides nothing but what is not up to chance; with three, a clear truth is mostly seen; five, nearly
    always. The table is printed."""
    lines = [f"{'power over 2,000 grids':30} {'reproduced, n = 1, 3, 5':>26} {'not reproduced, n = 1, 3, 5':>29}"]
    for name, claim in SIMULATED.items():
        world = worlds(claim, 0)
        shown = [rate("reproduced", claim, world["clearly true"], n) for n in (1, 3, 5)]
        refuted = [rate("not reproduced", claim, world["clearly false"], n) for n in (1, 3, 5)]
        lines.append(
            f"{name:30} " + " ".join(f"{p:8.3f}" for p in shown) + "   " + " ".join(f"{p:8.3f}" for p in refuted)
        )
        if name == "equal-budgets":
            assert shown == refuted == [1, 1, 1]
            continue
        assert shown[0] == refuted[0] == 0, name
        assert shown[2] > 0.8, name
        assert refuted[2] > 0.6, name
        assert shown[2] >= shown[1], name
    with capsys.disabled():
        print("\n" + "\n".join(lines))
