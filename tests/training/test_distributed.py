"""Two processes with gloo train what one process trains; `famba train` starts them itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from famba.cli import main
from famba.config import Cell, Experiment
from famba.data import seeds
from famba.methods import draws
from famba.results.row import read_row
from famba.training import checkpoint
from famba.training.distributed import Processes
from famba.training.lock import exclusive
from famba.training.status import read_status
from famba.training.timing import Meter
from famba.training.train import Training
from tests.helpers import ROOT
from tests.helpers.cells import MICRO, cell, small_cell
from tests.helpers.trainings import ends_as, weights


def by_chance(**recipe: object) -> Cell:
    """One whose method draws, too."""
    own = {"by_chance": {"like": "upper", "method": "random_merge"}}
    settings = {"strategies": ["by_chance"], "schedules": own, "recipe": {**MICRO["recipe"], **recipe}}
    return Experiment.from_config({**MICRO, **settings}).cell("vim_micro", "by_chance", 0)


MIXED = by_chance(mixup=0.8, cutmix=1.0, epochs=5)
LONG = small_cell(epochs=1000)


def arguments(folder: Path, processes: int, of: Cell = MIXED) -> list[str]:
    settings = of.model_copy(update={"processes": processes}).model_dump_json()
    return ["train", "--cell", settings, "--out", f"{folder}/row.json", "--log", f"{folder}.log"]


def start(folder: Path, of: Cell = MIXED, *more: str) -> subprocess.Popen[str]:
    """Two processes; what they say is on standard error."""
    command = [sys.executable, "-m", "famba", *arguments(folder, 2, of), *more]
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


@pytest.mark.parametrize(("processes", "micro_batch"), [(1, 16), (2, 64), (4, 16)])
def test_an_image_draws_the_same_whichever_process_has_it(processes, micro_batch, tmp_path, monkeypatch):
    def keys(rank: int, processes: int, micro_batch: int) -> list[torch.Tensor]:
        """Of a rank's images, for each of an epoch's first steps."""
        world, of = Processes(rank, processes), by_chance(micro_batch=micro_batch)
        training = Training(of, tmp_path, Path("data"), world=world)
        model, made = training.model, []

        def backward(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            made.append(draws.by_place(model.key, len(images)))
            return torch.zeros(())

        monkeypatch.setattr(training.state.step, "backward", backward)
        monkeypatch.setattr(training.state.step, "update", lambda: None)
        monkeypatch.setattr(training, "_request", lambda: 0)
        training.meter = Meter(training.history, training.device, training.world, training.train_loader)
        training._train_steps(1)
        return torch.cat(made).view(training.epoch_steps, -1)

    monkeypatch.setattr(Processes, "all_sum_", lambda *_: None)
    expected = keys(0, 1, 64)
    assert len(expected.unique()) == expected.numel()
    found = torch.cat([keys(rank, processes, micro_batch) for rank in range(processes)], dim=1)
    assert torch.equal(found, expected)
    step_1 = seeds.derived_seed(0, "reduction", 1, 1, 0) >> 1
    assert torch.equal(expected[1], draws.by_place(torch.tensor(step_1), 128))  # of one process, as it always was


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
@pytest.mark.parametrize("eval_batch", [512, 359])
def test_a_process_with_few_or_no_test_images_ends_with_the_others(eval_batch, tmp_path):
    """Of 360, the second has none or one; with a threshold each process looks at its own after the training."""
    own = {"similar": {"like": "upper", "settings": {"threshold": 0.5}}}
    recipe = {**MICRO["recipe"], "epochs": 1, "eval_batch": eval_batch}
    grid = Experiment.from_config({**MICRO, "strategies": ["similar"], "schedules": own, "recipe": recipe})
    finish(start(tmp_path / "cell", grid.cell("vim_micro", "similar", 0)))
    row = read_row(tmp_path / "cell" / "row.json")
    assert row.environment.world_size == 2
    assert row.tokens.range is not None


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(together, tmp_path):
    """Their launcher hands on the signal that it gets, and a signal that one of them gets stops both."""
    folder = tmp_path / "stopped"
    process = start(folder)
    until(process, (folder / checkpoint.NAME).exists)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1
    assert f"famba: {MIXED.id}: stopped by SIGUSR1 at epoch " in said.splitlines()[-1]
    finish(start(folder))
    ends_as(folder, together)
    assert read_row(folder / "row.json").time.runs == 2


def until(process: subprocess.Popen[str], holds: Callable[[], object]) -> None:
    """Wait until something holds, while that process runs."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def ranks_of(launcher: int) -> list[int]:
    """Process ids of the ranks, the newest last."""
    return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named_and_a_killed_launcher_leaves_none(tmp_path):
    folder = tmp_path / "cell"
    process = start(folder, LONG)
    until(process, (folder / checkpoint.NAME).exists)
    os.kill(ranks_of(process.pid)[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL
    line = f"famba: {LONG.id}: rank 1 was killed by SIGKILL; run it again to resume from the last checkpoint"
    assert said.splitlines()[-1] == line

    process = start(folder, LONG)
    until(process, lambda: (status := read_status(folder)) and status.state == "training")
    ranks = ranks_of(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (read_status(folder).state, read_status(folder).signal) == ("stopped", signal.SIGTERM)


@pytest.mark.slow
def test_what_no_rank_can_use_is_said_once(tmp_path):
    process = start(tmp_path / "cell", MIXED.model_copy(update={"dataset": "cifar100"}), "--data", f"{tmp_path}/none")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    (line,) = said.splitlines()
    assert line.startswith(f"famba: error: {tmp_path}/none/cifar-100-binary.tar.gz is missing")
    assert read_status(tmp_path / "cell").error == line.removeprefix("famba: error: ")


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


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK"])
def test_an_environment_that_is_none_of_torchruns(capsys, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "one")
    assert f"{name}='one' in the environment: expected a whole number" in refused(capsys, tmp_path)


def test_processes_that_do_not_divide_a_batch_are_refused(capsys, tmp_path):
    line = refused(capsys, tmp_path, processes=3)
    assert "nodes 1 must divide processes 3, and that must divide recipe.global_batch 128" in line


def test_several_nodes_need_a_place_to_meet(capsys, tmp_path):
    assert "--rendezvous HOST:PORT" in refused(capsys, tmp_path, processes=2, nodes=2)


def test_another_number_of_processes_than_the_cells_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "is for 2 processes, not 4" in refused(capsys, tmp_path, processes=2)


def test_a_cell_of_several_processes_is_alone_in_its_folder_too(capsys, tmp_path):
    """Known before torchrun starts them, so that it is said once and in a line."""
    with exclusive(tmp_path):
        assert "another training of this cell is running" in refused(capsys, tmp_path, processes=2)
