"""The noise floor: how far results scatter when nothing but the seed differs, and when not even the seed does."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from famba.config.validation import Strict
from famba.errors import InputError
from famba.results.row import Row, by_line, grouped, read_row, rows_of
from famba.results.statistics import pooled_spread
from famba.results.summary import must_agree

QUANTITIES: dict[str, Callable[[Row], float]] = {
    "top1_last_points": lambda row: row.metrics.last.top1,
    "top1_best_points": lambda row: row.metrics.best.top1,
    # of logarithms, times 100: per cent of the value
    "loop_time_percent": lambda row: 100 * math.log(row.time.judged_seconds),
    "step_time_percent": lambda row: 100 * math.log(row.time.compared_step_ms),
    "peak_memory_percent": lambda row: 100 * math.log(row.memory.peak),
}


class Scatter(Strict):
    """Standard deviation of one training and the degrees of freedom it is known with; null without two trainings."""

    sd: float | None
    df: int


class Noise(Strict):
    """Of one model and quantity: between seeds, pooled over strategies, and between repeats of the same seed."""

    model: str
    quantity: str
    seeds: Scatter
    repeats: Scatter


def noise_floor(rows: Sequence[Row], repeats: Sequence[Row] = ()) -> list[Noise]:
    """Spread of each quantity for each model; `repeats` are further runs of cells that are among the rows."""
    floor = []
    for model, own in grouped(rows, lambda row: row.cell.model).items():
        again = [row for row in repeats if row.cell.model == model]
        lines, cells = by_line(own).values(), grouped([*own, *again], lambda row: row.id).values()
        for name, of in QUANTITIES.items():
            floor.append(Noise(model=model, quantity=name, seeds=_scatter(lines, of), repeats=_scatter(cells, of)))
    return floor


def read_repeats(folders: Sequence[Path], rows: Mapping[Path, Row]) -> list[Row]:
    """Read folders of further runs.

    Raises InputError for one that repeats none of the rows, that differs from its row in more than chance (in device,
    threads, images), or that is no further run: the row's own training, or that of an earlier repeat.
    """
    first = {row.id: (path, row) for path, row in rows.items()}
    trained = {row.training: path for path, row in rows.items()}
    repeats = []
    for path in [path for folder in folders for path in rows_of(folder)]:
        repeat = read_row(path)
        of, row = first.get(repeat.id, (None, None))
        if row is None or repeat.cell != row.cell:
            raise InputError(f"{path}: {repeat.id} repeats no cell of the rows given, with the same settings")
        if same := trained.get(repeat.training):
            raise InputError(f"{path}: the same training as {same}; a repeat is a training of its own")
        trained[repeat.training] = path
        expected = dict(must_agree(row))
        if other := next((key for key, value in must_agree(repeat) if value != expected[key]), None):
            raise InputError(f"{path} and {of} differ in {' of '.join(other)}; a repeat changes nothing")
        repeats.append(repeat)
    return repeats


def _scatter(groups: Iterable[Sequence[Row]], of: Callable[[Row], float]) -> Scatter:
    sd, df = pooled_spread([[of(row) for row in group] for group in groups])
    return Scatter(sd=sd if df else None, df=df)
