"""What the parts of a row say of each other. A row that contradicts itself was not made by a training: it is refused.

Only what no training can do is checked here. What a published protocol asks of a row is in checks/rules.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from famba.config.trainable import schedule_problem
from famba.text import count

if TYPE_CHECKING:
    from famba.results.row import Row


def problem(row: Row) -> str | None:
    """The first contradiction of a row, None if there is none."""
    return next(_problems(row), None)


def _problems(row: Row) -> Iterator[str]:
    yield from _identity(row)
    yield from _tokens(row)
    yield from _accuracy(row)
    yield from _times(row)
    yield from _data(row)
    yield from _device(row)


def _identity(row: Row) -> Iterator[str]:
    if row.id != row.cell.id:
        yield f"row {row.id} holds the settings of {row.cell.id}"
    if (row.watermark == "SMOKE") != (row.cell.protocol == "smoke"):
        yield "a smoke row, and no other, carries the SMOKE watermark"
    if (row.init.weights == "scratch") != (row.init.sha256 is None):
        yield "init: a checkpoint, and no training from scratch, has a sha256"


def _tokens(row: Row) -> Iterator[str]:
    architecture, schedule = row.cell.architecture, row.cell.schedule
    if len(schedule) != architecture.depth:
        yield f"cell.schedule is of {count(len(schedule), 'layer')}, the model has {architecture.depth}"
    elif impossible := schedule_problem(row.cell):
        yield impossible
    elif sum(schedule) >= architecture.tokens:
        yield f"cell.schedule fuses {sum(schedule)} tokens, the model has {architecture.tokens}"
    if row.tokens.range is not None:
        yield from _range(row, row.tokens.range)
    elif row.tokens.scheduled != row.tokens.measured:
        yield f"measured tokens {row.tokens.measured} are not the schedule's {row.tokens.scheduled}"
    if len(row.tokens.measured) != architecture.depth + 1:
        yield f"tokens of {len(row.tokens.measured) - 1} layers, the model has {architecture.depth}"


def _range(row: Row, ends: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Of a row whose tokens a threshold decides: the schedule bounds every image, and the mean lies between."""
    if not row.cell.fusion.varies:
        yield "tokens.range is of a threshold, and the cell has none"
    lengths = {len(ends), len(row.tokens.measured), len(row.tokens.scheduled)}
    if len(lengths) > 1:
        yield "tokens.range, measured and scheduled are of different numbers of layers"
        return
    for layer, ((least, most), mean, bound) in enumerate(
        zip(ends, row.tokens.measured, row.tokens.scheduled, strict=True)
    ):
        if not bound <= least <= mean <= most <= row.cell.architecture.tokens:
            yield (
                f"tokens of layer {layer}: from {least} to {most}, {mean:g} in the mean, where the schedule leaves "
                f"{bound} at least and there are {row.cell.architecture.tokens}"
            )


def _accuracy(row: Row) -> Iterator[str]:
    metrics, epochs = row.metrics, row.cell.recipe.epochs
    for prefix in ("", "ema_"):
        last, best = getattr(metrics, f"{prefix}last"), getattr(metrics, f"{prefix}best")
        for name, of in ((f"{prefix}last", last), (f"{prefix}best", best)):
            if of.top5 < of.top1:
                yield f"metrics.{name}: top-5 {of.top5:g} % is below top-1 {of.top1:g} %"
        if last.epoch != epochs - 1:
            yield f"metrics.{prefix}last is of epoch {last.epoch:g}, the last one is {epochs - 1}"
        if best.epoch > last.epoch:
            yield f"metrics.{prefix}best is of epoch {best.epoch:g}, after the last epoch, {last.epoch}"
        if best.top1 < last.top1:
            yield f"metrics.{prefix}best: top-1 {best.top1:g} % is below the last epoch's {last.top1:g} %"
        if best.epoch == last.epoch and best != last:
            yield f"metrics.{prefix}best and {prefix}last are of epoch {last.epoch} and differ"


def _times(row: Row) -> Iterator[str]:
    time = row.time
    parts = time.train + time.evaluation + time.ema_evaluation
    if parts > time.total * (1 + 1e-9):
        yield f"time.total is {time.total:g} s, its parts are {parts:g} s"
    if time.data_wait > time.train:
        yield f"time.data_wait is {time.data_wait:g} s of {time.train:g} s of training"
    if time.warmup >= time.train:
        yield f"time.warmup is {time.warmup:g} s of {time.train:g} s of training"
    started, finished = (_moment(row, name) for name in ("started", "finished"))
    if isinstance(started, str) or isinstance(finished, str):
        yield from (moment for moment in (started, finished) if isinstance(moment, str))
    elif finished < started:
        yield f"finished at {row.finished}, before it started at {row.started}"


def _moment(row: Row, name: str) -> datetime | str:
    """A time of the row, or what is wrong with it."""
    written = getattr(row, name)
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return f"{name}: {written!r} is not a time in ISO 8601"
    return moment if moment.tzinfo else f"{name}: {written!r} has no time zone"


def _data(row: Row) -> Iterator[str]:
    if row.data.name != row.cell.dataset:
        yield f"data.name is {row.data.name}, the cell's data set is {row.cell.dataset}"
        return
    sizes, folder = row.cell.sizes, row.cell.data
    if row.data.classes != sizes.classes:
        yield f"data.classes is {row.data.classes}, {row.cell.dataset} has {sizes.classes}"
    if folder is not None and (row.data.sha256, row.data.train, row.data.test) != (folder.sha256, *sizes[:2]):
        yield f"data are of another manifest than {folder.manifest}, of sha256 {folder.sha256}"
    if folder is None and row.data.size is None:
        yield f"data.size is missing, and {row.cell.dataset} has images of one size"
    elif folder is not None and row.data.size != folder.size:
        yield f"data.size is {row.data.size}, the cell's is {folder.size}"


def _device(row: Row) -> Iterator[str]:
    kind, cuda = row.environment.device_kind, row.environment.device_kind == "cuda"
    if row.cell.device not in ("auto", kind):
        yield f"environment.device_kind is {kind}, the cell's device is {row.cell.device}"
    if row.environment.world_size != row.cell.processes:
        yield f"environment.world_size is {row.environment.world_size}, the cell has {row.cell.processes} processes"
    if (row.memory.device_peak is None) == cuda:
        yield "memory.device_peak is of a GPU, and of no other device"
    if (row.time.step_cpu_ms is None) != cuda:
        yield "time.step_cpu_ms is of a CPU, and of no other device"
    if row.time.step_ratio is not None and cuda:
        yield "time.step_ratio is of a CPU, and of no other device"
    if row.time.step_ratio not in (None, 1) and not any(row.cell.schedule):
        yield f"time.step_ratio is {row.time.step_ratio:g}, the cell fuses nothing"
