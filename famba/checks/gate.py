"""The regression gate: rows of today against a frozen baseline, one line per thing compared.

Accuracy, of every cell and of its difference to the unfused model: worse by a one-sided Welch test at 1 %, with Holm's
correction for all of them, and by more than one standard deviation of a seed. The spread over seeds is pooled over the
strategies of a model. A single seed has no spread: then the frozen spread is used for both (a prediction interval).
Time (on a CPU: CPU time), as a ratio to the same run's baseline, epoch by epoch: larger by a Mann-Whitney test at 1 %
(Holm) and by more than the margin. Tokens, saved activations and the learning rate of each epoch are deterministic and
are compared exactly.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from famba.checks.baseline import Frozen, FrozenCell, time_ratios
from famba.results.epochs import read_epochs
from famba.results.row import Row, grouped
from famba.results.statistics import Spread, holm, mann_whitney_greater, pooled_spread, welch_less
from famba.text import count

ALPHA = 0.01
TIME_MARGIN = 0.10  # CPU times of two trainings minutes apart differ by as much: clock, caches, hyperthreads
_LR_DIGITS = 1e-4  # epochs.csv has six digits


@dataclass(frozen=True)
class GateLine:
    """One comparison. `p` is adjusted for all comparisons of its kind; `better` passes, and asks for a new baseline."""

    check: str
    cell: str
    frozen: str
    now: str
    verdict: Literal["ok", "better", "regression"]
    p: float | None = None
    limit: str = "exact"


@dataclass(frozen=True)
class _Tested:
    """A line whose p-value still awaits its correction: a regression if that is small and it is beyond the margin."""

    line: GateLine
    beyond: bool


def check(rows: Mapping[Path, Row], frozen: Frozen, time_margin: float = TIME_MARGIN) -> list[GateLine]:
    """All comparisons, cell by cell within each kind; a frozen cell without a row is a regression, too."""
    now = grouped(rows, lambda path: rows[path].cell.line)
    missing: list[GateLine] = []
    exact: list[GateLine] = []
    accuracy: list[_Tested] = []
    times: list[_Tested] = []
    for key, cell in frozen.by_cell.items():
        if key not in now:
            missing.append(GateLine("present", cell.name, count(len(cell.seeds), "seed"), "no row", "regression"))
            continue
        exact += _exact(cell, frozen, {path: rows[path] for path in now[key]})
        accuracy += _accuracy(cell, frozen, rows, now)
        ratios = [ratio for path in now[key] for ratio in time_ratios(path, rows)]
        if cell.strategy != "baseline" and ratios and any(cell.time_ratios):
            times.append(_time(cell, ratios, time_margin))
    return [*missing, *exact, *_corrected(accuracy), *_corrected(times)]


def _exact(cell: FrozenCell, frozen: Frozen, rows: Mapping[Path, Row]) -> Iterator[GateLine]:
    """Tokens, saved activations and learning rates: the worst of the rows."""
    name = cell.name
    tokens = next((r.tokens.measured for r in rows.values() if r.tokens.measured != cell.tokens), cell.tokens)
    yield GateLine("tokens", name, _chain(cell.tokens), _chain(tokens), "ok" if tokens == cell.tokens else "regression")
    saved = max(row.memory.saved_activations for row in rows.values())
    verdict: Literal["ok", "better", "regression"] = "regression" if saved > cell.saved_activations else "ok"
    if saved < cell.saved_activations:
        verdict = "better"
    yield GateLine("saved activations (bytes/image)", name, f"{cell.saved_activations:,}", f"{saved:,}", verdict)
    curves = ([epoch["lr"] for epoch in read_epochs(path.with_name("epochs.csv"))] for path in rows)
    then = cell.learning_rates or frozen.learning_rates
    wrong = next((rates for rates in curves if not _same(rates, then)), None)
    yield GateLine("learning rate", name, _peak(then), _peak(wrong or then), "regression" if wrong else "ok")


def _same(rates: Sequence[float], then: Sequence[float]) -> bool:
    return len(rates) == len(then) and np.allclose(rates, then, rtol=_LR_DIGITS, atol=0)


def _peak(rates: Sequence[float]) -> str:
    return f"peak {max(rates):.4g}, mean {statistics.fmean(rates):.4g}"


def _accuracy(
    cell: FrozenCell, frozen: Frozen, rows: Mapping[Path, Row], now: Mapping[tuple[str, str], Sequence[Path]]
) -> Iterator[_Tested]:
    """Top-1 of a cell, and its difference to the unfused model by seed."""
    top1 = {
        strategy: {rows[path].cell.seed: rows[path].metrics.last.top1 for path in paths}
        for (model, strategy), paths in now.items()
        if model == cell.model
    }
    then = {
        other.strategy: dict(zip(other.seeds, other.top1, strict=True))
        for other in frozen.cells
        if other.model == cell.model
    }
    of_now, of_then = (pooled_spread([list(seeds.values()) for seeds in cells.values()]) for cells in (top1, then))

    def tested(check: str, ours: Sequence[float], theirs: Sequence[float], scale: float) -> _Tested:
        p = welch_less(ours, theirs, *(Spread(scale * sd, df) for sd, df in (of_now, of_then)))
        margin = scale * of_then.sd
        line = GateLine(check, cell.name, _mean(theirs), _mean(ours), "ok", p, f"-{margin:.2f}")
        return _Tested(line, statistics.fmean(theirs) - statistics.fmean(ours) > margin)

    yield tested("top-1 (%)", list(top1[cell.strategy].values()), cell.top1, 1)
    if cell.strategy != "baseline" and "baseline" in top1:
        differences, frozen_differences = (
            [
                value - cells["baseline"][seed]
                for seed, value in cells[cell.strategy].items()
                if seed in cells["baseline"]
            ]
            for cells in (top1, then)
        )
        if differences:
            # two independent trainings scatter by the root of two more; what a seed does to both makes it less
            yield tested("top-1 less baseline's (points)", differences, frozen_differences, math.sqrt(2))


def _time(cell: FrozenCell, ratios: Sequence[float], margin: float) -> _Tested:
    """Time ratio to the baseline, epoch by epoch. A frozen seed that strayed further than the margin widens it."""
    then = [ratio for seed in cell.time_ratios for ratio in seed]
    median, known = statistics.median(ratios), statistics.median(then)
    strayed = max(statistics.median(seed) / known - 1 for seed in cell.time_ratios)
    margin = max(margin, strayed)
    line = GateLine(
        "time ratio", cell.name, f"{known:.3f}", f"{median:.3f}", "ok", mann_whitney_greater(ratios, then),
        f"+{100 * margin:.0f} %",
    )  # fmt: skip
    return _Tested(line, median > known * (1 + margin))


def _corrected(tested: Sequence[_Tested]) -> list[GateLine]:
    if not tested:
        return []
    adjusted = holm(np.array([one.line.p for one in tested], dtype=float))
    return [
        replace(one.line, p=float(p), verdict="regression" if p < ALPHA and one.beyond else "ok")
        for one, p in zip(tested, adjusted, strict=True)
    ]


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f} (n = {len(values)})"


def _chain(tokens: Sequence[float]) -> str:
    """Tokens over the layers, each run of equal ones once."""
    return " ".join(f"{t:g}" for i, t in enumerate(tokens) if i == 0 or t != tokens[i - 1])
