"""Seeded: experiments and ledgers in which one value is of another type are valid, or refused in one line."""

import copy
import datetime
import itertools
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from famba.claims import ledger
from famba.cli import main
from famba.config import Experiment, yaml_file
from famba.errors import InputError
from tests.helpers import ROOT

BLOCKS = {
    name: yaml.safe_load(text)
    for name, text in re.findall(
        r"```yaml\n# (config/\S+)\n(.*?)```", (ROOT / "docs" / "experiments.md").read_text(), flags=re.DOTALL
    )
}
VALUES = [
    None, [], {}, "", 3, -1, 2**63, True, 1e400, datetime.date(2026, 1, 2), [[["x"]]], [{"a": 1}], {"a": [1]},
    "x" * 5000, "a\nb", "../x", ".", "self.yaml",
]  # fmt: skip


def experiment() -> Any:
    grid = BLOCKS["config/mine.yaml"]
    grid["schedules"] |= {"two": {"layers": [1, 3], "r": 2}, "span": {"from": 5, "to": 7, "r": 2}}
    return grid


def ledger_of_each_kind() -> Any:
    """Tables, numbers, tests and a trade-off: a little of the paper's ledger."""
    paper = copy.deepcopy(yaml_file.read(ROOT / "config" / "claims.yaml"))
    for table in paper["tables"]:
        table["rows"] = table["rows"][:2]
    tested = {**BLOCKS["config/my-claims.yaml"]["claims"][0], "source": paper["claims"][0]["source"]}
    objectives = {"models": ["vim_mini"], "strategy": "late", "rivals": ["upper"], "objectives": ["top1", "memory"]}
    trade_off = {key: value for key, value in tested.items() if key != "tests"} | {"id": "x", "trade_off": objectives}
    return paper | {"published": paper["published"][:4], "claims": [trade_off, tested], "table_cells": [1]}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*at, key)
        yield from places(part, (*at, key))


def put(data: Any, at: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(data)
    inside = changed
    for key in at[:-1]:
        inside = inside[key]
    inside[at[-1]] = value
    return changed


def read_experiment(path: Path) -> None:
    for cell in Experiment.load(path).cells():
        cell.model_dump_json()


def read_ledger(path: Path) -> None:
    read = ledger.load(path)
    assert read.judged is not None
    assert read.schedules is not None
    assert ledger.files(path)


@pytest.mark.parametrize(
    ("data", "read", "least"), [(experiment(), read_experiment, 5), (ledger_of_each_kind(), read_ledger, 20)]
)
def test_a_value_of_another_type_is_valid_or_one_line(
    data: Any, read: Callable[[Path], None], least: int, tmp_path: Path
) -> None:
    path = tmp_path / "self.yaml"
    path.write_text(yaml.safe_dump(data))
    read(path)
    cases = list(itertools.product(places(data), VALUES))
    valid = 0
    for at, value in random.Random(0).sample(cases, 250):
        path.write_text(yaml.safe_dump(put(data, at, value)))
        try:
            read(path)
            valid += 1
        except InputError as error:
            message = str(error)
            assert message.startswith(str(path)), (at, value)
            assert message.isprintable(), (at, value)
            assert len(message) < len(str(path)) + 600, (at, value)
    assert least <= valid <= 125


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("self.yaml", "takes its own tables"),
        ("other.yaml", "takes its own tables"),  # which names the first
        ("", "'' is no name of a file beside this one"),
        (".", "'.' is no name of a file"),
        ("a/b.yaml", "'a/b.yaml' is no name of a file"),
        ("gone.yaml", "gone.yaml: cannot read the claims (No such file or directory)"),
        (3, "tables: Input should be a valid list, found 3"),
        ([3], "tables.0: Input should be a valid dictionary"),
    ],
)
def test_tables_of_a_ledger_that_has_none(tables: Any, message: str, tmp_path: Path, capsys: Any) -> None:
    own = BLOCKS["config/my-claims.yaml"]
    path = tmp_path / "self.yaml"
    path.write_text(yaml.safe_dump(own | {"tables": tables}))
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(own | {"tables": "self.yaml"}))
    assert main(["audit", "--claims", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "uper"}, "'uper' is no published strategy; did you mean 'upper'?"),
        ({"strategy": "upper", "r": 9, "start": 2**62}, f"start {2**62} is not among the layers 1 to 24"),
        ({"time": f"{'9' * 5000}:00:00"}, "is no time"),
    ],
)
def test_rows_of_a_published_table_that_cannot_be(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = ledger_of_each_kind()
    data["tables"][0]["rows"][1] |= change
    path = tmp_path / "self.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=r"tables\.0\.rows\.1") as caught:
        ledger.load(path)
    assert message in str(caught.value)
