"""A training that is asked to stop saves a checkpoint at the next step, and ends later as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from famba.cli import main
from famba.errors import Stopped
from famba.results.row import read_row
from famba.training import checkpoint, status, train
from famba.training.stop import SIGNALS, StopRequest, stop_request
from famba.training.train import Training
from tests.helpers import ROOT
from tests.helpers.cells import cell, small_cell
from tests.helpers.trainings import ends_as

DATA = Path("data")
STEPS = 1437 // 256  # of an epoch of the small cell
SAVED = (checkpoint.NAME, checkpoint.PREVIOUS, status.NAME)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    Training(small_cell(), folder, DATA).run()
    return folder


@pytest.fixture(scope="module")
def undisturbed_process(tmp_path_factory) -> Path:
    """Of the cell that trains long enough for a signal to reach its process."""
    folder = tmp_path_factory.mktemp("undisturbed_process")
    Training(cell(), folder, DATA).run()
    return folder


def stopping(folder: Path, at: tuple[int, int] | None, **recipe: object) -> Training:
    """A training that is asked to stop after that step of that epoch, or after the first step that it takes."""
    training = Training(small_cell(**recipe), folder, DATA)
    progress_step = training.progress.step

    def step(epoch: int, step: int, *rest: int) -> None:
        progress_step(epoch, step, *rest)
        if at in (None, (epoch, step)):
            training.stop.signal = signal.SIGTERM

    training.progress.step = step
    return training


@pytest.mark.parametrize("at", [(0, 1), (0, STEPS - 1), (1, 3), (1, STEPS), (2, STEPS)])
def test_stopped_after_a_step_it_ends_as_if_undisturbed(at, undisturbed, tmp_path, capsys):
    epoch, step = at
    with pytest.raises(Stopped, match=rf"stopped by SIGTERM at epoch {epoch + 1} of 3, step {step} of {STEPS}; run it"):
        stopping(tmp_path, at).run()
    assert not (tmp_path / "row.json").exists()
    row = Training(small_cell(), tmp_path, DATA).run()
    assert f"resuming after epoch {epoch + 1} of 3, step {step} of {STEPS}" in capsys.readouterr().err
    ends_as(tmp_path, undisturbed)
    assert (tmp_path / "steps.csv").read_bytes() == (undisturbed / "steps.csv").read_bytes()
    assert row.time.runs == 2
    assert row.time.total >= row.time.train + row.time.evaluation + row.time.ema_evaluation


@pytest.mark.parametrize(
    "recipe", [{"augmentation": "timm", "workers": 2, "epochs": 1}, {"micro_batch": 32, "epochs": 1}]
)
def test_the_steps_that_are_left_see_the_images_that_they_would_have_seen(recipe, tmp_path):
    Training(small_cell(**recipe), tmp_path / "undisturbed", DATA).run()
    with pytest.raises(Stopped):
        stopping(tmp_path / "stopped", (0, 4), **recipe).run()
    Training(small_cell(**recipe), tmp_path / "stopped", DATA).run()
    ends_as(tmp_path / "stopped", tmp_path / "undisturbed")


@pytest.mark.parametrize("call", [1, 2])  # of the weights, of their moving average
def test_stopped_while_it_evaluates(call, undisturbed, tmp_path):
    training = Training(small_cell(), tmp_path, DATA)
    evaluate, calls = training._evaluate, []

    def evaluation(*args: object, **named: object) -> tuple[float, float]:
        calls.append(args)
        if len(calls) == call:
            training.stop.signal = signal.SIGUSR1
        return evaluate(*args, **named)

    training._evaluate = evaluation
    with pytest.raises(Stopped, match=rf"stopped by SIGUSR1 at epoch 1 of 3, step {STEPS} of {STEPS}"):
        training.run()
    Training(small_cell(), tmp_path, DATA).run()
    ends_as(tmp_path, undisturbed)


def test_stopped_at_every_step(undisturbed, tmp_path):
    """Each run takes one step, the shortest that a scheduler can leave it."""
    runs = 0
    while not (tmp_path / "row.json").exists():
        with suppress(Stopped):
            stopping(tmp_path, None).run()
        runs += 1
    assert read_row(tmp_path / "row.json").time.runs == runs == 3 * STEPS + 1  # the last run has no step left
    ends_as(tmp_path, undisturbed)


def test_a_long_epoch_is_saved_in_between(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_S", 0.0)
    training, positions = Training(small_cell(), tmp_path, DATA), []
    save = training._save

    def saved() -> None:
        save()
        positions.append(training.position())

    training._save = saved
    training.run()
    assert positions[:2] == [f"epoch 1 of 3, step 1 of {STEPS}", f"epoch 1 of 3, step 2 of {STEPS}"]
    ends_as(tmp_path, undisturbed)


def command(folder: Path) -> list[str]:
    given = ["--cell", cell().model_dump_json(), "--out", f"{folder}/row.json"]
    return [sys.executable, "-m", "famba", "train", *given]


@pytest.mark.parametrize("by", SIGNALS)
def test_a_process_that_is_asked_to_stop_says_where_and_what_the_signal_was(by, undisturbed_process, tmp_path):
    process = subprocess.Popen(command(tmp_path), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / checkpoint.NAME).exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(by)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + by, said
    assert f"famba: vim_micro-upper-s0: stopped by {by.name} at epoch " in said.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} <= {*SAVED, "epochs.csv"}
    left = status.read_status(tmp_path)
    assert (left.state, left.signal, left.error) == ("stopped", by, None)
    state = status.cell_state(tmp_path)
    assert (state.kind, state.note) == ("stopped", f"by {by.name}")
    assert f"at epoch {left.checkpoint_epochs + bool(left.checkpoint_steps)} of 3" in said
    assert (f"step {left.checkpoint_steps} of" in said) == bool(left.checkpoint_steps)
    assert main(command(tmp_path)[3:]) == 0
    ends_as(tmp_path, undisturbed_process)


def test_the_handlers_are_there_for_the_training_only():
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_request() as request:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert request == StopRequest(signal.SIGUSR1)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_loading_process_dies_of_the_signal_as_ever():
    with stop_request() as request:
        if (child := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert request.signal is None
