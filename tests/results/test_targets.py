"""The time to a target accuracy, against a loop over epochs; trainings that never reach it are counted."""

from pathlib import Path

import pytest

from famba.results.epochs import EPOCH_FIELDS, write_epochs
from famba.results.row import read_row
from famba.results.summary import read_rows
from famba.results.targets import Line, Targets, measure
from famba.results.targets_table import csv, targets_table
from tests.helpers.rows import changed, experiment, write_grid

MODEL = {"vim_a": {"embed_dim": 192}}
CURVES = {
    ("baseline", 0): [20, 50, 70, 80], ("baseline", 1): [10, 60, 75, 70], ("baseline", 2): [30, 71, 60, 90],
    ("upper", 0): [40, 72, 73, 74], ("upper", 1): [40, 50, 60, 69], ("upper", 2): [71, 60, 60, 60],
}  # fmt: skip
SECONDS, WARMUP = [12.0, 9.0, 8.0, 11.0], 3.0


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two strategies, three seeds; `upper` takes three fifths of the time."""
    grid = experiment(strategies=["baseline", "upper"], models=MODEL, recipe={"epochs": 4, "warmup_epochs": 1})
    written = write_grid(tmp_path, grid)
    for path in written:
        cell = read_row(path).cell
        share = 0.6 if cell.strategy == "upper" else 1.0
        cpu, curve = [share * s for s in SECONDS], CURVES[cell.strategy, cell.seed]
        time = {"train": 2 * sum(cpu), "warmup": WARMUP, "cpu": sum(cpu) - share, "total": 3 * sum(cpu)}
        changed(path, time=time | {"evaluation": 1.0, "ema_evaluation": 1.0})
        best = curve.index(max(curve))
        changed(
            path,
            metrics={
                "last": {"top1": curve[-1], "top5": 95.0},
                "best": {"epoch": best, "top1": max(curve), "top5": 95.0},
            },
        )
        lines = [
            dict.fromkeys(EPOCH_FIELDS, 1.0) | {"epoch": e, "top1": curve[e], "train_s": 2 * cpu[e], "cpu_s": cpu[e]}
            for e in range(4)
        ]
        write_epochs(lines, path.with_name("epochs.csv"))
    return written


def timed(paths: list[Path], **targets: float) -> Targets:
    return measure(read_rows(paths), "d" * 64, {model: (top1, "of a test") for model, top1 in targets.items()})


def lines(found: Targets) -> dict[str, Line]:
    return {line.strategy: line for line in found.lines}


def test_the_first_epoch_that_reaches_the_target(paths):
    found = timed(paths, vim_a=70)
    for line in found.lines:
        share = 0.6 if line.strategy == "upper" else 1.0
        for one in line.trainings:
            epoch, wall, cpu = 0, -WARMUP, -share  # the first step is left out, by either clock
            for top1 in CURVES[line.strategy, one.seed]:
                wall, cpu, epoch = wall + 2 * share * SECONDS[epoch], cpu + share * SECONDS[epoch], epoch + 1
                if top1 >= 70:
                    assert (one.epoch, one.train_s, one.compared_s) == (epoch, pytest.approx(wall), pytest.approx(cpu))
                    break
            else:
                assert (one.epoch, one.train_s, one.compared_s) == (None, None, None)


def test_a_training_that_never_gets_there_counts_as_slower_than_all(paths):
    baseline, upper = lines(timed(paths, vim_a=70)).values()
    assert (baseline.n, baseline.reached, baseline.epochs) == (3, 3, 3)
    assert baseline.time_s == pytest.approx(28)
    assert (baseline.fastest_s, baseline.slowest_s) == (pytest.approx(20), pytest.approx(28))
    assert (upper.n, upper.reached, upper.epochs) == (3, 2, 2)
    assert upper.time_s == pytest.approx(0.6 * 20)  # of 0.6 * 11, 0.6 * 20 and never
    assert upper.slowest_s is None
    assert upper.ratio == pytest.approx(0.6 * 20 / 28)  # of 0.6 * 20/28, never, 0.6 * 11/20
    table = targets_table(timed(paths, vim_a=70), "").markdown
    assert "2 of 3" in table
    assert ", never]" in table


def test_where_most_never_get_there_no_median_is_made_up(paths):
    found = timed(paths, vim_a=74)
    baseline, upper = lines(found).values()
    assert (baseline.reached, upper.reached) == (3, 1)
    assert (upper.epochs, upper.time_s, upper.ratio) == (None, None, None)
    assert upper.fastest_s == pytest.approx(0.6 * 39)
    assert " never [23.40, never] |" in targets_table(found, "").markdown
    assert "vim_a,upper,1,74.0,,,\n" in csv(found)
    nobody = lines(timed(paths, vim_a=99))["upper"]
    assert (nobody.reached, nobody.fastest_s, nobody.ratio) == (0, None, None)


def test_no_ratio_to_a_model_that_never_gets_there(paths):
    assert lines(timed(paths, vim_a=78))["baseline"].reached == 2
    assert all(line.ratio is None for line in timed(paths, vim_a=78).lines)


def test_the_target_is_what_all_reach_unless_one_is_set(paths):
    (target,) = timed(paths).targets
    assert target.top1 == 69  # the best epoch of upper's second seed
    assert all(line.reached == line.n for line in timed(paths).lines)
    note = targets_table(timed(paths), "")
    assert "target 69.00 %, the highest that every training of this model reaches." in note.sentences[0]
    assert "the target is taken from there as well" in note.note
    assert "taken from there" not in targets_table(timed(paths, vim_a=70), "").note


def test_on_a_gpu_the_clock_is_the_walls(tmp_path):
    paths = write_grid(tmp_path, experiment(device="cuda", strategies=["baseline"], models=MODEL, seeds=[0]))
    found = timed(paths)
    assert found.clock == "wall clock"
    assert all(one.compared_s == one.train_s for line in found.lines for one in line.trainings)


def test_a_row_without_its_epochs_is_left_out_with_the_reason(paths):
    paths[0].with_name("epochs.csv").unlink()
    paths[1].with_name("epochs.csv").write_text("epoch\n")
    found = timed(paths)
    assert [line.n for line in found.lines] == [1, 3]
    assert [line.split(":")[0] for line in found.left_out] == ["1 row left out", "1 row left out"]
    assert "epochs.csv: cannot read the metrics per epoch" in found.left_out[0]
    assert str(paths[0].parent) not in " ".join(found.left_out)


def test_the_epochs_of_another_training_are_left_out(paths):
    paths[0].with_name("epochs.csv").write_text(paths[1].with_name("epochs.csv").read_text())
    found = timed(paths)
    assert [line.n for line in found.lines] == [2, 3]
    (line,) = found.left_out
    assert line.startswith("1 row left out: epochs.csv: ends in another accuracy than the row")
