"""Two processes with gloo train what one process trains; `famba train` starts them itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from famba.cli import main
from famba.config import Cell, Experiment
from famba.results.row import read_row
from famba.training import checkpoint
from famba.training.lock import exclusive
from famba.training.status import read_status
from tests.helpers import ROOT
from tests.helpers.cells import MICRO, cell
from tests.helpers.trainings import ends_as, weights

MIXED = cell(mixup=0.8, cutmix=1.0)


def arguments(folder: Path, processes: int, of: Cell = MIXED) -> list[str]:
    settings = of.model_copy(update={"processes": processes}).model_dump_json()
    return ["train", "--cell", settings, "--out", f"{folder}/row.json", "--log", f"{folder}.log"]


def start(folder: Path, of: Cell = MIXED) -> subprocess.Popen[str]:
    """Two processes; what they say is on standard error."""
    command = [sys.executable, "-m", "famba", *arguments(folder, 2, of)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture
def together(once) -> Path:
    """The folder of a cell that two processes trained."""
    return once("two-processes", lambda folder: finish(start(folder / "cell"))) / "cell"


@pytest.mark.slow
def test_two_processes_train_the_same_weights(together, tmp_path):
    assert main(arguments(tmp_path, 1)) == 0
    alone, both = read_row(tmp_path / "row.json"), read_row(together / "row.json")
    assert (alone.environment.world_size, both.environment.world_size) == (1, 2)
    expected, found = weights(tmp_path), weights(together)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=1e-5), name
    assert both.metrics.last.top1 == pytest.approx(alone.metrics.last.top1, abs=0.6)  # two of 360 images
    assert both.metrics.images_seen == alone.metrics.images_seen
    assert len(together.with_name("cell.log").read_text().splitlines()) == 1  # one of them talks


@pytest.mark.slow
def test_a_process_without_test_images_ends_with_the_others(tmp_path):
    """All 360 are one batch; with a threshold each process looks at its own after the training."""
    own = {"similar": {"like": "upper", "settings": {"threshold": 0.5}}}
    recipe = {**MICRO["recipe"], "epochs": 1, "eval_batch": 512}
    grid = Experiment.from_config({**MICRO, "strategies": ["similar"], "schedules": own, "recipe": recipe})
    finish(start(tmp_path / "cell", grid.cell("vim_micro", "similar", 0)))
    row = read_row(tmp_path / "cell" / "row.json")
    assert row.environment.world_size == 2
    assert row.tokens.range is not None


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(together, tmp_path):
    """A signal that one of them gets stops both."""
    folder = tmp_path / "stopped"
    process = start(folder)
    deadline = time.monotonic() + 120
    while not (folder / checkpoint.NAME).exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "stopped by SIGTERM at epoch" in said
    finish(start(folder))
    ends_as(folder, together)
    assert read_row(folder / "row.json").time.runs == 2


def refused(capsys, tmp_path, **changes):
    """The one line that `famba train` says about a cell it cannot start."""
    settings = cell().model_copy(update=changes).model_dump_json()
    assert main(["train", "--cell", settings, "--out", str(tmp_path / "row.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_cell_that_cannot_be_started_says_so_in_its_status(capsys, tmp_path):
    line = refused(capsys, tmp_path, processes=2, nodes=2)
    assert read_status(tmp_path).error == line.removeprefix("famba: error: ")


def test_a_process_other_than_the_first_names_itself(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert refused(capsys, tmp_path, processes=2).startswith("famba: error: rank 3: vim_micro-upper-s0 is for 2 ")
    assert list(tmp_path.iterdir()) == []  # the first one writes


def test_several_nodes_need_a_place_to_meet(capsys, tmp_path):
    assert "--rendezvous HOST:PORT" in refused(capsys, tmp_path, processes=2, nodes=2)


def test_another_number_of_processes_than_the_cells_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "is for 2 processes, not 4" in refused(capsys, tmp_path, processes=2)


def test_a_cell_of_several_processes_is_alone_in_its_folder_too(capsys, tmp_path):
    """Known before torchrun starts them, so that it is said once and in a line."""
    with exclusive(tmp_path):
        assert "another training of this cell is running" in refused(capsys, tmp_path, processes=2)
