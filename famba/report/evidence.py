"""The verdicts on the page: a claim's numbers, and each comparison that it is made of beside what was claimed."""

from collections.abc import Sequence
from typing import NamedTuple

from famba.claims.ledger import Ledger
from famba.claims.verdicts import Part, Verdict, Verdicts
from famba.results.statistics import MIN_INTERVAL
from famba.results.tables import DASH, csv_of, effect_size, in_images, in_unit, slug, words
from famba.text import model_name

SYMBOLS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "≈", "not tested": "○"}
PLOT_WIDTH = 180


class ForestPlot(NamedTuple):
    """Where the claim puts the mean (start and width of a band), the interval and the mean, all on one scale."""

    claimed: tuple[float, float]
    interval: tuple[float, float] | None
    mean: float


def unique(verdicts: Verdicts) -> list[Verdict]:
    """The verdicts, each with an id of its own: it names the recipe of a claim that was judged under several."""
    ids = [v.id for v in verdicts.verdicts]
    return [
        v if ids.count(v.id) == 1 else v.model_copy(update={"id": f"{v.id}-{slug(v.recipe)}"})
        for v in verdicts.verdicts
    ]


def counts(verdicts: Verdicts) -> list[tuple[str, str, int]]:
    """Symbol, verdict and number of claims, every verdict once."""
    names: list[str] = [v.verdict for v in verdicts.verdicts]
    return [(symbol, name, names.count(name)) for name, symbol in SYMBOLS.items()]


def as_csv(verdicts: Verdicts, ledger: Ledger) -> str:
    """The verdicts with exact numbers."""
    fields = ("recipe", "verdict", "n", "mean", "low", "high", "unit", "effect_size", "reason")
    lines = [[v.id, v.quote, ledger.sources[v.source], *(getattr(v, f) for f in fields)] for v in verdicts.verdicts]
    return csv_of([("claim", "quote", "source", *fields), *lines])


def turning(v: Verdict) -> Part | None:
    """The part on which the verdict turns, where it has numbers."""
    return next((p for p in v.parts if (p.mean, p.n, p.effect_size) == (v.mean, v.n, v.effect_size)), None)


def numbers(v: Verdict, images: int) -> list[tuple[str, str]]:
    """Name and value of the verdict's numbers, those that there are. `images`: of the test set."""
    there = [
        ("recipe", v.recipe if v.parts else None),
        ("mean", None if v.mean is None or v.unit is None else f"{in_unit(v.mean, v.unit)} {v.unit}"),
        ("test images", _of_images(v, images)),
        ("95 % interval", _interval(v) or _without(v)),
        ("n", None if v.n is None else str(v.n)),
        ("effect size", None if v.effect_size is None else effect_size(v.effect_size)),
    ]
    return [(name, value) for name, value in there if value is not None]


def _without(v: Verdict) -> str | None:
    """Why a mean over several seeds stands without its interval."""
    return f"none of n = {v.n}" if v.n is not None and 1 < v.n < MIN_INTERVAL else None


def _of_images(of: Verdict | Part, images: int) -> str | None:
    """How many test images a difference of accuracies is."""
    if of.mean is None or of.unit != "points":
        return None
    return f"{in_images(of.mean, images).removesuffix(' images')} of {images:,} images"


def _interval(of: Verdict | Part) -> str | None:
    if of.low is None or of.high is None or of.unit is None:
        return None
    return f"{in_unit(of.low, of.unit)} to {in_unit(of.high, of.unit)}"


def comparison(part: Part) -> str:
    """What a part compares."""
    against = f" against {part.against}" if part.against else ""
    return f"{model_name(part.model)}, {part.strategy}{against}: {words(part.quantity)}"


def measured(part: Part, images: int) -> str:
    """The mean with its unit and interval; of accuracies in images, too; of a trade-off, how often it is dominance."""
    if part.bootstrap is not None:
        return f"dominates in {part.bootstrap:.0%} of resamples"
    if part.mean is None or part.unit is None:
        return DASH
    mean, between = f"{in_unit(part.mean, part.unit)} {part.unit}", _interval(part)
    return ", ".join(filter(None, (f"{mean} ({between})" if between else mean, _of_images(part, images))))


def claimed(part: Part) -> str:
    """Where the claim puts the mean."""
    if part.expected is None or part.unit is None:
        return DASH
    unit = part.unit
    low, high = (None if end is None else in_unit(end, unit) for end in part.expected)
    if low is not None and high is not None:
        return f"{low} to {high} {unit}" if low != high else f"{low} {unit}"  # as printed: in rounding, too
    return f"above {low} {unit}" if low is not None else f"below {high} {unit}"


def plot(part: Part, parts: Sequence[Part]) -> ForestPlot | None:
    """A part drawn on a scale that it shares with those of `parts` that have its unit; None without numbers."""
    if part.mean is None or part.expected is None:
        return None
    alike = [other for other in parts if other.unit == part.unit]
    every = [end for p in alike for end in (p.mean, p.low, p.high, *(p.expected or ())) if end is not None]
    room = (max(every) - min(every)) * 0.12 or 1.0
    start, width = min(every) - room, max(every) - min(every) + 2 * room

    def x(value: float) -> float:
        return round((value - start) / width * PLOT_WIDTH, 1)

    low, high = part.expected
    left, right = 0.0 if low is None else x(low), PLOT_WIDTH if high is None else x(high)
    interval = None if part.low is None or part.high is None else (x(part.low), x(part.high))
    return ForestPlot((left, max(round(right - left, 1), 2)), interval, x(part.mean))


FILTERS = {
    "turning": turning, "numbers": numbers, "comparison": comparison, "measured": measured, "claimed": claimed,
    "plot": plot, "effect_size": effect_size,
}  # fmt: skip
