"""Two processes with gloo train what one process trains; `famba train` starts them itself."""

import os
import subprocess
import sys

import pytest
import torch

from famba.cli import main
from famba.results.row import read_row
from famba.training.lock import exclusive
from famba.training.status import read_status
from tests.helpers import ROOT
from tests.helpers.cells import cell
from tests.helpers.trainings import weights


def train(folder, processes):
    settings = cell(epochs=2, mixup=0.8, cutmix=1.0).model_copy(update={"processes": processes}).model_dump_json()
    command = ["-m", "famba", "train", "--cell", settings, "--out", f"{folder}/row.json", "--log", f"{folder}.log"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, timeout=300, check=True)
    return read_row(folder / "row.json")


@pytest.mark.slow
def test_two_processes_train_the_same_weights(tmp_path):
    alone, together = train(tmp_path / "1", 1), train(tmp_path / "2", 2)
    assert (alone.environment.world_size, together.environment.world_size) == (1, 2)
    expected, found = weights(tmp_path / "1"), weights(tmp_path / "2")
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=1e-5), name
    assert together.metrics.last.top1 == pytest.approx(alone.metrics.last.top1, abs=0.6)  # two of 360 images
    assert together.metrics.images_seen == alone.metrics.images_seen
    assert len((tmp_path / "2.log").read_text().splitlines()) == 1  # one of them talks


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
