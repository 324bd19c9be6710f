"""The cells of a published table: each a published number, and the claim that a training reproduces it."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from famba.claims.entries import Claim, Hypothesis, Needs, Published, Quantity
from famba.claims.published import PublishedTable, TableRow
from famba.claims.sweeps import SWEEPS
from famba.text import count, model_name

# the released scripts'; the paper says "A100 (80 GB)" and not how many
GPUS, DEVICE, IMAGES_PER_GPU = 4, "A100", 128


class _Column(NamedTuple):
    name: str
    published: str
    tested: Quantity
    unit: str
    rounding: float  # half a unit of the last printed digit
    words: str
    needs: Needs = Needs()
    interpretation: str | None = None


_COLUMNS = (
    _Column("top1", "top1", "top1", "percent", 0.05, "% top-1"),
    _Column("top5", "top5", "top5", "percent", 0.05, "% top-5"),
    _Column(
        "time", "training_time", "hours", "hours", 0.5 / 3600, "(h:mm:ss)",
        Needs(device_kind="cuda", device=DEVICE, gpus=GPUS),
        "an absolute time is judged on the published machine only. The paper does not give the number of GPUs; four is "
        "the released scripts'",
    ),
    _Column(
        "memory", "peak_memory", "memory_mib", "MiB", 0.5, "MiB at the peak",
        Needs(device_kind="cuda", images_per_gpu=IMAGES_PER_GPU),
        "the paper gives no unit; the released code prints MiB. An absolute peak is that of the code that ran",
    ),
)  # fmt: skip


def numbers(table: PublishedTable) -> Iterator[Published]:
    """Every cell as a published number, row by row: `table1-vim_tiny-upper-top1`."""
    for row, column in product(table.rows, _COLUMNS):
        value, printed = _cell(row, column)
        yield Published(
            id=_id(table, row, column),
            dataset=table.dataset,
            model=row.model,
            strategy=strategy_name(table, row),
            quantity=column.published,
            metric="best" if column.unit == "percent" else None,
            relation="=",
            value=value,
            unit=column.unit,
            source=table.source,
            says=printed,
        )


def claims(table: PublishedTable) -> Iterator[Claim]:
    """Every cell as a claim: the mean of such trainings is the printed number.

    It was one training: 95 % of single trainings lie within 1.96 standard deviations of the mean, so that the number
    places the mean no closer.
    """
    for row, column in product(table.rows, _COLUMNS):
        what = f"Table {table.table}: {model_name(row.model)}, {_trained(row)}"
        yield Claim(
            id=_id(table, row, column),
            quote=f"{what}: {_cell(row, column)[1]} {column.words}",
            source=table.source,
            needs=column.needs.model_copy(update={"dataset": table.dataset}),
            interpretation=column.interpretation,
            tests=(
                Hypothesis(
                    quantity=column.tested,
                    models=[row.model],
                    strategies=[strategy_name(table, row)],
                    relation="equal",
                    published=(_id(table, row, column),),
                    rounding=column.rounding,
                    noise=1.96,
                ),
            ),
        )


def strategy_name(table: PublishedTable, row: TableRow) -> str:
    """The name by which an experiment trains a row: `upper`, or by what varies in its table `start_15`, `tokens_9`."""
    sweep = next((sweep for sweep in SWEEPS if sweep.table == table.table), None)
    if sweep is None or row.r is None or row.start is None:
        return row.strategy
    return f"{sweep.prefix}_{row.start if sweep.prefix == 'start' else row.r}"


def _id(table: PublishedTable, row: TableRow, column: _Column) -> str:
    return f"table{table.table}-{row.model}-{strategy_name(table, row)}-{column.name}"


def _cell(row: TableRow, column: _Column) -> tuple[float, str]:
    """The value in the column's unit, and as it is printed."""
    return {
        "top1": (row.top1, f"{row.top1:.1f}"),
        "top5": (row.top5, f"{row.top5:.1f}"),
        "time": (row.time_s / 3600, row.time),
        "memory": (float(row.memory_mib), str(row.memory_mib)),
    }[column.name]


def _trained(row: TableRow) -> str:
    if row.r is None or row.start is None:
        return "no fusion" if row.strategy == "baseline" else row.strategy
    return f"{count(row.r, 'token')} per layer from layer {row.start}"
