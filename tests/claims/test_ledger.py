"""The ledger: which one rows are judged by, what it covers, and a wrong one refused in one line."""

from pathlib import Path

import pytest
import yaml

from famba.claims.ledger import load, published_rows
from famba.claims.ledger import of_rows as ledger_of_rows
from famba.cli import main
from famba.errors import InputError
from tests.helpers import ROOT
from tests.helpers.rows import experiment, write_grid

LEDGER = load(ROOT / "config" / "claims.yaml")


@pytest.mark.parametrize(
    ("named", "ledger"),
    [
        (None, "config/claims.yaml"),  # no such file
        ("mine", "own.yaml"),
        ("another", "config/claims.yaml"),  # the file is of another experiment
    ],
)
def test_rows_are_judged_by_the_ledger_of_their_experiment(tmp_path, monkeypatch, capsys, named, ledger):
    """Without --claims, from a checkout in which config/mine.yaml names a ledger, or does not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    paper = yaml.safe_load((ROOT / "config" / "claims.yaml").read_text()) | {"table_cells": []}
    (tmp_path / "config" / "claims.yaml").write_text(yaml.safe_dump(paper | {"claims": paper["claims"][:1]}))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(paper | {"claims": paper["claims"][1:3]}))
    grid = experiment(experiment="mine", seeds=[0], strategies=["baseline", "upper"])
    rows = write_grid(tmp_path, grid)
    if named:
        settings = grid.model_dump(mode="json") | {"experiment": named, "claims": "own.yaml"}
        (tmp_path / "config" / "mine.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert ledger_of_rows(rows) == Path(ledger)
    assert main(["judge", "--out", "judged", *map(str, rows)]) == 0
    assert f"4 lines from 4 rows; {'2 claims' if ledger == 'own.yaml' else '1 claim'} not tested" in (
        capsys.readouterr().out
    )


def test_rows_of_several_experiments_are_judged_by_a_ledger_that_is_named(tmp_path, monkeypatch, capsys):
    """Unless theirs is the same: the order of the arguments decides nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    paper = yaml.safe_load((ROOT / "config" / "claims.yaml").read_text())
    ledgers = {"config/claims.yaml": paper, "own.yaml": paper | {"claims": paper["claims"][:1]}}
    for name, ledger in ledgers.items():
        (tmp_path / name).write_text(yaml.safe_dump(ledger))
    rows = {}
    for name, strategy, ledger in (("a", "baseline", "own.yaml"), ("b", "upper", "own.yaml"), ("c", "lower", None)):
        grid = experiment(experiment=name, seeds=[0], strategies=[strategy])
        rows[name] = [str(path) for path in write_grid(tmp_path / name, grid)]
        if ledger:
            settings = grid.model_dump(mode="json") | {"claims": ledger}
            (tmp_path / "config" / f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    for one, other in ("ac", "ca"):
        given = ["--out", "judged", *rows[one], *rows[other]]
        assert main(["judge", *given]) == 2
        of = {"a": "of a, judged by own.yaml", "c": "of c, judged by config/claims.yaml"}
        assert capsys.readouterr().err == (
            f"famba: error: {rows[one][0]} is {of[one]}, and {rows[other][0]} {of[other]}; "
            "name the ledger that is to judge them together: --claims\n"
        )
        assert main(["judge", "--claims", "own.yaml", *given]) == 0
    for names in ("ab", "ba"):
        assert main(["judge", "--out", "judged", *(path for name in names for path in rows[name])]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["claims"][0].update(sourc="x"), "claims.0.sourc: unknown key; did you mean 'source'?"),
        (lambda data: data["claims"][0].update(source="rumour"), "unknown source 'rumour'"),
        (lambda data: data["claims"][0]["tests"][0].update(published=["nothing"]), "which is no published number"),
        (
            lambda data: data["claims"][0]["tests"][0].update(published=["table1-vim_tiny-all-top1"]),
            "compares time_reduction with a top1",
        ),
        (lambda data: data["claims"][0]["tests"][0].update(quantity="top5"), "top5 takes no `against`"),
        (lambda data: data["claims"][0]["tests"][0].update(against=None), "time_reduction needs `against`"),
        (lambda data: data["table_cells"].append(4), "table_cells names table 4, which is not among the tables"),
        (lambda data: data["claims"].append(data["claims"][0]), "is there twice"),
        (lambda data: data["claims"][0].update(tests=[]), "needs either `tests` or a `trade_off`"),
    ],
)
def test_a_wrong_ledger_is_one_line(tmp_path, change, message):
    data = yaml.safe_load((ROOT / "config" / "claims.yaml").read_text())
    change(data)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=r"claims\.yaml: ") as caught:
        load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ledger_without_the_tables_that_it_refers_to_is_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((ROOT / "config" / "starting-layer-claims.yaml").read_text())
    with pytest.raises(InputError, match=rf"^{tmp_path}/claims.yaml: cannot read the claims"):
        load(path)


def test_the_ledger_covers_what_has_been_published():
    """Every published accuracy, time and saving is judged by a claim; the machine's are conditions, not claims."""
    ledgers = [load(ROOT / "config" / f"{name}claims.yaml") for name in ("", "starting-layer-", "tokens-per-layer-")]
    used = {name for ledger in ledgers for claim in ledger.judged for test in claim.tests for name in test.published}
    numbers = {
        n.id
        for n in LEDGER.numbers.values()
        if n.value is not None and n.quantity not in ("gpus", "batch_per_gpu", "time_limit")
    }
    assert used == numbers
    assert len(numbers) == 4 * len(published_rows(ROOT / "config" / "claims.yaml")) + 6
    assert Path(ROOT / "config/schema/claims.json").exists()
