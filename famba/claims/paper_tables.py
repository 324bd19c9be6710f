"""The paper's tables with what the rows measured beside each published number.

A number stands beside a published one only where the row is of the published experiment: `comparable`. Rows of another
kind (smoke models, other images) fill the layout of the table, and the published numbers are left out. Each recipe has
tables of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from famba.claims.cells import DEVICE, GPUS, IMAGES_PER_GPU
from famba.claims.ledger import Ledger
from famba.claims.published import PublishedRow
from famba.claims.sweeps import SWEEPS, Sweep, first_layer, fused_per_layer, sweeps
from famba.config.protocol import FREE_OF, deviation
from famba.results.recipes import SameRecipe, by_recipe
from famba.results.row import Row
from famba.results.summary import Line
from famba.strategies import STRATEGIES

QUANTITIES = {"top1": "%", "top5": "%", "time": "s", "memory": "MiB"}


@dataclass(frozen=True)
class Number:
    """One quantity of one line, in the unit of `QUANTITIES`. `half`: of the 95 % interval of the measured mean.

    `same_conditions`: whether the two may be subtracted; seconds of two machines may not.
    """

    published: float | None
    measured: float | None
    half: float | None
    same_conditions: bool

    @property
    def difference(self) -> float | None:
        """Measured less published; None where one is missing or they are of different conditions."""
        if self.published is None or self.measured is None or not self.same_conditions:
            return None
        return self.measured - self.published

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the difference's 95 % interval: Student's t over seeds. None for fewer than three."""
        difference = self.difference
        return None if difference is None or self.half is None else (difference - self.half, difference + self.half)


@dataclass(frozen=True)
class PaperLine:
    """A line of a table. `model`: as the paper calls it, `own`: as these rows do. `r`, `start`: tokens per layer and
    first layer (from 1), None without fusion or where the table does not list them; `line`: of the summary, None where
    these rows have no such cell."""

    model: str
    own: str
    strategy: str
    r: float | None
    start: int | None
    line: Line | None
    numbers: Mapping[str, Number]


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables. `recipe`: the preset of its rows, `custom` for a recipe that is none (see
    `SameRecipe.name`). `published`: whether the paper's numbers stand beside the measured ones."""

    table: int
    recipe: str
    page: int | None
    sweep: Sweep | None
    published: bool
    lines: Sequence[PaperLine]


def comparable(row: Row) -> bool:
    """Whether a row is of the published experiment, so that it may stand beside the paper's numbers."""
    return row.cell.protocol in FREE_OF and row.data.official and deviation(row.cell) is None


def paper_tables(ledger: Ledger, lines: Sequence[Line], rows: Sequence[Row]) -> list[PaperTable]:
    """The tables that the rows speak about, recipe by recipe, in the paper's order. `lines`: the rows' summary."""
    return [table for part in by_recipe(rows) for table in _of_recipe(ledger, lines, part)]


def _of_recipe(ledger: Ledger, lines: Sequence[Line], part: SameRecipe) -> Iterator[PaperTable]:
    rows = part.rows
    by_cell = {row.cell.line: row for row in rows}
    made = {(line["model"], line["strategy"]): line for line in lines}
    names = {row.cell.strategy for row in rows}
    fusing = {row.cell.strategy for row in rows if any(row.cell.schedule)}
    published = all(map(comparable, rows))
    pages = {table.table: table.page for table in ledger.tables}
    printed = [row for table in ledger.tables for row in table.flat()] if published else []
    for number, sweep in [(1, None), *((sweep.table, sweep) for sweep in SWEEPS)]:
        if (sweep not in sweeps(fusing)) if sweep else not names & {*STRATEGIES[1:]}:
            continue
        if published and number in pages:
            body = list(_published_lines(printed, number, part.models, by_cell, made, ledger.accuracy))
        else:
            body = list(_measured_lines(sweep, by_cell, made, ledger.accuracy))
        yield PaperTable(number, part.name, pages.get(number), sweep, published and number in pages, body)


def _published_lines(
    printed: Sequence[PublishedRow],
    table: int,
    named: Mapping[str, str],
    by_cell: Mapping[tuple[str, str], Row],
    made: Mapping[tuple[str, str], Line],
    accuracy: str,
) -> Iterator[PaperLine]:
    """The lines of a table as they are printed; above Tables 2 and 3 the model without fusion, which Table 1 has.

    `named`: the rows' names of the paper's models.
    """
    there = [row for row in printed if row.table == table]
    models = {row.model for row in there if (named.get(row.model), "baseline") in by_cell or table == 1}
    if table > 1:
        there = [row for row in printed if (row.table, row.strategy) == (1, "baseline") and row.model in models] + there
    for row in there:
        own = named.get(row.model, row.model)
        same = (key for key, r in by_cell.items() if key[0] == own and r.cell.schedule == row.schedule)
        cell = next(same, None)
        values = {"top1": row.top1, "top5": row.top5, "time": row.time_s, "memory": row.memory_mib}
        line = made[cell] if cell else None
        numbers = _numbers(values, line, by_cell[cell] if cell else None, accuracy)
        yield PaperLine(row.model, own, row.strategy, row.r, row.start, line, numbers)


def _measured_lines(
    sweep: Sweep | None, by_cell: Mapping[tuple[str, str], Row], made: Mapping[tuple[str, str], Line], accuracy: str
) -> Iterator[PaperLine]:
    """The cells of these rows that belong to a table, in its order; the one without fusion first."""
    for model in dict.fromkeys(model for model, _ in by_cell):
        names = [name for of, name in by_cell if of == model]
        if sweep:
            fusing = (name for name in names if any(by_cell[model, name].cell.schedule))
            own = [name for name in fusing if sweep.number(name) is not None]
            own.sort(key=lambda name: -(sweep.number(name) or 0))
        else:
            own = [name for name in names if name in STRATEGIES and name != "baseline"]
        for name in [*(name for name in names if name == "baseline"), *own]:
            row = by_cell[model, name]
            fuses = any(row.cell.schedule) and sweep is not None
            yield PaperLine(
                model, model, "upper" if sweep and fuses else name,
                fused_per_layer(row.cell.schedule) if fuses else None,
                first_layer(row.cell.schedule) if fuses else None,
                made[model, name], _numbers({}, made[model, name], row, accuracy),
            )  # fmt: skip


def _numbers(published: Mapping[str, float], line: Line | None, row: Row | None, accuracy: str) -> dict[str, Number]:
    names = {
        "top1": f"top1_{accuracy}_percent", "top5": f"top5_{accuracy}_percent", "time": "loop_s",
        "memory": "peak_memory_mib",
    }  # fmt: skip
    same = dict.fromkeys(QUANTITIES, True)
    if row is not None:
        same["time"] = row.environment.world_size == GPUS and DEVICE in row.environment.device
        same["memory"] = row.memory.device_peak is not None and row.cell.images_per_pass == IMAGES_PER_GPU
    return {
        quantity: Number(
            published.get(quantity), line[name] if line else None, line[f"{name}_ci95"] if line else None,
            same[quantity],
        )
        for quantity, name in names.items()
    }  # fmt: skip
