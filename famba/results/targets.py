"""targets.json: how long each training took to a target accuracy, beside how accurate it is in the end.

Time is the row's: of training, without evaluation and each run's first step; on a CPU, CPU time. A training reaches the
target in the first epoch after which its top-1 on the test set is as high; between epochs it is not known. One that
never does counts as later than any that does: medians hold it, a mean would not.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from famba.config.validation import Strict
from famba.errors import InputError
from famba.results import epochs as epochs_csv
from famba.results.beside import hashes
from famba.results.epochs import read_epochs
from famba.results.row import Row, Sha256, by_line, grouped
from famba.text import left_out, six_digits

NAME = "targets.json"
COMMON = "the highest that every training of this model reaches"  # chosen where nobody has
Epochs = Sequence[Mapping[str, float]]


class Reached(Strict):
    """One training. `epoch`: how many epochs it took, from 1; it and the seconds are null where it never got there.

    `compared_s`: CPU time on a CPU, else the wall clock, which is `train_s`.
    """

    seed: int
    epoch: int | None
    train_s: float | None
    compared_s: float | None


class Line(Strict):
    """The trainings of one model and strategy.

    Medians over seeds are null where half of the trainings or more never reach the target; `slowest` where one does
    not. `ratio`: median over seeds of the time relative to that of the unfused model with the same seed; null too where
    that never reaches the target.
    """

    model: str
    strategy: str
    n: int
    reached: int
    epochs: float | None
    time_s: float | None
    fastest_s: float | None
    slowest_s: float | None
    ratio: float | None
    trainings: list[Reached]


class Target(Strict):
    """The target of a model, top-1 in percent, and who chose it."""

    model: str
    top1: float
    chosen: str


class Targets(Strict):
    """targets.json. `digest`: of the rows and the ledger, as in claims.json. `clock`: what times are of.

    `metrics`: sha256 of each row's epochs.csv; null in files from before it was recorded.
    """

    version: Literal[1] = 1
    watermark: Literal["SMOKE"] | None
    digest: str
    clock: Literal["CPU time", "wall clock"]
    targets: list[Target]
    lines: list[Line]
    left_out: list[str]
    metrics: Annotated[dict[str, Sha256] | None, Field(exclude_if=lambda found: found is None)] = None


def measure(rows: Mapping[Path, Row], digest: str, targets: Mapping[str, tuple[float, str]]) -> Targets:
    """Time to a target accuracy of every training.

    Args:
        digest: of the rows and their ledger.
        targets: top-1 in percent, and who chose it, by model. A model without one gets the highest accuracy that all of
            its trainings reach.
    """
    first = next(iter(rows.values()))
    epochs, unread = _read(rows)
    found: list[Target] = []
    lines: list[Line] = []
    for model, paths in grouped(epochs, lambda path: rows[path].cell.model).items():
        common = min(max(epoch["top1"] for epoch in epochs[path]) for path in paths)
        top1, chosen = targets.get(model, (common, COMMON))
        found.append(Target(model=model, top1=top1, chosen=chosen))
        lines += _lines({path: rows[path] for path in paths}, epochs, top1)
    return Targets(
        watermark=first.watermark,
        digest=digest,
        clock="CPU time" if first.environment.device_kind == "cpu" else "wall clock",
        targets=found,
        lines=lines,
        left_out=unread,
        metrics=hashes(rows, epochs_csv.NAME),
    )


def _read(rows: Mapping[Path, Row]) -> tuple[dict[Path, Epochs], list[str]]:
    """The metrics per epoch beside each row, and a line for each reason why one cannot be read."""
    epochs: dict[Path, Epochs] = {}
    unread = []
    for path, row in rows.items():
        file = path.with_name(epochs_csv.NAME)
        try:
            found = read_epochs(file, row.cell.recipe.epochs)
        except InputError as error:
            unread.append((f"{file.name}: {str(error).removeprefix(f'{file}: ')}", row.id))
            continue
        if math.isclose(found[-1]["top1"], row.metrics.last.top1, rel_tol=1e-4):  # six digits are written
            epochs[path] = found
        else:
            unread.append((f"{file.name}: ends in another accuracy than the row: it is of another training", row.id))
    return epochs, left_out(unread, "row")


def _lines(rows: Mapping[Path, Row], epochs: Mapping[Path, Epochs], top1: float) -> list[Line]:
    """The strategies of one model."""
    reached = {(row.cell.strategy, row.cell.seed): _reached(row, epochs[path], top1) for path, row in rows.items()}
    lines = []
    for (model, strategy), group in by_line(rows.values()).items():
        trainings = [reached[strategy, row.cell.seed] for row in group]
        times = [math.inf if one.compared_s is None else one.compared_s for one in trainings]
        bases = [base.compared_s for one in trainings if (base := reached.get(("baseline", one.seed)))]
        known = [base for base in bases if base]
        ratio = None
        if len(known) == len(times):
            ratio = _median([time / base for time, base in zip(times, known, strict=True)])
        lines.append(
            Line(
                model=model,
                strategy=strategy,
                n=len(trainings),
                reached=sum(one.epoch is not None for one in trainings),
                epochs=_median([math.inf if one.epoch is None else one.epoch for one in trainings]),
                time_s=_median(times),
                fastest_s=_finite(min(times)),
                slowest_s=_finite(max(times)),
                ratio=ratio,
                trainings=trainings,
            )
        )
    return lines


def _reached(row: Row, epochs: Epochs, top1: float) -> Reached:
    at = next((i for i, epoch in enumerate(epochs) if epoch["top1"] >= top1), None)
    if at is None:
        return Reached(seed=row.cell.seed, epoch=None, train_s=None, compared_s=None)
    # of a training that was resumed later the first steps of those runs, too: the row does not tell them apart
    train_s = max(sum(epoch["train_s"] for epoch in epochs[: at + 1]) - row.time.warmup, 0.0)
    # the row's CPU time leaves the first steps out, that of the epochs does not
    warmup = max(sum(epoch["cpu_s"] for epoch in epochs) - row.time.cpu, 0.0)
    cpu_s = max(sum(epoch["cpu_s"] for epoch in epochs[: at + 1]) - warmup, 0.0)
    compared_s = cpu_s if row.environment.device_kind == "cpu" else train_s
    return Reached(seed=row.cell.seed, epoch=at + 1, train_s=six_digits(train_s), compared_s=six_digits(compared_s))


def _median(values: Sequence[float]) -> float | None:
    return _finite(statistics.median(values))


def _finite(value: float) -> float | None:
    return six_digits(float(value)) if math.isfinite(value) else None
