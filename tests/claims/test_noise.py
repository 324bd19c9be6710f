"""The noise floor: measured by repeats of a cell, of the same settings only."""

import json
import math

import numpy as np
import pytest

from famba.cli import main
from famba.results.row import Row, read_row, write_row
from tests.helpers.rows import experiment, paper_experiment, write_grid


def test_the_noise_floor_is_measured(tmp_path):
    """Seed spread pooled over strategies; repeats of the same seeds apart from it."""
    rows = write_grid(tmp_path, paper_experiment(strategies=["baseline", "upper"]))
    for path in rows[:3]:  # Vim-Ti baseline: the same seeds, each 0.2 points higher
        data = json.loads(path.read_text())
        data["metrics"]["best"]["top1"] += 0.2
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
