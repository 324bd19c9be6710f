"""The verdicts: every claim with its numbers, and each comparison that it is made of against what was claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from famba.claims.ledger import Ledger
from famba.claims.verdicts import Part, Verdict, Verdicts, by_reason
from famba.results.anchors import line_href
from famba.results.tables import DASH, csv_of, slug, words
from famba.text import model_name

SYMBOLS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "≈", "not tested": "○"}


@dataclass(frozen=True)
class ForestPlot:
    """Where the claim puts the mean (start and width of a band), the interval and the mean, all on one scale."""

    WIDTH: ClassVar[float] = 180

    claimed: tuple[float, float]
    interval: tuple[float, float] | None
    mean: float


@dataclass(frozen=True)
class Comparison:
    """One part of a claim as text, and drawn on a scale that it shares with the parts of the same unit."""

    what: str
    n: str
    href: str
    mean: str
    claimed: str
    effect: str
    p: str
    drawn: ForestPlot | None


@dataclass(frozen=True)
class Claim:
    """A claim as the page shows it. `id`: of this verdict, which names the recipe of a claim that was judged under
    several. `numbers`: name and value, those that there are."""

    id: str
    quote: str
    source: str
    verdict: str
    symbol: str
    reason: str
    interpretation: str | None
    numbers: Sequence[tuple[str, str]]
    parts: Sequence[Comparison]
    drawn: ForestPlot | None
    label: str


@dataclass(frozen=True)
class Group:
    """Claims that share their verdict and its reason, said once in `line`."""

    line: str
    verdict: str
    symbol: str
    claims: Sequence[Claim]


def claims(verdicts: Verdicts, ledger: Ledger) -> tuple[list[Claim], list[Group]]:
    """Claims with a reason of their own, and those that share one; both in the ledger's order."""
    ids = [v.id for v in verdicts.verdicts]
    unique = [
        v if ids.count(v.id) == 1 else v.model_copy(update={"id": f"{v.id}-{slug(v.recipe)}"})
        for v in verdicts.verdicts
    ]
    alone, shared = by_reason(unique)
    groups = []
    for group in shared:
        name = group.verdicts[0].verdict
        groups.append(Group(group.line, name, SYMBOLS[name], [_claim(v, ledger) for v in group.verdicts]))
    return [_claim(v, ledger) for v in alone], groups


def _claim(v: Verdict, ledger: Ledger) -> Claim:
    turning = next((p for p in v.parts if (p.mean, p.n, p.effect_size) == (v.mean, v.n, v.effect_size)), None)
    compared = [_comparison(part, v.parts) for part in v.parts]
    reason = v.reason[:1].upper() + v.reason[1:]
    label = f"{_bare(turning)}; claimed: {_claimed(turning)}" if turning and turning.expected else ""
    return Claim(
        v.id, v.quote, ledger.sources[v.source], v.verdict, SYMBOLS[v.verdict], reason, v.interpretation, _numbers(v),
        compared, _drawn(turning, [turning]) if turning else None, label,
    )  # fmt: skip


def counts(verdicts: Verdicts) -> list[tuple[str, str, int]]:
    """Symbol, verdict and number of claims, every verdict once."""
    names = [v.verdict for v in verdicts.verdicts]
    return [(symbol, name, names.count(name)) for name, symbol in SYMBOLS.items()]  # type: ignore[arg-type]


def as_csv(verdicts: Verdicts, ledger: Ledger) -> str:
    """The verdicts with exact numbers."""
    fields = ("recipe", "verdict", "n", "mean", "low", "high", "unit", "effect_size", "reason")
    lines = [[v.id, v.quote, ledger.sources[v.source], *(getattr(v, f) for f in fields)] for v in verdicts.verdicts]
    return csv_of([("claim", "quote", "source", *fields), *lines])


def _numbers(v: Verdict) -> list[tuple[str, str]]:
    unit = f" {v.unit}" if v.unit else ""
    there = [
        ("recipe", v.recipe if v.parts else None),
        ("mean", None if v.mean is None else f"{v.mean:.4g}{unit}"),
        ("95 % interval", _interval(v)),
        ("n", None if v.n is None else str(v.n)),
        ("effect size", None if v.effect_size is None else f"{v.effect_size:.2g}"),
    ]
    return [(name, value) for name, value in there if value is not None]


def _interval(of: Verdict | Part) -> str | None:
    return None if of.low is None or of.high is None else f"{of.low:.4g} to {of.high:.4g}"


def _comparison(part: Part, parts: Sequence[Part]) -> Comparison:
    share = "" if part.bootstrap is None else f"dominates in {part.bootstrap:.0%} of resamples"
    against = f" against {part.against}" if part.against else ""
    return Comparison(
        what=f"{model_name(part.model)}, {part.strategy}{against}: {words(part.quantity)}",
        n=str(part.n),
        href=line_href(part.model, part.strategy),
        mean=share or _bare(part),
        claimed=_claimed(part),
        effect=DASH if part.effect_size is None else f"{part.effect_size:.2g}",
        p=f"{part.p_inside:.2g} / {part.p_outside:.2g}",
        drawn=_drawn(part, [other for other in parts if other.unit == part.unit]),
    )


def _bare(part: Part) -> str:
    """The mean with its unit and interval."""
    if part.mean is None:
        return DASH
    mean, between = f"{part.mean:.4g} {part.unit}", _interval(part)
    return f"{mean} ({between})" if between else mean


def _claimed(part: Part) -> str:
    if part.expected is None:
        return DASH
    # an end that is just beyond a number, "above 0", is written as that number
    low, high = (None if end is None else round(end, 9) + 0.0 for end in part.expected)
    unit = f" {part.unit}"
    if low is not None and high is not None:
        return f"{low:.4g} to {high:.4g}{unit}" if low != high else f"{low:.4g}{unit}"
    return f"above {low:.4g}{unit}" if low is not None else f"below {high:.4g}{unit}"


def _drawn(part: Part, alike: Sequence[Part]) -> ForestPlot | None:
    if part.mean is None or part.expected is None:
        return None
    every = [end for p in alike for end in (p.mean, p.low, p.high, *(p.expected or ())) if end is not None]
    room = (max(every) - min(every)) * 0.12 or 1.0
    start, width = min(every) - room, max(every) - min(every) + 2 * room

    def x(value: float) -> float:
        return round((value - start) / width * ForestPlot.WIDTH, 1)

    low, high = part.expected
    left, right = 0.0 if low is None else x(low), ForestPlot.WIDTH if high is None else x(high)
    known = part.low is not None and part.high is not None
    interval = (x(part.low), x(part.high)) if known else None  # type: ignore[arg-type]
    return ForestPlot((left, max(round(right - left, 1), 2)), interval, x(part.mean))
