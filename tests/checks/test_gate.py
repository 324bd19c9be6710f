"""`famba check --against` on made-up rows: what is a regression and what is none, and the outputs."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from famba.checks import baseline, gate
from famba.cli import main
from famba.errors import InputError
from famba.results.epochs import read_epochs, write_epochs
from famba.results.row import read_row
from famba.results.summary import read_rows
from tests.helpers.rows import changed, experiment, paper_experiment, write_grid


@pytest.fixture
def grid(tmp_path) -> tuple[list[Path], Path]:
    """Made-up rows of the smoke grid, and the baseline frozen from them."""
    paths = write_grid(tmp_path, experiment())
    frozen = tmp_path / "baselines" / "smoke.json"
    assert main(["check", "--freeze", str(frozen), *map(str, paths)]) == 0
    return paths, frozen


def scaled(path: Path, **factors: float) -> None:
    """Multiply columns of the metrics per epoch beside a row."""
    epochs = read_epochs(path.with_name("epochs.csv"))
    for epoch in epochs:
        epoch |= {name: epoch[name] * factor for name, factor in factors.items()}
    write_epochs(epochs, path.with_name("epochs.csv"))


def slower(path: Path, factor: float) -> None:
    """By the wall clock and in CPU time."""
    scaled(path, images_per_s=1 / factor, cpu_s=factor)


def with_top1(path: Path, top1: float) -> None:
    """Another accuracy after the last epoch, and after the best one."""
    accuracy = {"top1": top1, "top5": 99.9}
    changed(path, metrics={"last": accuracy, "best": accuracy})


def regressions(paths: list[Path], frozen: Path) -> set[tuple[str, str]]:
    lines = gate.check(read_rows(paths), baseline.read(frozen))
    return {(line.check, line.cell) for line in lines if line.verdict == "regression"}


def test_the_same_rows_pass(grid, capsys):
    paths, frozen = grid
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 0
    out = capsys.readouterr().out
    assert "all 56 checks hold" in out
    assert frozen.stat().st_size < 20_000
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1


def test_less_accuracy_is_a_regression_and_more_is_none(grid):
    paths, frozen = grid
    fused = [path for path in paths if "small_mini-lower" in path.parent.name]
    for path in fused:
        top1 = read_row(path).metrics.last.top1
        with_top1(path, top1 - 8)
    expected = {("top-1 (%)", "vim_small_mini-lower"), ("top-1 less baseline's (points)", "vim_small_mini-lower")}
    assert regressions(paths, frozen) == expected
    assert regressions([path for path in paths if path.parent.name.endswith("s1")], frozen) == expected  # one seed
    for path in fused:
        with_top1(path, 99.0)
    assert regressions(paths, frozen) == set()


def test_a_drop_within_the_seeds_scatter_is_none(grid):
    """Significant or not: less than one standard deviation of a seed stops nothing."""
    paths, frozen = grid
    for path in paths:
        if "small_mini-lower" in path.parent.name:
            with_top1(path, read_row(path).metrics.last.top1 - 0.3)
    assert regressions(paths, frozen) == set()


def test_time_is_a_ratio_to_the_same_runs_baseline(grid):
    paths, frozen = grid
    for path in paths:
        slower(path, 3)  # another machine: everything takes three times as long
    assert regressions(paths, frozen) == set()
    one = [path for path in paths if path.parent.name.endswith("s0")]
    slower(next(path for path in one if "tiny_mini-upper" in path.parent.name), 1.3)
    assert regressions(one, frozen) == {("time ratio", "vim_tiny_mini-upper")}
    assert gate.check(read_rows(one), baseline.read(frozen), time_margin=0.4)[-1].verdict == "ok"


def test_a_baseline_of_an_earlier_format_is_one_line(grid):
    _, frozen = grid
    frozen.write_text(frozen.read_text().replace('"version":2', '"version":1'))
    with pytest.raises(InputError, match="format version 1, but this famba reads version 2; `famba"):
        baseline.read(frozen)


def test_a_neighbour_on_a_cpu_is_no_regression(grid):
    """It halves the images per second of one cell and leaves its CPU time."""
    paths, frozen = grid
    for path in paths:
        if "tiny_mini-upper" in path.parent.name:
            scaled(path, images_per_s=0.5)
    assert regressions(paths, frozen) == set()


def test_on_a_gpu_a_time_ratio_is_of_the_wall_clock(tmp_path):
    """The host's CPU time says nothing of a GPU's step."""
    paths = write_grid(tmp_path, paper_experiment(seeds=[0], strategies=["baseline", "upper"]))
    rows = read_rows(paths)
    upper = next(path for path in paths if path.parent.name == "vim_tiny-upper-s0")
    before = baseline.time_ratios(upper, rows)
    scaled(upper, cpu_s=5)
    assert baseline.time_ratios(upper, rows) == before
    scaled(upper, images_per_s=0.5)
    assert baseline.time_ratios(upper, rows) == pytest.approx([2 * ratio for ratio in before], abs=1e-3)


def test_times_of_a_shared_machine_are_left_out(grid):
    paths, frozen = grid
    assert main(["check", "--freeze", str(frozen), "--without-times", *map(str, paths)]) == 0
    fused = next(path for path in paths if path.parent.name == "vim_tiny_mini-upper-s0")
    slower(fused, 3.0)
    assert regressions(paths, frozen) == set()
    assert not [line for line in gate.check(read_rows(paths), baseline.read(frozen)) if line.check == "time ratio"]


@pytest.mark.parametrize(("more", "verdict"), [(1, "regression"), (-1, "better")])
def test_memory_is_compared_exactly(grid, more, verdict):
    paths, frozen = grid
    for path in paths[:3]:
        changed(path, memory={"saved_activations": read_row(path).memory.saved_activations + more})
    lines = gate.check(read_rows(paths), baseline.read(frozen))
    assert next(line.verdict for line in lines if line.check.startswith("saved")) == verdict


def test_a_cell_that_is_gone_is_a_regression(grid):
    paths, frozen = grid
    assert regressions(paths[3:], frozen) == {("present", "vim_tiny_mini-baseline")}


def test_outputs_of_a_failed_gate(grid, tmp_path, capsys, monkeypatch):
    paths, frozen = grid
    changed(paths[0], memory={"saved_activations": 10**9})
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    junit = tmp_path / "gate.xml"
    assert main(["check", "--against", str(frozen), "--junit", str(junit), *map(str, paths)]) == 1
    said = capsys.readouterr()
    assert "1 of 56 checks failed: saved activations (bytes/image) of vim_tiny_mini-baseline" in said.err
    assert said.out.splitlines()[2].endswith("| regression |")  # failures come first
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("56", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "now 1,000,000,000" in failure.get("message", "")
    assert (tmp_path / "summary.md").read_text().startswith("### famba check: gate")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipe": {"lr": 4e-2}},
            f"differ in recipe.lr (0.04 and {experiment().recipe.lr}); if that is meant to be, freeze",
        ),
        ({"fusion": {"order": "tome", "budget": "proportional"}}, "differ in fusion"),
        (
            {"models": {"vim_tiny_mini": {"embed_dim": 16, "depth": 12, "img_size": 32, "patch_size": 4}}},
            "architecture",
        ),
    ],
)
def test_other_settings_are_no_regression_but_bad_input(grid, tmp_path, capsys, change, message):
    _, frozen = grid
    smoke = experiment().model_dump()
    paths = write_grid(tmp_path / "other", experiment(**{k: {**smoke[k], **v} for k, v in change.items()}))
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data": {"test_digest": "0" * 64}}, "test digest of the data"),
        ({"data": {"decoder": "another"}}, "decoder of the images"),
        ({"init": {"weights": "x.pt", "sha256": "0" * 64}}, "training from scratch"),
    ],
)
def test_other_images_and_other_initial_weights_are_bad_input(grid, capsys, change, what):
    paths, frozen = grid
    for path in paths:
        changed(path, **change)
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 2
    assert f"differ in {what} (" in capsys.readouterr().err
    assert main(["check", "--freeze", str(frozen), *map(str, paths)]) == 0
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 0
    if "init" in change:
        for path in paths:
            changed(path, init={"sha256": "1" * 64})
        assert main(["check", "--against", str(frozen), *map(str, paths)]) == 2
        assert "differ in initial weights of vim_tiny_mini (1111" in capsys.readouterr().err


def test_a_baseline_needs_seeds_and_its_reference(grid, tmp_path):
    paths, _ = grid
    with pytest.raises(InputError, match="has 2 seeds; a baseline needs 3 of every cell"):
        baseline.freeze(read_rows(paths[:2]))
    with pytest.raises(InputError, match="seed 0 has no row of the baseline"):
        baseline.freeze(read_rows(paths[3:6]))


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', "[1"])
def test_a_damaged_baseline_is_one_line(grid, tmp_path, capsys, text):
    paths, frozen = grid
    frozen.write_text(text)
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 2
    error = capsys.readouterr().err
    assert f"{frozen}: not a valid baseline" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data["cells"][1]["top1"].pop(), "vim_tiny_mini-all: 2 top1 and 3 time_ratios of 3 seeds"),
        (lambda data: data["cells"][1]["time_ratios"].pop(), "vim_tiny_mini-all: 3 top1 and 2 time_ratios of 3 seeds"),
        (lambda data: data["cells"][1]["time_ratios"][1].clear(), "time_ratios of different numbers of epochs"),
        (lambda data: data["cells"][1]["time_ratios"][1].__setitem__(0, 0), "cells.1.time_ratios.1.0: "),
        (lambda data: data.update(learning_rates=[]), "learning_rates: "),
        (lambda data: data.update(cells=[]), "cells: "),
        (lambda data: data["cells"][1].update(seeds=[0, 1, 7]), "cells: vim_tiny_mini-all has seed 7, and"),
        (lambda data: data["cells"][1].update(seeds=[0, 1, 1]), "2 different seeds of 3, 3 are needed"),
        (lambda data: data["cells"][1].update(seeds=[0], top1=[9], time_ratios=[]), "1 different seed of 1, 3 are"),
        (lambda data: data["cells"].pop(0), "vim_tiny_mini-all has seed 0, and vim_tiny_mini-baseline has not"),
        (lambda data: data["cells"].append(data["cells"][0]), "cells: a model and strategy are there twice"),
        (lambda data: data["models"].pop("vim_tiny_mini"), "vim_tiny_mini-baseline is of no model in models"),
    ],
)
def test_a_baseline_that_contradicts_itself_is_one_line(grid, capsys, spoil, message):
    paths, frozen = grid
    data = json.loads(frozen.read_text())
    spoil(data)
    frozen.write_text(json.dumps(data))
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 2
    error = capsys.readouterr().err
    assert f"{frozen}: not a valid baseline: " in error
    assert message in error
    assert error.count("\n") == 1


def test_a_damaged_epochs_csv_is_one_line(grid, tmp_path, capsys):
    paths, frozen = grid
    new, file = tmp_path / "new.json", paths[0].with_name("epochs.csv")
    whole = file.read_text()
    file.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    for option, place in (("--against", frozen), ("--freeze", new)):
        assert main(["check", option, str(place), *map(str, paths)]) == 2
        assert f"{file}: expected epochs 0 to " in capsys.readouterr().err
    file.write_text(whole)
    scaled(paths[0], cpu_s=0)
    for option, place in (("--against", frozen), ("--freeze", new)):
        assert main(["check", option, str(place), *map(str, paths)]) == 2
        assert f"{file}: cpu_s of epoch 0 is 0.0, expected a positive number" in capsys.readouterr().err


def test_a_summary_that_cannot_be_written_hides_no_verdict(grid, capsys, monkeypatch):
    paths, frozen = grid
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/proc/x")
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("GITHUB_STEP_SUMMARY=/proc/x: cannot be written (")
    assert said.err.count("\n") == 1
    changed(paths[0], memory={"saved_activations": 10**9})
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "FROZEN", "--without-times"], "--without-times belongs to --freeze"),
        (["--freeze", "NEW", "--time-margin", "0.1"], "--time-margin belongs to --against"),
        (["--rules", "--time-margin", "0.1"], "--time-margin belongs to --against"),
        (["--freeze", "NEW", "--junit", "NEW"], "--junit belongs to a check"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(grid, tmp_path, capsys, options, message):
    paths, frozen = grid
    places = {"FROZEN": str(frozen), "NEW": str(tmp_path / "new")}
    assert main(["check", *(places.get(word, word) for word in options), *map(str, paths)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
