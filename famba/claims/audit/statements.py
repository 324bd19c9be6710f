"""The paper's statements about its results, each compared with the paper's own tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from famba.claims.audit.readings import Reading, Training, schedule, tokens_removed, trainings
from famba.claims.published import PublishedRow
from famba.text import model_name

CROSS_LAYER = ("interleaved", "lower", "upper")
MODELS = ("vim_tiny", "vim_small")
MUCH = 5.0  # points of top-1: "much" has no number in the paper
SAME_BUDGET = 0.05  # of the largest budget: "about the same" has no number in the paper
Table1 = Mapping[tuple[str, str], PublishedRow]


@dataclass(frozen=True)
class Comparison:
    """One comparison of published numbers, and whether it comes out as the statement says."""

    holds: bool
    text: str


@dataclass(frozen=True)
class Claim:
    """A statement, in words of this project, and what the tables say of it.

    where: place in the paper. interpretation: how its words became comparisons. remarks: what else the same rows show.
    A statement of this project (`claimed` False) has no comparisons and is neither borne out nor refuted.
    """

    id: str
    statement: str
    where: str
    interpretation: str
    comparisons: Sequence[Comparison]
    remarks: Sequence[str] = ()
    claimed: bool = True

    @property
    def borne_out(self) -> bool | None:
        """Whether every comparison holds; None where the paper makes no such claim."""
        return all(one.holds for one in self.comparisons) if self.claimed else None

    @property
    def exceptions(self) -> list[str]:
        """The comparisons that come out otherwise."""
        return [one.text for one in self.comparisons if not one.holds]


def claims(rows: Sequence[PublishedRow]) -> list[Claim]:
    """Claims a to h of the paper and observation i. The rows hold all three tables of the paper."""
    table1 = {(row.model, row.strategy): row for row in rows if row.table == 1}
    studies = {n: [row for row in rows if row.table == n] for n in (2, 3)}
    return [
        _all_save(table1),
        _all_layer_loses(table1),
        _lower_extreme(table1),
        _upper_accurate(table1),
        _trade_off(table1),
        _budgets(table1, studies[2]),
        _sixth_layer(studies[2]),
        _more_tokens(studies[3], table1["vim_tiny", "baseline"]),
        _above_unfused(trainings(rows, "vim_tiny"), studies[3], table1["vim_tiny", "baseline"]),
    ]


def hms(seconds: float) -> str:
    """h:mm:ss, as the paper prints times."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


_SHOWN: Mapping[str, Callable[[PublishedRow], str]] = {
    "top1": lambda row: f"top-1 {row.top1:.1f} %",
    "top5": lambda row: f"top-5 {row.top5:.1f} %",
    "time_s": lambda row: hms(row.time_s),
    "memory_mib": lambda row: f"{row.memory_mib} MiB",
}


def _name(row: PublishedRow) -> str:
    if row.table == 1:
        return f"{model_name(row.model)} {'no fusion' if row.strategy == 'baseline' else row.strategy}"
    return f"layer {row.start}" if row.table == 2 else f"{row.r} per layer"


def _below(quantity: str, low: PublishedRow, high: PublishedRow) -> Comparison:
    """`low` has the smaller number of the two."""
    shown = _SHOWN[quantity]
    first, second = getattr(low, quantity), getattr(high, quantity)
    sign = "<" if first < second else ">" if first > second else "="
    return Comparison(first < second, f"{_name(low)} {shown(low)} {sign} {_name(high)} {shown(high)}")


def _pairs(table1: Table1, low: str, high: str, quantities: Iterable[str]) -> list[Comparison]:
    return [_below(q, table1[model, low], table1[model, high]) for model in MODELS for q in quantities]


def _all_save(table1: Table1) -> Claim:
    found = [one for name in CROSS_LAYER for one in _pairs(table1, name, "baseline", ("time_s", "memory_mib"))]
    return Claim(
        "a",
        "All three cross-layer strategies save training time and memory.",
        "p. 7, observation 1",
        "each strategy below the model without fusion, in time and in memory, for both models",
        found,
    )


def _all_layer_loses(table1: Table1) -> Claim:
    found = []
    for model in MODELS:
        lost = table1[model, "baseline"].top1 - table1[model, "all"].top1
        found.append(Comparison(lost >= MUCH, f"{model_name(model)}: {-lost:+.1f} points of top-1"))
    return Claim(
        "b",
        "Fusing in all layers loses much accuracy.",
        "observation 2",
        f"at least {MUCH:g} points of top-1 below no fusion, for both models; the paper gives no number",
        found,
        ["By how much: " + "; ".join(one.text for one in found) + "."],
    )


def _lower_extreme(table1: Table1) -> Claim:
    found = [
        one
        for other in ("interleaved", "upper")
        for one in _pairs(table1, "lower", other, ("top1", "time_s", "memory_mib"))
    ]
    margins = []
    for model in MODELS:
        ours, every = table1[model, "lower"], table1[model, "all"]
        margins.append(
            f"{model_name(model)}: top-1 {ours.top1 - every.top1:+.1f}, top-5 {ours.top5 - every.top5:+.1f} points"
        )
    return Claim(
        "c",
        "Of the three cross-layer strategies, lower is the least accurate and saves the most.",
        "observation 3",
        "lower below interleaved and upper in top-1, time and memory, for both models",
        found,
        ["Lower compared with all-layer fusion: " + "; ".join(margins) + "."],
    )


def _upper_accurate(table1: Table1) -> Claim:
    found = [one for other in ("interleaved", "lower") for one in _pairs(table1, other, "upper", ("top1",))]
    return Claim(
        "d",
        "Of the three cross-layer strategies, upper preserves accuracy best.",
        "observation 4",
        "upper above interleaved and lower in top-1, for both models",
        found,
    )


def _trade_off(table1: Table1) -> Claim:
    found = [one for name in CROSS_LAYER for one in _pairs(table1, "all", name, ("top1",))]
    remarks = []
    for name in CROSS_LAYER:
        cheaper = all(one.holds for one in _pairs(table1, name, "all", ("time_s", "memory_mib")))
        gains = ", ".join(f"{table1[m, name].top1 - table1[m, 'all'].top1:+.1f}" for m in MODELS)
        cost = "with less time and memory" if cheaper else "at a higher cost in time or memory"
        remarks.append(f"{name}: {gains} points (Vim-Ti, Vim-S) over all-layer fusion, {cost}.")
    return Claim(
        "e",
        "Cross-layer strategies trade accuracy for cost better than fusion in all layers.",
        "about Table 1",
        "each strategy above all-layer fusion in top-1, for both models",
        found,
        remarks,
    )


def _budgets(table1: Table1, study: Sequence[PublishedRow]) -> Claim:
    told = Reading()  # as the text has it: lower fuses in 19 layers
    removed = {name: tokens_removed(schedule(table1["vim_tiny", name], told)) for name in ("all", *CROSS_LAYER)}
    most = max(removed.values())
    found = [
        Comparison(n >= (1 - SAME_BUDGET) * most, f"{name}: {n} of 196 tokens removed") for name, n in removed.items()
    ]
    budgets = [tokens_removed(schedule(row, told)) for row in study]
    return Claim(
        "f",
        "All strategies remove about the same number of tokens.",
        "section 4.1",
        f"in Table 1, each within {SAME_BUDGET:.0%} of the largest; the paper gives no tolerance",
        found,
        [f"Table 1: {', '.join(map(str, removed.values()))}. Table 2: {min(budgets)} to {max(budgets)}."],
    )


def _sixth_layer(study: Sequence[PublishedRow]) -> Claim:
    sixth = next(row for row in study if row.start == 6)
    found = [_below(q, sixth, row) for q in ("time_s", "memory_mib") for row in study if row is not sixth]
    both = [r for r in study if r.time_s < sixth.time_s and r.memory_mib < sixth.memory_mib]
    least = min(study, key=lambda row: row.time_s)
    remarks = [
        f"The shortest time is {sixth.time_s - least.time_s} s below layer 6's. Less of both: "
        + (", ".join(map(_name, both)) if both else "no row")
        + ", so that the statement holds if one quantity may be traded for the other."
    ]
    return Claim(
        "g",
        "Efficiency is highest when fusion starts at the 6th layer.",
        "section 4.2",
        "the strictest: no other row of Table 2 has less time or less memory",
        found,
        remarks,
    )


def _more_tokens(study: Sequence[PublishedRow], unfused: PublishedRow) -> Claim:
    ordered = sorted(study, key=lambda row: row.r or 0)
    steps = list(pairwise(ordered))
    found = [_below(q, more, fewer) for q in ("time_s", "memory_mib") for fewer, more in steps]
    slope = _line(ordered)[0]
    found.append(Comparison(slope < 0, f"top-1 changes by {slope:+.2f} points with each further token per layer"))
    slower = [str(row.r) for row in ordered if row.time_s > unfused.time_s]
    larger = [str(row.r) for row in ordered if row.memory_mib > unfused.memory_mib]
    remarks = []
    if slower:
        remarks.append(f"More time than without fusion ({hms(unfused.time_s)}): {', '.join(slower)} tokens per layer.")
    if larger:
        remarks.append(
            f"More memory than without fusion ({unfused.memory_mib} MiB): {', '.join(larger)} tokens per layer."
        )
    return Claim(
        "h",
        "The more tokens each layer fuses, the less time and memory; accuracy tends to fall.",
        "section 4.3",
        "time and memory fall at every step of Table 3; a line through its top-1 falls",
        found,
        remarks,
    )


def _above_unfused(found: Sequence[Training], study: Sequence[PublishedRow], unfused: PublishedRow) -> Claim:
    upper = [one for one in found if one.row.strategy == "upper"]
    above = [one for one in upper if one.row.top1 > unfused.top1]
    remarks = [f"{len(above)} of Vim-Ti's {len(upper)} distinct upper settings are above {unfused.top1:.1f} % top-1."]
    if above:
        best = max(above, key=lambda one: one.row.top1)
        gain = best.row.top1 - unfused.top1
        remarks.append(f"The largest difference is {gain:+.1f} points: {best.name}, {best.row.top1:.1f} %.")
    meets = _line(study)[1]
    remarks.append(
        f"A line through Table 3 meets 0 tokens per layer at {meets:.1f} %, no fusion is {unfused.top1:.1f} %."
    )
    return Claim(
        "i",
        "How Vim-Ti with upper fusion compares with Vim-Ti without fusion in top-1.",
        "Tables 2 and 3",
        "not a claim of the paper: an observation, which only further seeds can explain",
        [],
        remarks,
        claimed=False,
    )


def _line(study: Sequence[PublishedRow]) -> tuple[float, float]:
    """Slope and value at zero of top-1 against tokens per layer."""
    slope, zero = np.polyfit([row.r or 0 for row in study], [row.top1 for row in study], 1)
    return float(slope), float(zero)
