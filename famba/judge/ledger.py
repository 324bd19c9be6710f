"""The claims ledger, config/claims.yaml: what has been published, and for each claim the test that judges it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from famba.config import Experiment
from famba.config.settings import DatasetName, Name, Protocol, Settings
from famba.errors import InputError
from famba.judge.published import PublishedRow, PublishedTable
from famba.record import read_row

Relation = Literal["equal", "at_least", "at_most", "above", "below"]
Quantity = Literal[
    "top1", "top1_difference", "hours", "time_reduction", "memory_reduction", "activations_reduction", "tokens_removed"
]
Objective = Literal["top1", "hours", "memory", "activations"]
# the published quantity that a test's quantity is held against
_MEANS = {
    "top1": "top1",
    "top1_difference": "top1",
    "hours": "training_time",
    "time_reduction": "training_time_reduction",
    "memory_reduction": "peak_memory_reduction",
    "activations_reduction": "saved_activations_reduction",
    "tokens_removed": "tokens_removed",
}

PUBLISHED = Path("config/claims.yaml")  # of the paper
# to the cell `against`, paired by seed
RELATIVE = {"top1_difference", "time_reduction", "memory_reduction", "activations_reduction"}


class Published(Settings):
    """One published number. `value` is None where the sources we have give none."""

    id: str
    dataset: DatasetName | None = None
    model: Name | None = None
    strategy: Name | None = None
    quantity: str
    metric: Literal["best", "last"] | None = None
    relation: Literal["=", "<", "<=", "range"]
    value: float | tuple[float, float] | None = None
    unit: str
    source: str
    says: str | None = None

    @property
    def point(self) -> float:
        """The value, of a number that has one."""
        assert isinstance(self.value, float)
        return self.value


class Needs(Settings):
    """What rows must be for a claim to be tested on them."""

    dataset: DatasetName = "cifar100"
    protocols: tuple[Protocol, ...] = ("paper",)
    minimum_n: Annotated[int, Field(ge=1)] = 3
    device_kind: Literal["cpu", "cuda"] | None = None
    device: str | None = None  # part of the device's name
    gpus: int | None = None


class Test(Settings):
    """One mean of each of the named cells, held against a reference.

    The reference is the published number, or the first of two less the second; without one it is zero. `rounding` is
    half a unit of the last published digit; `noise` counts standard deviations of one seed, as measured on the same
    cells. Both widen the region in which the claim puts the mean.
    """

    __test__ = False  # not one of pytest's

    quantity: Quantity
    models: Annotated[list[Name], Field(min_length=1)]
    strategies: Annotated[list[Name], Field(min_length=1)]
    against: Name | None = None
    relation: Relation
    published: Annotated[tuple[str, ...], Field(max_length=2)] = ()
    rounding: Annotated[float, Field(ge=0)] = 0
    noise: Annotated[float, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _whole(self) -> Test:
        if (self.quantity in RELATIVE) != (self.against is not None):
            raise ValueError(f"{self.quantity} {'needs' if self.against is None else 'takes no'} `against`")
        return self


class TradeOff(Settings):
    """Pareto dominance of a strategy over each of its rivals, in every objective, for each model."""

    models: Annotated[list[Name], Field(min_length=1)]
    strategy: Name
    rivals: Annotated[list[Name], Field(min_length=1)]
    objectives: Annotated[list[Objective], Field(min_length=2)]


class Claim(Settings):
    """One published claim. `reads`: how its words were made a test, where they leave a choice."""

    id: str
    quote: str
    source: str
    tests: tuple[Test, ...] = ()
    trade_off: TradeOff | None = None
    over: Literal["every", "any"] = "every"
    needs: Needs = Needs()
    reads: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Claim:
        if bool(self.tests) == (self.trade_off is not None):
            raise ValueError(f"claim {self.id!r} needs either `tests` or a `trade_off`")
        return self


class Ledger(Settings):
    """config/claims.yaml. `accuracy`: the epoch whose top-1 is judged; the paper's is the best one on the test set."""

    sources: dict[str, str]
    accuracy: Literal["best", "last"] = "best"
    tables: list[PublishedTable] = Field(default=[])
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
        return self

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> Ledger:
        numbers = self.numbers
        for entries in (self.published, self.claims):
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
                    if numbers[name].quantity != _MEANS[test.quantity]:
                        raise ValueError(f"claim {claim.id!r} holds {test.quantity} against a {numbers[name].quantity}")
        return self

    @property
    def numbers(self) -> dict[str, Published]:
        """Published numbers by id."""
        return {number.id: number for number in self.published}

    def reference(self, test: Test) -> tuple[float, float]:
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
    try:
        return Ledger.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise InputError(f"{path}: cannot read the claims ({reason}); name the file: --claims") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {where + ': ' if where else ''}{message}") from None


def published_rows(path: Path = PUBLISHED) -> tuple[PublishedRow, ...]:
    """Every row of the ledger's published tables, in the order of the tables. Raises InputError, as `load` does."""
    return tuple(row for table in load(path).tables for row in table.flat())


def of_rows(paths: Sequence[Path]) -> Path:
    """The ledger by which rows are to be judged where none is named: their experiment's, else the paper's.

    The experiment is looked for where its file belongs, config/<experiment>.yaml, seen from the working directory.
    """
    name = read_row(paths[0]).cell.experiment
    config = Path("config", f"{name}.yaml")
    if config.is_file():
        experiment = Experiment.load(config)
        if experiment.experiment == name:
            return Path(experiment.claims)
    return PUBLISHED


def json_schema() -> dict[str, Any]:
    """JSON schema of the ledger (published as config/schema/claims.json)."""
    return Ledger.model_json_schema()
