"""The tables of a publication as the ledger has them, and their rows one by one."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from famba.config.image_folder import DataName
from famba.config.settings import ModelName, Name
from famba.config.validation import Strict
from famba.strategies import NAMED, strategy
from famba.text import nearest

Percent = Annotated[float, Field(ge=0, le=100)]


class TableRow(Strict):
    """A row of a published table as it is printed: what was trained, and the four numbers printed for it.

    `r`: tokens fused per layer, `start`: the first layer that fuses, counted from 1; None where the table does not list
    them. Accuracies in percent. `time`: h:mm:ss of the whole training.
    """

    model: ModelName
    strategy: Name
    r: Annotated[int, Field(ge=0)] | None = None
    start: Annotated[int, Field(ge=1)] | None = None
    top1: Percent
    top5: Percent
    time: str
    memory_mib: Annotated[int, Field(gt=0)]

    @field_validator("time")
    @classmethod
    def _is_h_mm_ss(cls, time: str) -> str:
        if not re.fullmatch(r"[0-9]{1,6}:[0-5][0-9]:[0-5][0-9]", time):
            raise ValueError(f'{time!r} is no time; write "h:mm:ss" in quotes')
        return time

    @model_validator(mode="after")
    def _fuses_in_layers_that_are_there(self) -> TableRow:
        if self.strategy not in NAMED:
            raise ValueError(f"{self.strategy!r} is no published strategy{nearest(self.strategy, NAMED)}")
        depth = len(strategy(self.strategy))
        if self.start is not None and self.start > depth:
            raise ValueError(f"start {self.start} is not among the layers 1 to {depth}")
        return self

    @property
    def time_s(self) -> int:
        """The time in seconds."""
        hours, minutes, seconds = map(int, self.time.split(":"))
        return 3600 * hours + 60 * minutes + seconds

    @property
    def schedule(self) -> tuple[int, ...]:
        """Tokens that each layer fused: those of the strategy, unless the row lists its own layers and tokens."""
        whole = strategy(self.strategy)
        if self.r is None or self.start is None:
            return whole
        return (0,) * (self.start - 1) + (self.r,) * (len(whole) - self.start + 1)


class PublishedRow(TableRow):
    """A row with the number of its table."""

    table: int


class PublishedTable(Strict):
    """A published table. `page`: of the source."""

    table: Annotated[int, Field(ge=1)]
    page: Annotated[int, Field(ge=1)]
    source: str
    dataset: DataName
    rows: Annotated[list[TableRow], Field(min_length=1)]

    @model_validator(mode="after")
    def _lists_a_cell_once(self) -> PublishedTable:
        keys = [(row.model, row.strategy, row.r, row.start) for row in self.rows]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise ValueError(f"table {self.table} lists {' '.join(str(k) for k in twice if k is not None)} twice")
        return self

    def flat(self) -> list[PublishedRow]:
        """Its rows, each with the number of the table."""
        return [PublishedRow(table=self.table, **dict(row)) for row in self.rows]
