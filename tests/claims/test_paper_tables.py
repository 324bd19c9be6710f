"""The paper's tables, measured beside published: which rows, which differences, and what is left out."""

import csv
import io

import pytest
from scipy import stats

from famba.claims import ledger
from famba.claims.paper_tables import PaperTable, paper_tables
from famba.cli import main
from famba.results import summary
from famba.results.row import read_row
from tests.helpers import ROOT
from tests.helpers.rows import changed, experiment, paper_experiment, write_grid

CLAIMS = ROOT / "config" / "claims.yaml"
LEDGER = ledger.load(CLAIMS)
STARTS = {15: 15, 14: 14, 6: 9}  # some of Table 2: tokens per layer by the layer from which `upper` fuses
EACH = (9, 2)  # some of Table 3


def starting_layer(**changes):
    schedules = {f"start_{start}": [0] * (start - 1) + [r] * (25 - start) for start, r in STARTS.items()}
    given = {"models": ["vim_tiny"], "schedules": schedules, "strategies": ["baseline", *schedules]}
    return paper_experiment(**given | changes)


def tokens_per_layer(**changes):
    schedules = {f"tokens_{r}": [0] * 5 + [r] * 19 for r in EACH}
    return paper_experiment(models=["vim_tiny"], schedules=schedules, strategies=["baseline", *schedules], **changes)


def tables_of(paths) -> list[PaperTable]:
    rows = summary.read_rows(paths)
    return paper_tables(LEDGER, summary.summarise(rows), list(rows.values()))


@pytest.mark.parametrize(
    ("grid", "table", "lines", "measured"),
    [
        (paper_experiment, 1, 10, 10),
        (starting_layer, 2, 15, 4),  # 14 settings and the model without fusion
        (tokens_per_layer, 3, 10, 3),
    ],
)
def test_an_experiment_gets_its_own_table_whole(tmp_path, grid, table, lines, measured):
    (found,) = tables_of(write_grid(tmp_path, grid(seeds=[0])))
    assert found.table == table
    assert found.published
    assert len(found.lines) == lines
    assert sum(line.line is not None for line in found.lines) == measured
    assert all(n.published is not None for line in found.lines for n in line.numbers.values())


def test_a_difference_is_measured_less_published_with_students_interval(tmp_path):
    paths = write_grid(tmp_path, starting_layer(seeds=[0, 1, 2]))
    (table,) = tables_of(paths)
    line = next(line for line in table.lines if line.start == 14)
    assert (line.strategy, line.r, line.line["strategy"]) == ("upper", 14, "start_14")
    top1 = line.numbers["top1"]
    values = [read_row(path).metrics.best.top1 for path in paths if "start_14" in str(path)]
    mean, half = sum(values) / 3, stats.sem(values) * stats.t.ppf(0.975, 2)
    assert top1.published == 73.6
    assert top1.difference == pytest.approx(mean - 73.6)
    assert top1.interval == pytest.approx((mean - 73.6 - half, mean - 73.6 + half))
    assert table.lines[0].strategy == "baseline"
    assert table.lines[0].numbers["top1"].published == 70.1


def test_one_seed_has_a_difference_and_no_interval(tmp_path):
    (table,) = tables_of(write_grid(tmp_path, starting_layer(seeds=[0])))
    top1 = table.lines[0].numbers["top1"]
    assert top1.difference is not None
    assert top1.interval is None


def test_hours_are_subtracted_on_the_published_machine_only(tmp_path):
    for gpus, compared in ((1, False), (4, True)):
        paths = write_grid(tmp_path / str(gpus), starting_layer(seeds=[0]))
        for path in paths:
            machine = {"world_size": gpus, "device": "NVIDIA A100-SXM4-40GB"}
            changed(path, cell={"processes": gpus}, environment=machine)
        (table,) = tables_of(paths)
        assert (table.lines[0].numbers["time"].difference is not None) is compared


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "custom"},
        {"recipe": {"epochs": 10}},  # a row that only claims the paper's protocol
        {"models": {"vim_tiny": {"embed_dim": 96, "cls_position": "head"}}},
    ],
)
def test_rows_of_another_experiment_stand_beside_no_published_number(tmp_path, changes):
    (table,) = tables_of(write_grid(tmp_path, starting_layer(**{"seeds": [0]} | changes)))
    assert not table.published
    assert all(n.published is None for line in table.lines for n in line.numbers.values())
    assert [line.start for line in table.lines] == [None, *STARTS]


def test_a_smoke_report_has_the_layout_without_published_numbers(tmp_path):
    schedules = {"start_6": [0] * 5 + [4] * 7, "start_9": [0] * 8 + [9] * 4}
    grid = experiment(seeds=[0], schedules=schedules, strategies=["baseline", *schedules])
    assert _report(tmp_path, write_grid(tmp_path, grid)) == 0
    text = (tmp_path / "report.md").read_text()
    assert "### In the layout of Table 2 of the paper: starting layer" in text
    assert "The paper's numbers are left out (SMOKE: not evidence about the paper)" in text
    lines = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    assert {line["published"] for line in lines} == {""}
    settings = [(line["starting_layer"], line["tokens_per_layer"]) for line in lines if line["quantity"] == "top1"]
    assert settings == [("", ""), ("9", "9"), ("6", "4")] * 2  # of two models


def test_all_four_forms_hold_every_number(tmp_path):
    paths = write_grid(tmp_path, tokens_per_layer(seeds=[0, 1, 2]))
    assert _report(tmp_path, paths) == 0
    (table,) = tables_of(paths)
    html, markdown, tex = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md", "tex"))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    assert len(lines) == len(table.lines) * 4
    for line in table.lines:
        top1 = line.numbers["top1"]
        exact = next(x for x in lines if (x["quantity"], x["tokens_per_layer"]) == ("top1", str(line.r or "")))
        assert float(exact["published"]) == top1.published
        if line.line:
            low, high = top1.interval
            shown = f"{top1.difference:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
            assert shown in markdown
            assert shown in html
            assert shown.replace("−", "$-$") in tex
            assert float(exact["difference_low"]) == pytest.approx(low, rel=1e-4)
        else:
            assert exact["measured"] == ""
    assert "Table 3 of the paper" in tex


def test_rows_of_no_table_print_none(tmp_path):
    grid = experiment(seeds=[0], schedules={"mine": [0] * 11 + [3]}, strategies=["baseline", "mine"])
    paths = write_grid(tmp_path, grid)
    assert tables_of(paths) == []
    assert _report(tmp_path, paths) == 0
    assert (tmp_path / "report.csv").read_text().count("\n") == 1
    assert "of the paper:" not in (tmp_path / "report.md").read_text()


def _report(folder, rows) -> int:
    given = ["--claims", str(CLAIMS), *map(str, rows)]
    assert main(["judge", "--out", str(folder), *given]) == 0
    deviations = str(ROOT / "docs" / "deviations.md")
    return main(["report", "--out", str(folder / "report.html"), "--deviations", deviations, *given])
