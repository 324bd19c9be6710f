"""The paper's two studies of `upper`, Tables 2 and 3: the experiments, their smoke versions, and their figures."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from famba.claims.ledger import published_rows
from famba.claims.sweeps import SWEEPS, sweeps
from famba.config import Experiment
from famba.config.protocol import deviation
from famba.figures import NAMES, names_of, style
from famba.figures.captions import CAPTIONS
from famba.figures.draw import figure
from famba.figures.palette import colours
from famba.figures.results import Results, read_results
from famba.figures.style import PAPER
from famba.figures.svg import Origin
from famba.results.summary import strategy_order
from famba.strategies import tokens_per_layer
from tests.helpers import ROOT
from tests.helpers.drawings import texts
from tests.helpers.pages import Page, report
from tests.helpers.pipeline import jobs, snakemake
from tests.helpers.rows import experiment, paper_experiment, write_grid

CLAIMS = ROOT / "config" / "claims.yaml"
STUDIES = {"starting-layer": 2, "tokens-per-layer": 3}
MINI_DEPTH, MINI_TOKENS = 12, 65


def load(name: str) -> Experiment:
    return Experiment.load(ROOT / "config" / f"{name}.yaml")


def published(table: int) -> dict[str, tuple[int, ...]]:
    """Each row of a table as the schedule that it describes, by the name of its strategy here."""
    rows = [row for row in published_rows(CLAIMS) if row.table == table]
    named = {f"start_{row.start}" if table == 2 else f"tokens_{row.r}": row for row in rows}
    return {name: (0,) * (row.start - 1) + (row.r,) * (25 - row.start) for name, row in named.items()}


def stars(made: Figure) -> list[tuple[float, float]]:
    """Where the figure has a point of the paper."""
    lines = [line for axes in made.axes for line in axes.get_lines() if line.get_marker() == "*"]
    return [point for line in lines for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]


@pytest.fixture(scope="module", params=STUDIES)
def study(request, tmp_path_factory) -> tuple[Experiment, Path, list[Path]]:
    """The grid of a study as its file has it, two seeds, and rows of made-up numbers."""
    settings = load(request.param).model_dump()
    grid = paper_experiment(**{key: settings[key] for key in settings if key != "protocol"} | {"seeds": [0, 1]})
    folder = tmp_path_factory.mktemp(request.param)
    return grid, folder, write_grid(folder, grid)


@pytest.mark.parametrize(("name", "table"), STUDIES.items())
def test_an_experiment_trains_the_rows_of_its_table_and_the_model_without_fusion(name, table):
    grid = load(name)
    schedules = {cell.strategy: cell.schedule for cell in grid.cells()}
    assert schedules.pop("baseline") == (0,) * 24
    assert schedules == published(table)
    assert list(grid.models) == ["vim_tiny"]
    assert len(grid.seeds) == 3
    assert grid.protocol == "paper"
    assert all(deviation(cell) is None for cell in grid.cells())


@pytest.mark.parametrize(("name", "table"), STUDIES.items())
def test_a_smoke_version_removes_the_papers_share_in_the_same_part_of_the_layers(name, table):
    grid = load(f"smoke-{name}")
    assert grid.protocol == "smoke"
    assert len(grid.seeds) == 1
    whole = published(table)
    small = {cell.strategy: cell for cell in grid.cells() if cell.strategy != "baseline"}
    assert len(small) == (7 if table == 2 else 9)
    for strategy, cell in small.items():
        start = int(strategy.partition("_")[2])
        paper = whole[f"start_{2 * start - 1}" if table == 2 else strategy]
        left = tokens_per_layer(cell.schedule, MINI_TOKENS, 0)[-1]
        assert MINI_TOKENS - left == round(sum(paper) * (MINI_TOKENS - 1) / 196)
        first = next(i for i, r in enumerate(cell.schedule) if r)
        assert first == (paper.index(max(paper)) // 2)
        assert cell.architecture.depth == MINI_DEPTH


@pytest.mark.parametrize("name", STUDIES)
def test_the_pipeline_draws_the_studys_figure(checkout, name):
    config = f"config/smoke-{name}.yaml"
    cells = len(load(f"smoke-{name}").cells())
    said = snakemake(checkout, "-n", "--configfile", config, "--verbose").stdout
    assert jobs(said)["train"] == cells
    assert f"figures/{name.replace('-', '_')}.svg" in said
    assert "report.csv" in said


def test_an_experiment_of_no_study_has_no_figure_of_one():
    assert names_of(["baseline", "upper", "start_15"])[: len(NAMES)] == list(NAMES)  # one setting is no study
    assert names_of(["baseline", "start_2", "start_15"])[0] == "starting_layer"
    assert sweeps(["tokens_9", "tokens_1", "start_x", "tokens"]) == [SWEEPS[1]]


def test_the_papers_points_stand_where_its_table_has_them(study):
    grid, _, rows = study
    results = read_results(rows, CLAIMS)
    (sweep,) = sweeps(grid.strategies)
    made = figure(sweep.name, results)
    table = [row for row in published_rows(CLAIMS) if row.table == sweep.table]
    at = [row.start if sweep.table == 2 else row.r for row in table]
    expected = {
        *((x, row.top1) for x, row in zip(at, table, strict=True)),
        *((x, row.time_s / 16382) for x, row in zip(at, table, strict=True)),
        *((x, row.memory_mib / 8302) for x, row in zip(at, table, strict=True)),
    }
    assert set(stars(made)) == expected
    assert {PAPER, "paper, no fusion", "Vim-Ti", sweep.axis} <= texts(made)


def test_measured_points_are_means_over_seeds(study):
    grid, _, rows = study
    results = read_results(rows, CLAIMS)
    (sweep,) = sweeps(grid.strategies)
    (line,) = [line for line in figure(sweep.name, results).axes[0].get_lines() if line.get_marker() == "^"]
    means = results.seeds.groupby("strategy")["top1_best_percent"].mean()
    shown = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert shown == pytest.approx({sweep.number(name): mean for name, mean in means.items() if name != "baseline"})


def test_upper_stands_among_the_settings_that_vary_it(tmp_path):
    results = read_results(write_grid(tmp_path, load("cifar100-small")), ROOT / "config" / "cifar100-small-claims.yaml")
    (line,) = [line for line in figure("starting_layer", results).axes[0].get_lines() if line.get_marker() == "^"]
    assert list(line.get_xdata()) == [2, 3, 4, 6, 8]  # `upper` of twelve layers starts in the third


def test_settings_that_fuse_nothing_are_left_out_of_a_study(tmp_path):
    schedules = {"start_2": [0] + [4] * 11, "start_9": [0] * 8 + [9] * 4, "start_12": [0] * 12}
    grid = experiment(schedules=schedules, strategies=["baseline", *schedules])
    results = read_results(write_grid(tmp_path, grid), CLAIMS)
    (line,) = [line for line in figure("starting_layer", results).axes[0].get_lines() if line.get_marker() == "^"]
    assert list(line.get_xdata()) == [2, 9]
    (table,) = results.tables
    assert [line.start for line in table.lines] == [None, 9, 2] * len(grid.models)


def test_a_study_of_which_nothing_fuses_shows_the_model_without_fusion(tmp_path):
    schedules = {"tokens_1": [0] * 12, "tokens_2": [0] * 12}
    grid = experiment(seeds=[0], schedules=schedules, strategies=["baseline", *schedules])
    results = read_results(write_grid(tmp_path, grid), CLAIMS)
    assert "no fusion" in texts(figure("tokens_per_layer", results))
    assert results.tables == []


@pytest.mark.parametrize("name", STUDIES)
def test_smoke_rows_stand_beside_no_point_of_the_paper(tmp_path, name):
    results = read_results(write_grid(tmp_path, load(f"smoke-{name}")), CLAIMS)
    made = figure(name.replace("-", "_"), results)
    assert stars(made) == []
    assert PAPER not in texts(made)
    assert [text.get_text() for text in made.texts if text.get_gid() == "watermark-smoke"] == ["SMOKE"]
    made.draw_without_rendering()
    needed, (width, height) = made.get_tightbbox(), made.get_size_inches()
    assert min(needed.x0, needed.y0) >= 0
    assert needed.x1 <= width
    assert needed.y1 <= height


def test_the_page_shows_a_study_first_and_only_its_own(tmp_path, study):
    grid, _, _ = study
    rows = write_grid(tmp_path, grid)
    (sweep,) = sweeps(grid.strategies)
    results = read_results(rows, CLAIMS)
    with style.theme():
        made = figure(sweep.name, results)
        style.save(made, tmp_path / "figures", sweep.name, CAPTIONS[sweep.name], origin=Origin(results.digest))
    assert report(tmp_path, rows) == 0
    figures = [a["id"] for a in Page((tmp_path / "report.html").read_text()).all("figure")]
    assert figures[0] == f"figure-{sweep.name}"
    assert not {f"figure-{other.name}" for other in SWEEPS if other != sweep} & set(figures)


def test_settings_are_in_the_order_of_their_numbers_with_colours_of_their_own():
    names = strategy_order([f"start_{n}" for n in range(2, 16)] + ["baseline", "upper"])
    assert names == ["baseline", "upper", *(f"start_{n}" for n in range(2, 16))]
    assert len(set(colours(names).values())) == len(names)


def test_results_know_the_tables(study) -> None:
    grid, _, rows = study
    results: Results = read_results(rows, CLAIMS)
    assert [table.table for table in results.tables] == [sweeps(grid.strategies)[0].table]
