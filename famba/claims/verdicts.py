"""Verdicts on the claims, from real rows: which claims they may speak about, the decision, numbers and a reason."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from famba.claims.decide import Comparison, Grid, comparisons, decide, grid_of, needed, region, scaled, unscaled
from famba.claims.digest import digest
from famba.claims.entries import Claim
from famba.claims.ledger import Ledger
from famba.claims.noise import Noise
from famba.config.protocol import FREE_OF, deviation
from famba.config.validation import Strict
from famba.results.recipes import Difference, by_recipe, differences
from famba.results.row import Row, grouped
from famba.results.statistics import ALPHA, Evidence, dominates, interval, standard_deviation
from famba.results.tables import in_unit
from famba.text import count, model_name

VerdictName = Literal["reproduced", "not reproduced", "inconclusive", "not tested"]
_UNITS = {
    "top1": "%", "top5": "%", "top1_difference": "points", "hours": "h", "memory_mib": "MiB", "time_reduction": "%",
    "memory_reduction": "%", "activations_reduction": "%", "tokens_removed": "tokens",
}  # fmt: skip


class Part(Strict):
    """One of the comparisons that a claim is made of. The interval is Student's, 95 %, of the mean over seeds."""

    model: str
    strategy: str
    against: str | None
    quantity: str
    unit: str | None
    n: int
    mean: float | None
    low: float | None
    high: float | None
    effect_size: float | None  # (mean - published) / standard deviation of one seed
    expected: tuple[float | None, float | None] | None  # where the claim puts the mean, tolerance included
    p_inside: float
    p_outside: float
    bootstrap: float | None  # share of resampled seeds in which the strategy dominates


class Verdict(Strict):
    """A claim and what the rows of one recipe say about it. The numbers are those of the part on which the verdict
    turns. `recipe`: the preset of these rows, `custom` for a recipe that is none; see `SameRecipe.name`."""

    id: str
    recipe: str
    quote: str
    source: str
    interpretation: str | None
    verdict: VerdictName
    reason: str
    n: int | None
    mean: float | None
    low: float | None
    high: float | None
    unit: str | None
    effect_size: float | None
    parts: list[Part]


@dataclass(frozen=True)
class Shared:
    """Two or more verdicts of one kind and recipe for one reason."""

    verdicts: Sequence[Verdict]

    @property
    def line(self) -> str:
        """Such as `12 claims not tested: these are smoke rows`."""
        first = self.verdicts[0]
        recipe = "" if first.recipe == "custom" else f" (recipe {first.recipe})"
        return f"{count(len(self.verdicts), 'claim')} {first.verdict}{recipe}: {first.reason}"


def by_reason(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], list[Shared]]:
    """Verdicts with a reason of their own, and those that share one; both in the ledger's order."""
    groups = grouped(verdicts, lambda verdict: (verdict.verdict, verdict.recipe, verdict.reason)).values()
    return [group[0] for group in groups if len(group) == 1], [Shared(group) for group in groups if len(group) > 1]


class Verdicts(Strict):
    """claims.json."""

    version: Literal[1] = 1
    watermark: Literal["SMOKE"] | None
    digest: str  # of the rows and the ledger (`famba.claims.digest`)
    alpha: float
    accuracy: Literal["best", "last"]  # the epoch whose top-1 was judged
    verdicts: list[Verdict]
    recipes: list[Difference]  # of cells that were trained under two recipes
    noise: list[Noise]


def judge(ledger: Ledger, rows: Sequence[Row], noise: Sequence[Noise]) -> Verdicts:
    """A verdict for every claim and recipe, on rows that may stand side by side (`famba.results.summary.read_rows`).

    A claim is judged on each recipe that trained a model of its, on none of them together.
    """
    parts = [(part, grid_of(part.rows, ledger.accuracy)) for part in by_recipe(rows)]
    verdicts = []
    for claim in ledger.judged:
        about = [(part, grid) for part, grid in parts if _models(_named(claim, part.models)) & {m for m, _ in grid}]
        for part, grid in about or parts[:1]:
            verdicts.append(_judged(_named(claim, part.models), part.name, ledger, part.rows, grid))
    return Verdicts(
        watermark=rows[0].watermark,
        digest=digest(rows, ledger),
        alpha=ALPHA,
        accuracy=ledger.accuracy,
        verdicts=verdicts,
        recipes=differences(rows),
        noise=list(noise),
    )


def _judged(claim: Claim, recipe: str, ledger: Ledger, rows: Sequence[Row], grid: Grid) -> Verdict:
    if unfit := _not_testable(claim, ledger, rows, grid):
        return _verdict(claim, recipe, "not tested", unfit, [])
    decision, parts = decide(claim, ledger, grid)
    return _described(claim, recipe, ledger, str(decision), parts)


def _named(claim: Claim, models: Mapping[str, str]) -> Claim:
    """A claim with the experiment's names of its models. `models`: those names by the paper's."""

    def own(names: Sequence[str]) -> list[str]:
        return [models.get(name, name) for name in names]

    return claim.model_copy(
        update={
            "tests": tuple(test.model_copy(update={"models": own(test.models)}) for test in claim.tests),
            "trade_off": claim.trade_off and claim.trade_off.model_copy(update={"models": own(claim.trade_off.models)}),
        }
    )


def _models(claim: Claim) -> set[str]:
    models = {model for test in claim.tests for model in test.models}
    return models | set(claim.trade_off.models if claim.trade_off else [])


def _not_testable(claim: Claim, ledger: Ledger, rows: Sequence[Row], grid: Grid) -> str | None:
    """Why rows say nothing about a claim; None if they may. All rows of a grid agree in what is asked of the first."""
    row, needs = rows[0], claim.needs
    machine = f"{row.environment.world_size} × {row.environment.device}"
    models = _models(claim)
    departs = next(filter(None, (_departs(r, ledger) for r in rows if r.cell.model in models)), None)
    compared = list(comparisons(claim, grid))
    gpus = needs.gpus in (None, row.environment.world_size)
    images = row.cell.images_per_pass
    reasons = {
        "these are smoke rows: scaled-down models on other images are no evidence about the paper": row.watermark,
        f"needs the official {needs.dataset}; these rows are of {row.data.name}, {row.data.source}":
            row.cell.dataset != needs.dataset or not row.data.official,
        f"needs the protocol {' or '.join(needs.protocols)}; these rows follow {row.cell.protocol}":
            row.cell.protocol not in needs.protocols,
        f"these rows are not of the published settings: {departs}": departs,
        f"needs a {needs.device_kind} device; these rows are of {machine}":
            needs.device_kind not in (None, row.environment.device_kind),
        f"needs the published machine, {needs.gpus or 1} × {needs.device}; these rows are of {machine}":
            needs.device and not (needs.device in row.environment.device and gpus),
        f"needs {needs.images_per_gpu} images per GPU in a backward pass; these rows have {images}":
            needs.images_per_gpu not in (None, images),
        f"no rows of {', '.join(dict.fromkeys(map(_label, compared)))}":
            all(comparison.n == 0 for comparison in compared),
    }  # fmt: skip
    return next((reason for reason, unfit in reasons.items() if unfit), None)


def _departs(row: Row, ledger: Ledger) -> str | None:
    """The first setting of a row that is not the published one, of its protocol or of its line in a published table."""
    cell = row.cell
    published = ledger.schedules.get(cell.strategy) if cell.protocol in FREE_OF else None
    if published is not None and cell.schedule != published:
        return f"schedule of {cell.strategy} is {list(cell.schedule)}, the published {list(published)}"
    return deviation(cell)


def _described(
    claim: Claim, recipe: str, ledger: Ledger, verdict: str, judged: Sequence[tuple[Comparison, Evidence]]
) -> Verdict:
    """A verdict on real rows in numbers and words. The part it turns on: the weakest of every, the strongest of any."""
    parts = [_part(comparison, evidence, ledger) for comparison, evidence in judged]
    refutes = verdict == "not reproduced"
    key = [part.p_outside if refutes else part.p_inside for part in parts]
    weakest = (claim.scope == "all") != refutes
    turning = parts[key.index(max(key) if weakest else min(key))]
    few = [c for c, _ in judged if c.n < needed(c, claim)]
    p = turning.p_outside if refutes else turning.p_inside
    shown = f"p = {p:.2g}"
    if len(parts) > 1 and not weakest:  # one part was enough
        shown = f"p = {min(len(parts) * p, 1):.2g} after Holm"
    if verdict == "inconclusive" and few:
        short = min(few, key=lambda c: c.n)
        if short.n:  # in all its comparisons, mostly; without their names, claims of one experiment share the reason
            reason = f"n = {short.n}, needs {needed(short, claim)}: the spread over seeds is not known"
        else:
            reason = f"n = 0 for {_label(short)}, needs {needed(short, claim)}"
    elif claim.trade_off:
        reason = _trade_off_reason(verdict, turning, claim.scope, shown)
    else:
        reason = _reason(verdict, turning, len(parts), shown)
    return _verdict(claim, recipe, verdict, reason, parts, turning)


def _reason(verdict: str, part: Part, parts: int, p: str) -> str:
    assert part.mean is not None
    which = f"{model_name(part.model)} {part.strategy}" + (f" against {part.against}" if part.against else "")
    where = {"reproduced": "lies", "not reproduced": "does not lie", "inconclusive": "may or may not lie"}[verdict]
    shown = f"{which}: mean {_number(part.mean, part.unit)} {where} {_bounds(part)}"
    tested = "does not" if verdict == "not reproduced" else "does"
    decisive = f"; the decisive one of {parts} parts" if parts > 1 else ""
    return f"{shown} (test that it {tested}: {p}{decisive})"


def _trade_off_reason(verdict: str, part: Part, scope: str, p: str) -> str:
    which = f"{model_name(part.model)}: {part.strategy}"
    if verdict == "reproduced":
        every = "every rival, " if scope == "all" else ""
        return f"{which} dominates {every}{part.against}{' the least surely' if every else ''} (test that it does: {p})"
    if verdict == "not reproduced":
        return f"{which} is dominated by {part.against} (test that it is: {p})"
    return f"{which} and {part.against}: neither is shown to dominate, so which is better depends on the weights"


def _part(comparison: Comparison, evidence: Evidence, ledger: Ledger) -> Part:
    test, values = comparison.test, comparison.values
    numbers: dict[str, float | None] = dict.fromkeys(("mean", "low", "high", "effect_size"))
    expected = share = None
    if comparison.advantages is not None and comparison.n > 1:
        share = float(dominates(comparison.advantages)[1])
    if test is not None and values is not None:
        claimed, mean = region(test, ledger), float(values.mean())
        step = float(comparison.step)  # an array of trade-offs only, which have no test
        half = interval(values.tolist(), step)
        sd = float(standard_deviation(values, step)) if comparison.n > 1 else 0.0
        low, high = (scaled(test.quantity, end) for end in ledger.reference(test))
        numbers = {
            "mean": unscaled(test.quantity, mean),
            "low": None if half is None else unscaled(test.quantity, mean - half),
            "high": None if half is None else unscaled(test.quantity, mean + half),
            "effect_size": (mean - (low + high) / 2) / sd if sd else None,
        }
        ends = claimed.low - claimed.noise * sd, claimed.high + claimed.noise * sd
        # rounded: a strict end is the next number there is, and would read 5e-324 where the claim says 0
        lower, upper = (round(unscaled(test.quantity, end), 9) + 0.0 if math.isfinite(end) else None for end in ends)
        expected = (lower, upper)
    return Part(
        model=comparison.model,
        strategy=comparison.strategy,
        against=comparison.against,
        quantity=test.quantity if test else "dominance",
        unit=_UNITS[test.quantity] if test else None,
        n=comparison.n,
        **numbers,
        expected=expected,
        p_inside=float(evidence.p_inside),
        p_outside=float(evidence.p_outside),
        bootstrap=share,
    )


def _verdict(
    claim: Claim, recipe: str, verdict: str, reason: str, parts: list[Part], turning: Part | None = None
) -> Verdict:
    numbers = {"n", "mean", "low", "high", "unit", "effect_size"}
    said = claim.model_dump(include={"id", "quote", "source", "interpretation"})
    found = turning.model_dump(include=numbers) if turning else dict.fromkeys(numbers)
    judged = {"recipe": recipe, "verdict": verdict, "reason": reason, "parts": parts}
    return Verdict.model_validate({**said, **found, **judged})


def _label(comparison: Comparison) -> str:
    against = f" and {comparison.against}" if comparison.against else ""
    return f"{model_name(comparison.model)} {comparison.strategy}{against}"


def _bounds(part: Part) -> str:
    assert part.expected is not None
    low, high = (None if end is None else _number(end, part.unit) for end in part.expected)
    if low is not None and high is not None:
        return f"between {low} and {high}" if low != high else f"at {low}"  # as printed: in rounding, too
    return f"above {low}" if low is not None else f"below {high}"


def _number(value: float, unit: str | None) -> str:
    assert unit is not None
    return f"{in_unit(value, unit)} {unit}"
