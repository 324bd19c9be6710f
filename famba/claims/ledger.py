"""The claims ledger, config/claims.yaml: what has been published, and for each claim the test that judges it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from famba.claims import cells
from famba.claims.entries import MEANS, Claim, Hypothesis, Published
from famba.claims.published import Percent, PublishedRow, PublishedTable
from famba.config import Experiment, yaml_file
from famba.config.settings import ModelName
from famba.config.validation import Strict, short, validated
from famba.errors import InputError
from famba.results.row import read_row

PUBLISHED = Path("config/claims.yaml")  # of the paper


class Ledger(Strict):
    """config/claims.yaml. `accuracy`: the epoch whose top-1 is judged; the paper's is the best one on the test set.

    `targets`: top-1 in percent by model, to which the time of training is compared, beside its end.
    `tables`: published tables, or the file beside this one whose ledger has them. `table_cells`: those whose every cell
    is a claim of this ledger.
    """

    sources: dict[str, str]
    accuracy: Literal["best", "last"] = "best"
    tables: list[PublishedTable] = Field(default=[])
    table_cells: list[int] = Field(default=[])
    targets: dict[ModelName, Percent] = Field(default={})
    published: list[Published]
    claims: list[Claim]

    @model_validator(mode="after")
    def _tables_are_known_and_there_once(self) -> Ledger:
        numbers = [table.table for table in self.tables]
        twice = next((n for n in numbers if numbers.count(n) > 1), None)
        if twice:
            raise ValueError(f"table {twice} is there twice")
        for table in self.tables:
            if table.source not in self.sources:
                raise ValueError(f"table {table.table} has the unknown source {table.source!r}")
        absent = next((n for n in self.table_cells if n not in numbers), None)
        if absent is not None:
            raise ValueError(f"table_cells names table {absent}, which is not among the tables")
        return self

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> Ledger:
        numbers = self.numbers
        for entries in ([*self.published, *self._cells], self.judged):
            ids = [entry.id for entry in entries]
            twice = next((i for i in ids if ids.count(i) > 1), None)
            if twice:
                raise ValueError(f"{twice!r} is there twice")
            for entry in entries:
                if entry.source not in self.sources:
                    raise ValueError(f"{entry.id!r} has the unknown source {entry.source!r}")
        for claim in self.claims:
            for test in claim.tests:
                for name in test.published:
                    if name not in numbers or numbers[name].value is None:
                        raise ValueError(f"claim {claim.id!r} refers to {name!r}, which is no published number")
                    if numbers[name].quantity != MEANS[test.quantity]:
                        raise ValueError(f"claim {claim.id!r} compares {test.quantity} with a {numbers[name].quantity}")
        return self

    @cached_property
    def _cells(self) -> list[Published]:
        return [number for table in self.tables for number in cells.numbers(table)]

    @cached_property
    def numbers(self) -> dict[str, Published]:
        """Published numbers by id: those listed one by one, and every cell of the tables."""
        return {number.id: number for number in [*self._cells, *self.published]}

    @cached_property
    def judged(self) -> list[Claim]:
        """All claims: those of the cells of `table_cells`, then those that are written out."""
        generated = [claim for t in self.tables if t.table in self.table_cells for claim in cells.claims(t)]
        return [*generated, *self.claims]

    @cached_property
    def schedules(self) -> dict[str, tuple[int, ...]]:
        """What the strategies of the published tables fuse, by the names of `cells.strategy_name`."""
        return {cells.strategy_name(table, row): row.schedule for table in self.tables for row in table.rows}

    def reference(self, test: Hypothesis) -> tuple[float, float]:
        """Least and largest value that a test's published number stands for, in the quantity's unit; 0 without one."""
        ends = []
        for name in test.published:
            value = self.numbers[name].value
            assert value is not None
            ends.append(value if isinstance(value, tuple) else (value, value))
        low, high = ends[0] if ends else (0.0, 0.0)
        if len(ends) == 2:
            low, high = low - ends[1][0], high - ends[1][1]
        return low - test.rounding, high + test.rounding


def load(path: Path) -> Ledger:
    """Read and validate the ledger. Raises InputError, one line naming file, place and what is wrong."""
    return _load(path)[0]


def files(path: Path) -> list[Path]:
    """The files that a ledger is read from: itself, and the one whose tables it takes. Raises InputError."""
    return _load(path)[1]


def _load(path: Path, takers: tuple[Path, ...] = ()) -> tuple[Ledger, list[Path]]:
    """A ledger and its files; `takers`: the ledgers that take tables from this one, directly or through others."""
    if path in takers:
        raise InputError(f"{path}: tables: it takes its own tables; name the ledger that lists them")
    data, own = yaml_file.read(path, "the claims", hint="; name the file: --claims"), [path]
    if isinstance(data, dict) and isinstance(data.get("tables"), str):
        name = data["tables"]
        if name in ("", ".", "..") or Path(name).name != name or len(name) > 255:
            raise InputError(f"{path}: tables: {short(name)} is no name of a file beside this one")
        other, more = _load(path.with_name(name), (*takers, path))
        data, own = _with_tables_of(other, data), own + more
    return validated(Ledger, data, str(path)), own


def _with_tables_of(other: Ledger, data: dict[str, Any]) -> dict[str, Any]:
    """A ledger with the tables of another one, and with the sources of those."""
    sources = {table.source: other.sources[table.source] for table in other.tables}
    own = data.get("sources")
    return {**data, "tables": other.tables, "sources": {**sources, **own} if isinstance(own, dict) else own}


def published_rows(path: Path = PUBLISHED) -> tuple[PublishedRow, ...]:
    """Every row of the ledger's published tables, in the order of the tables. Raises InputError, as `load` does."""
    return tuple(row for table in load(path).tables for row in table.flat())


def of_rows(paths: Sequence[Path]) -> Path:
    """The ledger by which rows are to be judged where none is named: their experiment's, else the paper's.

    The experiment is looked for where its file belongs, config/<experiment>.yaml, seen from the working directory.
    Raises InputError where rows are of several experiments that are judged by different ledgers.
    """
    named: dict[str, tuple[Path, Path]] = {}  # the first row of an experiment, and the ledger
    for path in paths:
        name = read_row(path).cell.experiment
        if name not in named:
            named[name] = path, _of_experiment(name)
    (one, (first, ledger)), *others = named.items()
    for other, (path, own) in others:
        if own != ledger:
            raise InputError(
                f"{first} is of {one}, judged by {ledger}, and {path} of {other}, judged by {own}; "
                "name the ledger that is to judge them together: --claims"
            )
    return ledger


def _of_experiment(name: str) -> Path:
    config = Path("config", f"{name}.yaml")
    if config.is_file():
        experiment = Experiment.load(config)
        if experiment.experiment == name:
            return Path(experiment.claims)
    return PUBLISHED


def json_schema() -> dict[str, Any]:
    """JSON schema of the ledger (published as config/schema/claims.json)."""
    schema = Ledger.model_json_schema()
    file: dict[str, Any] = {"type": "string", "description": "file beside this one, whose ledger has the tables"}
    schema["properties"]["tables"] = {"anyOf": [schema["properties"]["tables"], file], "title": "Tables"}
    return schema
