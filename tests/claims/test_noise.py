"""The noise floor: measured by repeats of a cell, of the same settings only."""

import json
import math
import shutil

import numpy as np
import pytest

from famba.cli import main
from famba.results.row import Row, read_row, write_row
from tests.helpers.rows import changed, experiment, paper_experiment, timed, write_grid


def test_the_noise_floor_is_measured(tmp_path):
    """Seed spread pooled over strategies; repeats of the same seeds apart from it."""
    rows = write_grid(tmp_path, paper_experiment(strategies=["baseline", "upper"]))
    for path in rows[:3]:  # Vim-Ti baseline: the same seeds, each 0.2 points higher
        data = json.loads(path.read_text())
        data["metrics"]["best"]["top1"] += 0.2
        data["started"] = "2026-01-01T00:00:01Z"
        write_row(Row.model_validate(data), tmp_path / "again" / path.parent.name / "row.json")
    # rows behind the option stay rows
    assert main(["judge", "--out", str(tmp_path), "--repeats", str(tmp_path / "again"), *map(str, rows)]) == 0
    floor = {
        (noise["model"], noise["quantity"]): noise
        for noise in json.loads((tmp_path / "claims.json").read_text())["noise"]
    }
    best = floor["vim_tiny", "top1_best_points"]
    values = [[read_row(path).metrics.best.top1 for path in rows[i : i + 3]] for i in (0, 3)]
    assert best["seeds"]["sd"] == pytest.approx(math.sqrt(np.mean([np.var(v, ddof=1) for v in values])))
    assert best["seeds"]["df"] == 4
    assert best["repeats"] == {"sd": pytest.approx(0.2 / math.sqrt(2)), "df": 3}
    assert floor["vim_small", "top1_best_points"]["repeats"] == {"sd": None, "df": 0}


def test_a_repeat_of_other_settings_is_refused(tmp_path, capsys):
    rows = write_grid(tmp_path, experiment(seeds=[0]))
    other = write_grid(tmp_path / "other", experiment(seeds=[1]))
    assert main(["judge", "--out", str(tmp_path), "--repeats", str(tmp_path / "other"), *map(str, rows)]) == 2
    assert "repeats no cell of the rows given" in capsys.readouterr().err
    assert main(["judge", "--out", str(tmp_path), "--repeats", str(other[0]), *map(str, rows)]) == 2
    assert f"{other[0]}: no cells/*/row.json here; name the folder" in capsys.readouterr().err


@pytest.fixture
def one_seed(tmp_path):
    """The smoke grid of a seed, and repeats of it."""
    rows = write_grid(tmp_path / "judged", experiment(seeds=[0]))
    for path in rows:
        row = read_row(path)
        again = tmp_path / "again" / "cells" / path.parent.name / "row.json"
        write_row(timed(row, train=row.time.train * 1.01, total=row.time.total * 1.02), again)
    return rows


def judged(tmp_path, rows, *repeats):
    folders = [word for folder in repeats for word in ("--repeats", str(folder))]
    return main(["judge", "--out", str(tmp_path), *folders, *map(str, rows)])


@pytest.mark.parametrize(
    ("folders", "same"),
    [
        (["judged"], "judged"),  # the rows themselves
        (["again/../judged"], "judged"),
        (["copy"], "judged"),
        (["again", "again"], "again"),
        (["again", "moved"], "again"),
    ],
)
def test_one_training_is_no_repeat_of_itself(tmp_path, one_seed, capsys, folders, same):
    shutil.copytree(tmp_path / "judged", tmp_path / "copy")
    shutil.copytree(tmp_path / "again", tmp_path / "moved")
    first = f"cells/{min(path.parent.name for path in one_seed)}/row.json"
    assert judged(tmp_path, one_seed, *(tmp_path / folder for folder in folders)) == 2
    said = capsys.readouterr().err
    assert said == (
        f"famba: error: {tmp_path / folders[-1] / first}: the same training as {tmp_path / same / first}; "
        "a repeat is a training of its own\n"
    )


def test_repeats_that_differ_in_more_than_chance_are_refused(tmp_path, one_seed, capsys):
    assert judged(tmp_path, one_seed, tmp_path / "again") == 0
    for change, what in (
        ({"data": {"test_digest": "0" * 64}}, "test digest of the data"),
        ({"environment": {"device": "Another CPU"}}, "device"),
        ({"environment": {"threads": 3}}, "threads"),
    ):
        shutil.copytree(tmp_path / "again", tmp_path / "other")
        for path in tmp_path.glob("other/cells/*/row.json"):
            changed(path, **change)
        capsys.readouterr()
        assert judged(tmp_path, one_seed, tmp_path / "other") == 2
        assert f"differ in {what}; a repeat changes nothing" in capsys.readouterr().err
        shutil.rmtree(tmp_path / "other")
