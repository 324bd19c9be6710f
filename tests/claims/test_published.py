"""The paper's tables in the ledger: whole, consistent with each other, and refused where they are not."""

import subprocess
import sys

import pytest

from famba.claims.ledger import files, load, published_rows
from famba.claims.verdicts import judge
from famba.config import Experiment
from famba.errors import InputError
from famba.text import model_name
from tests.helpers import ROOT
from tests.helpers.rows import make_row, paper_experiment

LEDGER = ROOT / "config" / "claims.yaml"
ROWS = published_rows(LEDGER)


def test_the_paper_has_31_distinct_trainings_in_33_rows():
    assert [sum(row.table == n for row in ROWS) for n in (1, 2, 3)] == [10, 14, 9]
    distinct = {(row.model, row.top1, row.top5, row.time_s, row.memory_mib) for row in ROWS}
    assert sorted(row[0] for row in distinct) == ["vim_small"] * 5 + ["vim_tiny"] * 26


def test_the_training_in_all_three_tables_has_the_same_numbers_in_each():
    (upper,) = [row for row in ROWS if (row.table, row.model, row.strategy) == (1, "vim_tiny", "upper")]
    others = [row for row in ROWS if (row.r, row.start) == (9, 6)]
    assert [row.table for row in others] == [2, 3]
    for row in others:
        assert (row.top1, row.top5, row.time_s, row.memory_mib) == (70.5, 90.5, 14920, 5996)
        assert (upper.top1, upper.top5, upper.time_s, upper.memory_mib) == (70.5, 90.5, 14920, 5996)


def test_published_rows_are_read_without_torch():
    code = (
        "import sys; from famba.claims.ledger import published_rows; published_rows(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(("table", "experiment"), [(1, "paper"), (2, "starting-layer"), (3, "tokens-per-layer")])
def test_every_cell_of_a_table_is_a_claim_on_the_cell_of_an_experiment(table, experiment):
    grid = Experiment.load(ROOT / "config" / f"{experiment}.yaml")
    ledger = load(ROOT / grid.claims)
    assert ledger.table_cells == [table]
    cells = {claim.id: claim for claim in ledger.judged if claim.id.startswith(f"table{table}-")}
    rows = [row for row in ROWS if row.table == table]
    assert len(cells) == 4 * len(rows)
    values = [ledger.numbers[name].value for name in cells]
    printed = [(row.top1, row.top5, row.time_s / 3600, float(row.memory_mib)) for row in rows]
    assert [tuple(values[i : i + 4]) for i in range(0, len(values), 4)] == printed
    for claim in cells.values():
        (test,) = claim.tests
        cell = grid.cell(test.models[0], test.strategies[0], 0)
        assert ledger.schedules.get(cell.strategy, cell.schedule) == cell.schedule


def test_a_ledger_is_read_from_its_file_and_from_the_one_that_has_its_tables():
    own, tables = ROOT / "config" / "starting-layer-claims.yaml", ROOT / "config" / "claims.yaml"
    assert files(own) == [own, tables]
    assert files(tables) == [tables]


def test_a_line_of_table_2_is_judged_on_its_own_schedule_only():
    ledger = load(ROOT / "config" / "starting-layer-claims.yaml")
    grid = paper_experiment(
        models=["vim_tiny"], strategies=["baseline", "start_15"], schedules={"start_15": {"from": 14, "r": 15}}
    )
    rows = [make_row(cell) for cell in grid.cells()]
    name = "table2-vim_tiny-start_15-top1"

    def verdict(rows):
        return next(v for v in judge(ledger, rows, []).verdicts if v.id == name)

    assert verdict(rows).verdict != "not tested"
    other = grid.model_copy(update={"schedules": {"start_15": (0,) * 15 + (15,) * 9}})
    refused = verdict([make_row(cell) for cell in other.cells()])
    assert refused.verdict == "not tested"
    assert "schedule of start_15 is [0, 0" in refused.reason


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('time: "4:33:02"', "time: 16382", "time"),
        ('time: "4:33:02"', 'time: "4:63:02"', "'4:63:02' is no time"),
        ("table: 3", "table: 2", "table 2 is there twice"),
        ("r: 1, start: 6", "r: 2, start: 6", "table 3 lists vim_tiny upper 2 6 twice"),
        ("page: 7\n    source: paper", "page: 7\n    source: article2", "table 1 has the unknown source 'article2'"),
    ],
)
def test_a_table_with_a_slip_is_refused(tmp_path, old, new, message):
    text = LEDGER.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / "claims.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        published_rows(path)


def test_the_page_of_facts_has_the_same_tables():
    page = (ROOT / "docs" / "paper-facts.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    for row in ROWS:
        time = f"{row.time_s // 3600}:{row.time_s // 60 % 60:02}:{row.time_s % 60:02}"
        numbers = [f"{row.top1:.1f}", f"{row.top5:.1f}", time, str(row.memory_mib)]
        if row.table == 1:
            strategy = "none" if row.strategy == "baseline" else row.strategy
            what = [model_name(row.model), strategy]
        else:
            what = [str(row.start), str(row.r)] if row.table == 2 else [str(row.r), str(row.start)]
        assert sum(line[: len(what + numbers)] == what + numbers for line in lines) == 1, what
