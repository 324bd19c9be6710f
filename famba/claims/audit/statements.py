"""The paper's statements about its results, each compared with the paper's own tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from famba.claims.audit.readings import AS_PRINTED, schedule, tokens_removed, trainings
from famba.claims.published import PublishedRow
from famba.config.validation import Strict
from famba.text import model_name

CROSS_LAYER = ("interleaved", "lower", "upper")
MODELS = ("vim_tiny", "vim_small")
MUCH = 5.0  # points of top-1: "much" has no number in the paper
SAME_BUDGET = 0.05  # of the largest budget: "about the same" has no number in the paper
Table1 = Mapping[tuple[str, str], PublishedRow]


class Statement(Strict):
    """A statement of the paper, in words of this project, compared with the paper's tables.

    where: place in the paper. interpretation: how its words became comparisons. borne_out: whether every comparison
    comes out so; null where the paper makes no claim. exceptions: those that come out otherwise. remarks: what else the
    same rows show.
    """

    id: str
    statement: str
    where: str
    interpretation: str
    borne_out: bool | None
    exceptions: list[str]
    remarks: list[str]


class Check(NamedTuple):
    """One comparison of published numbers: whether it comes out as the statement says, and its text."""

    holds: bool
    text: str


Compared = tuple[list[Check], list[str]]  # and remarks
# by letter: the statement, its place in the paper, its interpretation
_TEXTS = {
    "a": (
        "All three cross-layer strategies save training time and memory.",
        "p. 7, observation 1",
        "each strategy below the model without fusion, in time and in memory, for both models",
    ),
    "b": (
        "Fusing in all layers loses much accuracy.",
        "observation 2",
        f"at least {MUCH:g} points of top-1 below no fusion, for both models; the paper gives no number",
    ),
    "c": (
        "Of the three cross-layer strategies, lower is the least accurate and saves the most.",
        "observation 3",
        "lower below interleaved and upper in top-1, time and memory, for both models",
    ),
    "d": (
        "Of the three cross-layer strategies, upper preserves accuracy best.",
        "observation 4",
        "upper above interleaved and lower in top-1, for both models",
    ),
    "e": (
        "Cross-layer strategies trade accuracy for cost better than fusion in all layers.",
        "about Table 1",
        "each strategy above all-layer fusion in top-1, for both models",
    ),
    "f": (
        "All strategies remove about the same number of tokens.",
        "section 4.1",
        f"in Table 1, each within {SAME_BUDGET:.0%} of the largest; the paper gives no tolerance",
    ),
    "g": (
        "Efficiency is highest when fusion starts at the 6th layer.",
        "section 4.2",
        "the strictest reading: no other row of Table 2 has less time or less memory",
    ),
    "h": (
        "The more tokens each layer fuses, the less time and memory; accuracy tends to fall.",
        "section 4.3",
        "time and memory fall at every step of Table 3; a line through its top-1 falls",
    ),
    "i": (
        "How Vim-Ti with upper fusion compares with Vim-Ti without fusion in top-1.",
        "Tables 2 and 3",
        "not a claim of the paper: an observation, which only further seeds can explain",
    ),
}


def statements(rows: Sequence[PublishedRow]) -> list[Statement]:
    """Claims a to h of the paper and observation i. The rows hold all three tables of the paper."""
    table1 = {(row.model, row.strategy): row for row in rows if row.table == 1}
    starts, tokens = ([row for row in rows if row.table == n] for n in (2, 3))
    unfused, cost = table1["vim_tiny", "baseline"], ("time_s", "memory_mib")
    found: dict[str, Compared] = {
        "a": ([check for name in CROSS_LAYER for check in _both(table1, name, "baseline", cost)], []),
        "b": _all_layers(table1),
        "c": _lower(table1),
        "d": ([check for name in ("interleaved", "lower") for check in _both(table1, name, "upper", ("top1",))], []),
        "e": _trade_off(table1),
        "f": _budgets(table1, starts),
        "g": _sixth_layer(starts),
        "h": _more_tokens(tokens, unfused),
        "i": ([], _above_unfused(rows, tokens, unfused)),
    }
    return [
        Statement(
            id=letter,
            statement=text,
            where=where,
            interpretation=interpretation,
            borne_out=all(check.holds for check in found[letter][0]) if found[letter][0] else None,
            exceptions=[check.text for check in found[letter][0] if not check.holds],
            remarks=found[letter][1],
        )
        for letter, (text, where, interpretation) in _TEXTS.items()
    ]


_SHOWN: Mapping[str, Callable[[PublishedRow], str]] = {
    "top1": lambda row: f"top-1 {row.top1:.1f} %",
    "time_s": lambda row: row.time,
    "memory_mib": lambda row: f"{row.memory_mib} MiB",
}


def _name(row: PublishedRow) -> str:
    if row.table == 1:
        return f"{model_name(row.model)} {'no fusion' if row.strategy == 'baseline' else row.strategy}"
    return f"layer {row.start}" if row.table == 2 else f"{row.r} per layer"


def _below(quantity: str, low: PublishedRow, high: PublishedRow) -> Check:
    """`low` has the smaller number of the two."""
    shown = _SHOWN[quantity]
    first, second = getattr(low, quantity), getattr(high, quantity)
    sign = "<" if first < second else ">" if first > second else "="
    return Check(first < second, f"{_name(low)} {shown(low)} {sign} {_name(high)} {shown(high)}")


def _both(table1: Table1, low: str, high: str, quantities: Iterable[str]) -> list[Check]:
    """Of both models."""
    return [_below(q, table1[model, low], table1[model, high]) for model in MODELS for q in quantities]


def _all_layers(table1: Table1) -> Compared:
    checks = []
    for model in MODELS:
        lost = table1[model, "baseline"].top1 - table1[model, "all"].top1
        checks.append(Check(lost >= MUCH, f"{model_name(model)}: {-lost:+.1f} points of top-1"))
    return checks, ["By how much: " + "; ".join(check.text for check in checks) + "."]


def _lower(table1: Table1) -> Compared:
    quantities = ("top1", "time_s", "memory_mib")
    margins = []
    for model in MODELS:
        ours, every = table1[model, "lower"], table1[model, "all"]
        margins.append(
            f"{model_name(model)}: top-1 {ours.top1 - every.top1:+.1f}, top-5 {ours.top5 - every.top5:+.1f} points"
        )
    return (
        [check for other in ("interleaved", "upper") for check in _both(table1, "lower", other, quantities)],
        ["Lower compared with all-layer fusion: " + "; ".join(margins) + "."],
    )


def _trade_off(table1: Table1) -> Compared:
    remarks = []
    for name in CROSS_LAYER:
        cheaper = all(check.holds for check in _both(table1, name, "all", ("time_s", "memory_mib")))
        gains = ", ".join(f"{table1[m, name].top1 - table1[m, 'all'].top1:+.1f}" for m in MODELS)
        cost = "with less time and memory" if cheaper else "at a higher cost in time or memory"
        remarks.append(f"{name}: {gains} points (Vim-Ti, Vim-S) over all-layer fusion, {cost}.")
    return [check for name in CROSS_LAYER for check in _both(table1, "all", name, ("top1",))], remarks


def _budgets(table1: Table1, study: Sequence[PublishedRow]) -> Compared:
    removed = {name: tokens_removed(schedule(table1["vim_tiny", name], AS_PRINTED)) for name in ("all", *CROSS_LAYER)}
    least = (1 - SAME_BUDGET) * max(removed.values())
    budgets = [tokens_removed(schedule(row, AS_PRINTED)) for row in study]
    return (
        [Check(n >= least, f"{name}: {n} of 196 tokens removed") for name, n in removed.items()],
        [f"Table 1: {', '.join(map(str, removed.values()))}. Table 2: {min(budgets)} to {max(budgets)}."],
    )


def _sixth_layer(study: Sequence[PublishedRow]) -> Compared:
    sixth = next(row for row in study if row.start == 6)
    both = [r for r in study if r.time_s < sixth.time_s and r.memory_mib < sixth.memory_mib]
    least = min(study, key=lambda row: row.time_s)
    remark = f"The shortest time is {sixth.time_s - least.time_s} s below layer 6's. " + (
        f"Less of both: {', '.join(map(_name, both))}."
        if both
        else "No row has less of both, so the statement holds if one quantity may be traded for the other."
    )
    return [_below(q, sixth, row) for q in ("time_s", "memory_mib") for row in study if row is not sixth], [remark]


def _more_tokens(study: Sequence[PublishedRow], unfused: PublishedRow) -> Compared:
    ordered = sorted(study, key=lambda row: row.r or 0)
    checks = [_below(q, more, fewer) for q in ("time_s", "memory_mib") for fewer, more in pairwise(ordered)]
    slope = _line(ordered)[0]
    checks.append(Check(slope < 0, f"top-1 changes by {slope:+.2f} points with each further token per layer"))
    remarks = []
    for quantity, what in (("time_s", "time"), ("memory_mib", "memory")):
        worse = [str(row.r) for row in ordered if getattr(row, quantity) > getattr(unfused, quantity)]
        if worse:
            shown = _SHOWN[quantity](unfused)
            remarks.append(f"More {what} than without fusion ({shown}): {', '.join(worse)} tokens per layer.")
    return checks, remarks


def _above_unfused(rows: Sequence[PublishedRow], study: Sequence[PublishedRow], unfused: PublishedRow) -> list[str]:
    upper = [one for one in trainings(rows, "vim_tiny") if one.row.strategy == "upper"]
    above = [one for one in upper if one.row.top1 > unfused.top1]
    remarks = [f"{len(above)} of Vim-Ti's {len(upper)} distinct upper settings are above {unfused.top1:.1f} % top-1."]
    if above:
        best = max(above, key=lambda one: one.row.top1)
        gain = best.row.top1 - unfused.top1
        remarks.append(f"The largest difference is {gain:+.1f} points: {best.name}, {best.row.top1:.1f} %.")
    meets = _line(study)[1]
    line = f"A line through Table 3 meets 0 tokens per layer at {meets:.1f} %, no fusion is {unfused.top1:.1f} %."
    return [*remarks, line]


def _line(study: Sequence[PublishedRow]) -> tuple[float, float]:
    """Slope and value at zero of top-1 against tokens per layer."""
    slope, zero = np.polyfit([row.r or 0 for row in study], [row.top1 for row in study], 1)
    return float(slope), float(zero)
