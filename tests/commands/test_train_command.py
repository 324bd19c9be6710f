"""`famba train` as one calls it: alone in its folder, never over a result unasked, bad input in a line."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from famba.cli import main
from famba.commands import train as train_command
from famba.config import Cell
from famba.errors import InputError
from famba.results.row import read_row
from famba.training import lock as cell_lock
from famba.training.lock import exclusive
from famba.training.status import read_status
from tests.helpers import ROOT
from tests.helpers.cells import cell
from tests.helpers.trainings import weights

ONE = {"epochs": 1, "global_batch": 1280, "mixup_batch": 1280, "micro_batch": 64}  # one step


def arguments(folder: Path, settings: Cell, *more: str) -> list[str]:
    return ["train", "--cell", settings.model_dump_json(), "--out", str(folder / "row.json"), *more]


def kept(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "cell"
    assert main(arguments(folder, cell(**ONE))) == 0
    return folder


def test_a_finished_cell_is_left_alone(finished, capsys):
    before = kept(finished)
    beside = {"epochs.csv", "steps.csv", "tokens.npz", "predictions.npz", "weights.pt", "status.json"}
    assert before.keys() == {"row.json", *beside}
    assert main(arguments(finished, cell(**ONE))) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{finished / 'row.json'}: finished with these settings (top-1 ")
    assert "--force" in said.out
    assert said.out.count("\n") == 1
    assert kept(finished) == before


def test_a_result_of_other_settings_is_not_overwritten_unasked(finished, tmp_path, capsys):
    before = kept(finished)
    assert main(arguments(finished, cell(**ONE, lr=0.5))) == 2
    error = capsys.readouterr().err
    assert "the result of other settings (recipe.lr 0.04, now 0.5); --force replaces it" in error
    assert error.count("\n") == 1
    assert kept(finished) == before


def test_again_trains_it_anew(tmp_path, capsys):
    for settings in (cell(**ONE), cell(**ONE, hflip=0.5)):
        assert main(arguments(tmp_path, settings, "--force")) == 0
        assert read_row(tmp_path / "row.json").cell == settings
    first = weights(tmp_path)
    assert main(arguments(tmp_path, cell(**ONE), "--force")) == 0
    assert any(not torch.equal(first[name], tensor) for name, tensor in weights(tmp_path).items())


def test_an_unreadable_row_says_what_to_do(tmp_path, capsys):
    (tmp_path / "row.json").write_text('{"version": 1, "id": "vim_')
    assert main(arguments(tmp_path, cell(**ONE))) == 2
    assert "delete it and run again" in capsys.readouterr().err
    (tmp_path / "row.json").unlink()
    assert main(arguments(tmp_path, cell(**ONE))) == 0


def test_a_training_that_was_to_replace_a_row_and_was_stopped_goes_on(finished, tmp_path, capsys):
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "weights.pt").rename(tmp_path / "checkpoint.pt")
    assert main(arguments(tmp_path, cell(**ONE))) == 0
    assert "resuming after epoch 1 of 1" in capsys.readouterr().err


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_a_second_training_says_who_holds_the_folder_and_touches_nothing(tmp_path):
    """Two real processes; the first is killed, and the next training finds the folder free."""
    command = [sys.executable, "-m", "famba", *arguments(tmp_path, cell(epochs=400))]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / cell_lock.NAME).exists() or not (tmp_path / cell_lock.NAME).read_text():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)  # or it would touch the folder itself
        before = kept(tmp_path)
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert second.returncode == 2
        (line,) = second.stderr.splitlines()
        assert line.startswith(
            f"famba: error: {tmp_path}: another training of this cell is running (process {first.pid} on "
        )
        assert "since 20" in line
        assert kept(tmp_path) == before
    finally:
        first.kill()
        first.wait()
    assert main(arguments(tmp_path, cell(**ONE))) == 0
    assert not (tmp_path / cell_lock.NAME).exists()


def test_the_lock_leaves_nothing_behind(tmp_path):
    with exclusive(tmp_path / "a" / "b"):
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with exclusive(tmp_path / "mine"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


KILLED_WITH_A_CHILD = """
import os, signal, sys, time
from pathlib import Path
from famba.training.lock import exclusive
with exclusive(Path(sys.argv[1])):
    ready, child = os.pipe()
    if os.fork() == 0:
        os.write(child, b"x")
        time.sleep(3)
        os._exit(0)
    os.read(ready, 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_loading_process_that_outlives_its_training_does_not_hold_the_lock(tmp_path):
    """As after a kill -9: a process that was forked under the lock is there for some seconds more."""
    killed = subprocess.run([sys.executable, "-c", KILLED_WITH_A_CHILD, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / cell_lock.NAME).exists()
    with exclusive(tmp_path):
        pass


TAKES_AND_LEAVES = """
import os, sys
from pathlib import Path
from famba.errors import InputError
from famba.training.lock import exclusive
folder, held = Path(sys.argv[1]) / "cell", Path(sys.argv[1]) / "held"
print(os.getpid(), flush=True)
sys.stdin.readline()
for _ in range(400):
    try:
        with exclusive(folder):
            os.close(os.open(held, os.O_CREAT | os.O_EXCL))  # fails if the other one is inside, too
            held.unlink()
    except InputError as error:
        print(error)
"""


def test_two_processes_that_take_and_leave_the_lock_are_refused_only_while_it_is_held(tmp_path):
    command = [sys.executable, "-c", TAKES_AND_LEAVES, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(2)]
    pids = [process.stdout.readline().strip() for process in both]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process, other in zip(both, reversed(pids), strict=True):
        refused, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        for line in refused.splitlines():
            assert f"another training of this cell is running (process {other} on " in line
    assert list(tmp_path.rglob("*.lock")) == []


def test_a_lock_file_that_is_renamed_before_it_is_locked_is_not_the_lock(tmp_path, monkeypatch):
    """NFS: where a machine has a file open, unlinking it there renames it, and its link count stays 1."""
    flock, renamed = fcntl.flock, tmp_path / ".nfs0001"

    def late(*given: int) -> None:
        if not renamed.exists():  # opened, not locked yet: here the holder before unlinks and leaves
            (tmp_path / cell_lock.NAME).rename(renamed)
        flock(*given)

    monkeypatch.setattr("fcntl.flock", late)
    with exclusive(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} on "), exclusive(tmp_path):
        pass


def test_a_folder_whose_name_is_refused_is_not_a_file_system_without_locks(tmp_path, monkeypatch):
    """As vfat does with a colon."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(InputError, match=r"a:b: cannot be written \(Invalid argument\)"),
        exclusive(tmp_path / "a:b"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_a_file_system_has_no_locks_it_is_said(number, tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with exclusive(tmp_path):
        assert "this file system has no locks" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/cell: cannot be written \(Not a directory\)"),
        exclusive(tmp_path / "file" / "cell"),
    ):
        pass


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rendezvous", "host:20000"], "--rendezvous: vim_micro-upper-s0 takes one node"),
        (["--config", "config/smoke.yaml"], "a cell as JSON has all its settings"),
    ],
)
def test_options_that_cannot_be_met_are_one_line(tmp_path, capsys, more, message):
    assert main(arguments(tmp_path / "cell", cell(**ONE), *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_is_one_line_and_the_status(tmp_path, capsys):
    assert main(arguments(tmp_path / "cell", cell(**ONE), "--log", "/proc/x.log")) == 2
    line = capsys.readouterr().err.removeprefix("famba: error: ").rstrip("\n")
    assert line.startswith("--log /proc/x.log: cannot be written (")
    assert "\n" not in line
    assert [path.name for path in (tmp_path / "cell").iterdir()] == ["status.json"]
    assert read_status(tmp_path / "cell").error == line


def test_a_model_that_does_not_fit_is_one_line(tmp_path, capsys):
    settings = json.loads(cell(**ONE).model_dump_json())
    settings["architecture"]["embed_dim"] = settings["architecture"]["d_state"] = 65_536  # a layer of a terabyte
    assert main(arguments(tmp_path, Cell.model_validate(settings))) == 2
    error = capsys.readouterr().err
    assert "does not fit into memory (it asked for " in error
    assert "recipe.micro_batch" in error
    assert error.count("\n") == 1


def test_a_defect_is_no_matter_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), train_command.report_out_of_memory(cell()):
        raise RuntimeError("shapes do not match")
