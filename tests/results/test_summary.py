"""The summary of rows: values computed by hand, what is pooled, and the tables."""

import csv
import json
import statistics
from pathlib import Path

import pytest
import yaml
from scipy import stats

from famba.cli import main
from famba.errors import InputError
from famba.results.row import Row, read_row, write_row
from famba.results.summary import interval, measures, read_rows, strategy_order, summarise, token_share
from tests.helpers import ROOT
from tests.helpers.rows import experiment, make_row, paper_experiment, write_grid

PAPER_SHARES = {"baseline": 1.0, "all": 0.556, "interleaved": 0.574, "lower": 0.457, "upper": 0.638}  # paper-facts §2


def judged(folder: Path, paths: list[Path]) -> list[dict[str, str]]:
    assert main(["judge", "--out", str(folder), *map(str, paths)]) == 0
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def changed(path: Path, **of: dict) -> None:
    """Rewrite parts of a row: changed(path, time={"train": 3.0})."""
    data = json.loads(path.read_text())
    for part, values in of.items():
        data[part] |= values
    write_row(Row.model_validate(data), path)


def test_values_are_those_computed_by_hand(tmp_path):
    """Two strategies, three seeds, round numbers: means, Student intervals and ratios worked out on paper."""
    paths = write_grid(tmp_path, experiment(strategies=["baseline", "upper"]))[:6]
    trained = {"baseline": (12.0, 22.0, 42.0), "upper": (7.0, 12.0, 17.0)}  # the first 2 s of each are warm-up
    used = {"baseline": (8.0, 16.0, 40.0), "upper": (4.0, 8.0, 15.0)}
    for path in paths:
        cell = read_row(path).cell
        data = json.loads(path.read_text())
        wall, cpu = trained[cell.strategy][cell.seed], used[cell.strategy][cell.seed]
        data["time"] |= {"total": 90.0, "train": wall, "warmup": 2.0, "step_ms": 4.0, "cpu": cpu, "step_cpu_ms": 2.0}
        data["metrics"]["last"] |= {"top1": 90.0 + cell.seed}
        data["metrics"]["best"] |= {"top1": 95.0}
        data["memory"] |= {
            "saved_activations": 3 * 2**20 if cell.strategy == "upper" else 4 * 2**20,
            "host_peak": 2**30,
        }
        write_row(Row.model_validate(data), path)
    baseline, upper = judged(tmp_path, paths)
    assert (baseline["strategy"], upper["strategy"], upper["n"], upper["seeds"]) == ("baseline", "upper", "3", "0 1 2")
    assert float(baseline["train_s"]) == pytest.approx((10 + 20 + 40) / 3, rel=1e-5)
    assert float(upper["train_s"]) == 10.0
    # CPU seconds by seed: 4/8, 8/16, 15/40; a ratio of the means would be 0.4219
    assert float(upper["time_ratio"]) == pytest.approx((0.5 + 0.5 + 0.375) / 3, rel=1e-5)
    assert float(upper["step_ratio"]) == 1.0
    assert float(upper["top1_last_percent"]) == 91.0
    assert float(upper["top1_last_percent_ci95"]) == pytest.approx(4.302653 / 3**0.5, rel=1e-5)  # t(0.975; 2), sd 1
    assert upper["top1_best_percent"] == "95.0"  # of every seed: known to an image of 360, as rounding is
    image = 100 / 360 / 12**0.5
    assert float(upper["top1_best_percent_ci95"]) == pytest.approx(4.302653 * image / 3**0.5, rel=1e-5)
    assert float(upper["saved_activations_ratio"]) == 0.75
    assert float(upper["saved_activations_mib_per_image"]) == 3.0
    assert (upper["peak_memory_mib"], upper["peak_memory_of"]) == ("1024.0", "host resident set")


def test_summary_has_a_line_for_every_model_and_strategy(tmp_path):
    grid = experiment()
    paths = write_grid(tmp_path, grid)
    lines = judged(tmp_path, paths[::-1])  # the order of the arguments does not matter
    assert [(line["model"], line["strategy"]) for line in lines] == [
        (m, s) for m in grid.models for s in grid.strategies
    ]
    assert {line["watermark"] for line in lines} == {"SMOKE"}
    assert (tmp_path / "summary.csv").read_bytes() == _again(tmp_path, paths)


def _again(folder: Path, paths: list[Path]) -> bytes:
    judged(folder / "again", paths)
    return (folder / "again" / "summary.csv").read_bytes()


def test_json_holds_the_few_numbers_that_revisions_are_compared_by(tmp_path):
    grid = experiment(seeds=[0])
    paths = write_grid(tmp_path, grid)
    judged(tmp_path, paths)
    tree = json.loads((tmp_path / "summary.json").read_text())
    upper = measures(read_row(paths[4]))
    assert tree["top1_last_percent"]["vim_tiny_mini"]["upper"] == pytest.approx(upper["top1_last_percent"], rel=1e-5)
    for models in tree.values():
        assert list(models) == list(grid.models)
        assert all(isinstance(value, float) for cells in models.values() for value in cells.values())
    judged(tmp_path, paths[1:5])  # no baseline: a ratio is not there, and not null, which DVC would print
    assert json.loads((tmp_path / "summary.json").read_text())["step_ratio"] == {"vim_tiny_mini": {}}


def test_token_share_of_the_paper():
    cells = paper_experiment(seeds=[0]).cells()
    shares = {cell.strategy: token_share(make_row(cell)) for cell in cells}
    assert shares == pytest.approx(PAPER_SHARES, abs=6e-4)


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [70.1, 71.3, 69.8], [3.0, 3.0, 3.0, 5.0, 9.5]])
def test_interval_is_students(values):
    low, high = stats.t.interval(0.95, len(values) - 1, loc=statistics.fmean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx((high - low) / 2)


def test_no_interval_for_one_seed(tmp_path):
    assert interval([70.0]) is None
    for line in judged(tmp_path, write_grid(tmp_path, experiment(seeds=[4]))):
        assert [line[key] for key in line if key.endswith("_ci95") and line[key]] == []
    assert " ± " not in (tmp_path / "tables" / "summary.md").read_text().split("Top-1:")[0]


def test_a_missing_baseline_leaves_the_ratio_empty(tmp_path):
    paths = write_grid(tmp_path, experiment(strategies=["baseline", "upper"]))
    without = [path for path in paths if path.parent.name != "vim_tiny_mini-baseline-s1"]
    lines = {(line["model"], line["strategy"]): line for line in judged(tmp_path, without)}
    assert lines["vim_tiny_mini", "upper"]["time_ratio"] == ""
    assert lines["vim_tiny_mini", "upper"]["token_share"] != ""  # the prediction needs no baseline
    assert lines["vim_small_mini", "upper"]["time_ratio"] != ""
    assert "0.610 → –" in (tmp_path / "tables" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("part", "change", "what"),
    [
        ("data", {"train_digest": "b" * 64}, "train digest of the data"),
        ("data", {"test_digest": "b" * 64}, "test digest of the data"),
        ("data", {"decoder": "Pillow 12.0.0"}, "decoder of the images"),
        ("environment", {"device": "Another CPU"}, "device"),
        ("environment", {"threads": 64}, "threads"),
        ("scan", {"backend": "reference"}, "scan backend"),
    ],
)
def test_rows_that_differ_are_never_pooled(tmp_path, capsys, part, change, what):
    paths = write_grid(tmp_path, experiment())
    changed(paths[7], **{part: change})
    assert main(["judge", "--out", str(tmp_path), *map(str, paths)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(paths[7]) in error
    assert f"differ in {what} (" in error
    assert not (tmp_path / "summary.csv").exists()


def test_settings_that_differ_are_never_pooled(tmp_path):
    smoke = write_grid(tmp_path / "smoke", experiment(seeds=[0]))
    other = experiment(seeds=[1])
    for change, what in (
        (
            {"recipe": {**other.recipe.model_dump(), "epochs": 3}},
            rf"recipe\.epochs of vim_\w+_mini \({other.recipe.epochs} and 3\)",
        ),
        ({"protocol": "custom"}, "protocol"),
        ({"models": {"vim_tiny_mini": {"embed_dim": 32, "depth": 8}}}, r"architecture\.depth of vim_tiny_mini"),
    ):
        more = write_grid(tmp_path / what[:6], experiment(seeds=[1], **change))
        with pytest.raises(InputError, match=f"differ in {what}"):
            read_rows([*smoke, *more])


def test_seeds_pool_that_start_each_from_its_own_checkpoint_as_the_recipe_says(tmp_path):
    def grid(folder, init):
        smoke = experiment()
        recipe = {**smoke.recipe.model_dump(), "init": init}
        paths = write_grid(tmp_path / folder, experiment(protocol="custom", recipe=recipe))
        for path in paths:
            seed = read_row(path).cell.seed
            changed(path, init={"weights": "weights.pt", "sha256": f"{seed:064x}"})
        return paths

    paths = grid("each", "s{seed}.pt")
    assert len(read_rows(paths)) == len(paths)
    changed(paths[-1], init={"sha256": "f" * 64})
    with pytest.raises(InputError, match=r"differ in initial weights of vim_\w+ of seed 2 "):
        read_rows(paths)
    with pytest.raises(InputError, match="differ in initial weights of"):
        read_rows(grid("one", "all.pt"))


def test_a_cell_given_twice_is_refused(tmp_path):
    paths = write_grid(tmp_path / "a", experiment(seeds=[0]))
    again = write_grid(tmp_path / "b", experiment(seeds=[0]))
    with pytest.raises(InputError, match="both row vim_tiny_mini-baseline-s0"):
        read_rows([*paths, again[0]])
    with pytest.raises(InputError, match="given twice"):
        read_rows([*paths, paths[0]])


def test_own_strategies_follow_the_papers():
    assert strategy_order(["zeta", "upper", "alpha", "baseline"]) == ["baseline", "upper", "alpha", "zeta"]


def test_tables_say_what_was_run(tmp_path):
    judged(tmp_path / "smoke", write_grid(tmp_path / "smoke", experiment()))
    judged(tmp_path / "paper", write_grid(tmp_path / "paper", paper_experiment()))
    for kind in ("md", "tex"):
        smoke = (tmp_path / "smoke" / "tables" / f"summary.{kind}").read_text()
        paper = (tmp_path / "paper" / "tables" / f"summary.{kind}").read_text()
        assert "SMOKE: not evidence about the paper" in smoke
        assert (
            "protocol smoke, digits (1,437 training and 360 test images), Some CPU (2 threads), seeds 0, 1, 2" in smoke
        )
        assert "SMOKE" not in paper
        assert "protocol paper, recipe paper-scripts, cifar100" in paper
        assert "Vim-Ti" in paper


def test_markdown_columns_are_aligned(tmp_path):
    judged(tmp_path, write_grid(tmp_path, experiment()))
    table = [line for line in (tmp_path / "tables" / "summary.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) == 2 + 10
    bars = [[i for i, char in enumerate(line) if char == "|"] for line in table]
    assert bars == bars[:1] * len(bars)


def test_latex_is_escaped_and_balanced(tmp_path):
    judged(tmp_path, write_grid(tmp_path, experiment()))
    text = (tmp_path / "tables" / "summary.tex").read_text()
    assert r"vim\_tiny\_mini" in text
    assert text.count("{") == text.count("}")
    assert [line for line in text.splitlines() if "%" in line.replace(r"\%", "")] == []
    assert {line.count(" & ") for line in text.splitlines() if line.endswith(r"\\")} == {7}
    assert text.isascii()


def test_the_official_files_are_not_claimed_for_others(tmp_path):
    paths = write_grid(tmp_path, paper_experiment(seeds=[0]))
    for path in paths:
        changed(path, data={"official": False})
    judged(tmp_path, paths)
    assert "not the official files" in (tmp_path / "tables" / "summary.md").read_text()


def test_every_published_number_has_a_source_and_an_id_of_its_own():
    """The numbers themselves: claims/test_published.py."""
    claims = yaml.safe_load((ROOT / "config" / "claims.yaml").read_text())
    assert all(n["source"] in claims["sources"] for n in claims["published"])
    ids = [n["id"] for n in claims["published"]]
    assert len(ids) == len(set(ids))


def test_summarise_needs_no_files():
    rows = {Path(cell.id): make_row(cell) for cell in experiment(seeds=[0]).cells()}
    assert [line["n"] for line in summarise(rows)] == [1] * 10
