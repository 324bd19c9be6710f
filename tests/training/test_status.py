"""status.json as real trainings write it: while they run, and however they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from famba.cli import main
from famba.commands.watch import table
from famba.errors import InputError, Stopped
from famba.results.row import read_row
from famba.training import progress
from famba.training.progress import Progress
from famba.training.status import Status, cell_state, read_status
from famba.training.train import Training
from tests.helpers import ROOT
from tests.helpers.cells import cell
from tests.helpers.disks import fill, mounted

STEPS = 1437 // 128  # of an epoch
LONG = 400  # epochs: a training that is still there when it is asked to end


def arguments(folder: Path, **recipe: object) -> list[str]:
    return ["train", "--cell", cell(**recipe).model_dump_json(), "--out", str(folder / "row.json")]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a training in a process of its own; it does not outlive the test."""
    processes = []

    def start(folder: Path, **recipe: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "famba", *arguments(folder, **recipe)]
        processes.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until(folder: Path, holds: Callable[[Status], bool]) -> Status:
    """The first status of which that holds. It is read again and again: it must be whole every time."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (status := read_status(folder)) and holds(status):
            return status
        time.sleep(0.01)
    raise AssertionError(status)


def test_a_training_that_is_killed_has_died_and_the_next_one_finishes(started, tmp_path):
    folder = tmp_path / cell().id
    process = started(folder, epochs=LONG)
    status = until(folder, lambda status: status.checkpoint_epochs > 0 and status.state == "training")
    assert (status.cell, status.pid, status.host) == (folder.name, process.pid, socket.gethostname())
    assert (status.epochs, status.steps) == (LONG, STEPS)
    assert status.epoch >= status.checkpoint_epochs
    assert 1 <= status.step <= STEPS
    assert None not in (status.images_per_s, status.loss, status.top1, status.left_s)
    assert status.memory_mib > 100
    assert cell_state(folder).kind == "training"
    process.kill()
    process.wait()
    state = cell_state(folder)
    assert (state.kind, state.epochs) == ("died", LONG)
    assert "died" in table([state], "micro")[0]

    assert main(arguments(folder)) == 0  # other settings: it starts anew, and ends
    status = read_status(folder)
    assert (status.state, status.epoch, status.left_s, status.pid) == ("finished", 3, 0, os.getpid())
    assert status.top1 == read_row(folder / "row.json").metrics.last.top1
    assert (status.checkpoint_epochs, status.checkpoint_steps) == (3, 0)
    assert cell_state(folder).kind == "done"


def test_a_training_that_is_interrupted_names_the_signal(started, tmp_path):
    """So does one that is asked in kind: test_stop.py."""
    process = started(tmp_path, epochs=LONG)
    until(tmp_path, lambda status: status.checkpoint_epochs > 0)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    status = read_status(tmp_path)
    assert (status.state, status.signal, status.error) == ("stopped", signal.SIGINT, None)
    state = cell_state(tmp_path)
    assert (state.kind, state.note) == ("stopped", "by SIGINT")


def test_a_training_that_fails_leaves_its_line(tmp_path, capsys):
    log = tmp_path / "log"
    assert main([*arguments(tmp_path, lr=1e4), "--log", str(log)]) == 1
    line = capsys.readouterr().err.splitlines()[-1].removeprefix("famba: error: ")
    assert ": the loss is " in line
    assert (read_status(tmp_path).state, read_status(tmp_path).error) == ("failed", line)
    assert table([cell_state(tmp_path)], "micro")[0].endswith(line)
    assert log.read_text().splitlines()[-1] == line


def test_a_defect_leaves_its_name(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("shapes\ndo not match")

    monkeypatch.setattr(Training, "run", broken)
    with pytest.raises(RuntimeError, match="do not match"):
        main(arguments(tmp_path))
    assert (read_status(tmp_path).state, read_status(tmp_path).error) == ("failed", "RuntimeError: shapes do not match")


def test_a_line_that_is_not_unicode_is_escaped(tmp_path):
    """Python's error messages hold a path that is not UTF-8 with surrogates; famba's own escape them."""
    with pytest.raises(InputError, match=r"caf\\udce9"), Progress("a-cell", epochs=1, folder=tmp_path).recorded():
        raise InputError("caf\udce9: cannot be read")
    assert (read_status(tmp_path).state, read_status(tmp_path).error) == ("failed", "caf\\udce9: cannot be read")


def test_a_resumed_training_counts_its_own_steps(tmp_path, monkeypatch):
    class Slow(Progress):
        def step(self, epoch: int, step: int, *rest: int) -> None:
            super().step(epoch, step, *rest)
            if (epoch, step) == (1, 4) and not resumed:
                training.stop.signal = signal.SIGTERM
            if (epoch, step) == (1, 5):
                assert read_status(tmp_path).top1 == first_top1 is not None  # of the first run's first epoch

    monkeypatch.setattr(progress, "_STATUS_S", 0.0)
    for resumed in (False, True):
        line = Slow(cell().id, 3, folder=tmp_path)
        training = Training(cell(), tmp_path, Path("data"), line)
        if resumed:
            with line.recorded():
                training.run()
        else:
            with pytest.raises(Stopped), line.recorded():
                training.run()
            status = read_status(tmp_path)
            assert (status.epoch, status.step, status.checkpoint_epochs, status.checkpoint_steps) == (2, 4, 1, 4)
            first_top1 = status.top1
    status = read_status(tmp_path)
    assert (status.epoch, status.step, status.left_s) == (3, STEPS, 0)


# -- what happens to the file does not happen to the training ----------------------------------------------------------


def test_a_status_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, capsys, monkeypatch):
    """A folder is in its place: each of many writes fails."""
    monkeypatch.setattr(progress, "_STATUS_S", 0.0)
    (tmp_path / "status.json").mkdir()
    log = tmp_path / "log"
    assert main([*arguments(tmp_path), "--log", str(log)]) == 0
    assert read_row(tmp_path / "row.json").metrics.last.top1 > 50
    lost = [line for line in capsys.readouterr().err.splitlines() if "status.json" in line]
    assert lost == [line for line in log.read_text().splitlines() if "status.json" in line]
    (line,) = lost
    assert "status.json: cannot be written (Is a directory)" in line
    assert line.endswith("meanwhile the training continues without it")
    assert not list(tmp_path.glob(".*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        yield disk


def test_a_full_disk_is_said_once_and_a_cleared_one_is_used_again(small_disk, monkeypatch, capsys):
    """Full from the second step to the end of the first epoch; then there is place again for checkpoint and row."""
    monkeypatch.setattr(progress, "_STATUS_S", 0.0)
    filler, full = small_disk / "filler", []

    class Filled(Progress):
        def step(self, epoch: int, step: int, *rest: int) -> None:
            if (epoch, step) == (0, 2):
                fill(filler)
            super().step(epoch, step, *rest)
            if (epoch, step) == (0, 5):
                full.append(read_status(small_disk))

        def epoch(self, top1: float) -> None:
            filler.unlink(missing_ok=True)
            super().epoch(top1)

    monkeypatch.setattr("famba.commands.train.Progress", Filled)
    assert main(arguments(small_disk)) == 0
    said = capsys.readouterr().err
    assert said.count("status.json: cannot be written (No space left on device)") == 1
    assert full[0].step == 1  # the last one that could be written, whole
    assert read_status(small_disk).state == "finished"
    assert read_row(small_disk / "row.json").metrics.last.top1 > 50


def test_it_is_written_once_a_second_at_most(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(progress, "write_status", lambda folder, status: written.append((now[0], status.step)))
    line = Progress("a-cell", epochs=1, folder=tmp_path)
    with line.recorded():
        line.start(0.0)
        for step in range(1, 101):  # a step takes a sixteenth of a second, the evaluation as long as the steps
            now[0] += 0.0625
            line.step(0, step, 100, 64, 0.5)
        for _ in range(100):
            now[0] += 0.0625
            line.evaluating()
    assert [at for at, _ in written] == [0.0, *map(float, range(1, 13)), 12.5]
    assert [step for _, step in written][:4] == [None, 16, 32, 48]


def test_the_time_left_goes_on_falling_in_an_evaluation(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    line = Progress("a-cell", epochs=4, folder=tmp_path)
    now[0] = 10.0
    line.step(0, 10, 10, 64, 0.5)
    assert (read_status(tmp_path).left_s, read_status(tmp_path).whole_s) == (30, 40)
    now[0] = 18.0
    line.evaluating()
    assert (read_status(tmp_path).left_s, read_status(tmp_path).whole_s) == (22, 40)
    now[0] = 60.0
    line.evaluating()
    assert read_status(tmp_path).left_s == 0


def test_a_resumed_training_is_estimated_whole(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    line = Progress("a-cell", epochs=4, folder=tmp_path)
    line.start(done=3.0)
    now[0] = 10.0
    line.step(3, 10, 10, 64, 0.5)
    assert (read_status(tmp_path).left_s, read_status(tmp_path).whole_s) == (0, 40)


def test_the_end_of_a_training_is_evaluation_too(tmp_path):
    """Evaluations and pairs of steps take minutes at 224 pixels: none of them is silent."""
    reports = []

    class Counted(Progress):
        def evaluating(self) -> None:
            reports.append(self._at.epoch)
            super().evaluating()

    Training(cell(epochs=1, eval_batch=60), tmp_path, Path("data"), Counted(cell().id, 1)).run()
    batches = 360 // 60
    assert len(reports) == 2 * batches + 1 + 3  # weights, moving average; before the row; its pairs


def test_without_a_folder_and_in_other_processes_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in (Progress("a-cell", epochs=1), Progress("a-cell", epochs=1, folder=tmp_path, silent=True)):
        with line.recorded():
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_is_there_already_leaves_the_status_alone(tmp_path):
    assert main(arguments(tmp_path, epochs=1)) == 0
    before = (tmp_path / "status.json").read_bytes()
    assert main(arguments(tmp_path, epochs=1)) == 0
    assert main(arguments(tmp_path, epochs=2)) == 2  # the result of other settings
    assert (tmp_path / "status.json").read_bytes() == before
    assert json.loads(before)["state"] == "finished"
