"""Disks that fill up, folders that vanish, memory that runs out: one line, and the next run ends as if undisturbed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from famba.cli import main
from famba.config import Cell, Experiment
from famba.config.image_folder import ListedFolder
from famba.cost.memory import remedy
from famba.files import write_text
from famba.training import checkpoint, result
from famba.training.evaluate import Forward
from famba.training.lock import NAME as LOCK
from famba.training.lock import exclusive
from famba.training.progress import Progress
from famba.training.status import OUT_OF_MEMORY, cell_state
from famba.training.train import Training
from tests.helpers import ROOT
from tests.helpers.cells import MICRO, small_cell
from tests.helpers.disks import fill, mounted, remount
from tests.helpers.trainings import ends_as
from tests.stress.soak import soak


def arguments(folder: Path, made: Cell | None = None) -> list[str]:
    return ["train", "--cell", (made or small_cell()).model_dump_json(), "--out", str(folder / "row.json")]


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error; what comes before it are single lines, too."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    Training(small_cell(), folder, Path("data")).run()
    return folder


def at_step(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object], where: tuple[int, int]) -> None:
    """Let something happen after that step of that epoch, once."""

    class Disturbed(Progress):
        def step(self, epoch: int, step: int, *rest: int) -> None:
            super().step(epoch, step, *rest)
            if (epoch, step) == where:
                happens()

    monkeypatch.setattr("famba.commands.train.Progress", Disturbed)


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "epochs"), [("8k", 0), ("16k", 0), ("200k", 0), ("300k", 1), ("500k", 1)])
def test_a_full_disk_keeps_the_last_checkpoint(size, epochs, undisturbed, tmp_path, capsys):
    """Each of the checkpoint's writes may be the one that fails: torch's own, or that of the seal."""
    with mounted(tmp_path / "disk", f"size={size}") as disk:
        assert main(arguments(disk)) == 2
        written = r"/(checkpoint\.pt|epochs\.csv): cannot be written \(No space left on device\)"
        assert re.search(written, last_line(capsys))
        saved = [checkpoint.read(path, torch.device("cpu")) for path in checkpoint.present(disk)]
        assert [len(state["history"]["epochs"]) for state in saved] == [1] * epochs
        assert not list(disk.glob(".*.part"))
        remount(disk, "size=2m")
        assert main(arguments(disk)) == 0
        ends_as(disk, undisturbed)


@pytest.mark.parametrize("left", [0, 4, 12])
def test_a_disk_that_is_full_at_the_row_keeps_all_epochs(left, undisturbed, tmp_path, capsys, monkeypatch):
    row_of = result.row_of
    with mounted(tmp_path / "disk", "size=2m") as disk:

        def full(*of: object) -> object:
            fill(disk / "filler")
            os.truncate(disk / "filler", (disk / "filler").stat().st_size - left * 1024)
            return row_of(*of)

        monkeypatch.setattr(result, "row_of", full)
        assert main(arguments(disk)) == 2
        assert "cannot be written (No space left on device)" in last_line(capsys)
        assert not (disk / "row.json").exists()
        assert len(checkpoint.read(disk / checkpoint.NAME, torch.device("cpu"))["history"]["epochs"]) == 3
        (disk / "filler").unlink()
        monkeypatch.undo()
        assert main(arguments(disk)) == 0
        assert "resuming after epoch 3 of 3" in capsys.readouterr().err
        ends_as(disk, undisturbed)


def test_a_read_only_folder_is_known_before_the_training(tmp_path, capsys):
    """One in which a killed training has left its lock file, which can be opened and locked even so."""
    with mounted(tmp_path / "disk", "size=2m") as disk:
        (disk / LOCK).touch()
        remount(disk, "ro")
        assert main(arguments(disk)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{disk}: cannot be written (" in line


def test_a_folder_that_becomes_read_only_is_one_line(undisturbed, tmp_path, capsys, monkeypatch):
    folder, mount = tmp_path / "cell", mounted(tmp_path / "cell", "ro")
    at_step(monkeypatch, mount.__enter__, (1, 2))
    assert main(arguments(folder)) == 2
    assert f"{folder}: cannot be written (Read-only file system)" in last_line(capsys)
    mount.__exit__(None, None, None)
    monkeypatch.undo()
    assert len(checkpoint.read(folder / checkpoint.NAME, torch.device("cpu"))["history"]["epochs"]) == 1
    assert main(arguments(folder)) == 0
    ends_as(folder, undisturbed)


# -- folders that are deleted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["step", "row"])
def test_a_folder_that_is_deleted_is_written_anew(moment, undisturbed, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "cell"
    if moment == "step":
        at_step(monkeypatch, lambda: shutil.rmtree(folder), (1, 2))
    else:
        row_of = result.row_of
        monkeypatch.setattr(result, "row_of", lambda *of: shutil.rmtree(folder) or row_of(*of))
    assert main(arguments(folder)) == 0
    assert capsys.readouterr().err.count(f"{folder} was deleted meanwhile; it is written anew") == 1
    ends_as(folder, undisturbed)
    assert not (folder / LOCK).exists()


HOLDS = """
import sys
from pathlib import Path
from famba.training.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.readline()
"""


def test_a_folder_that_another_training_has_taken_is_left_to_it(tmp_path, capsys, monkeypatch):
    """Somebody has deleted the folder of a running training and begun another one there."""
    folder, other = tmp_path / "cell", []

    def take() -> None:
        shutil.rmtree(folder)
        command = [sys.executable, "-c", HOLDS, str(folder)]
        other.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        other[0].stdout.readline()

    at_step(monkeypatch, take, (1, 2))
    assert main(arguments(folder)) == 2
    assert f"another training of this cell is running (process {other[0].pid} on " in last_line(capsys)
    assert {path.name for path in folder.iterdir()} == {LOCK, "status.json"}
    other[0].communicate("\n", timeout=60)
    with exclusive(folder):
        pass


# -- what a killed process leaves --------------------------------------------------------------------------------------


def test_a_killed_process_leaves_no_half_written_file_for_long(tmp_path):
    """Beside a training, too: what a killed `famba judge` left goes with the next one that writes the same file."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = socket.gethostname()
    left, others = (tmp_path / f".summary.csv.{here}.{pid}.part" for pid in (ended.pid, os.getppid()))
    unlike = tmp_path / f".other.csv.{here}.{ended.pid}.part"
    elsewhere = tmp_path / f".summary.csv.{here}2.{ended.pid}.part"  # of a process that this host cannot ask about
    for path in (left, others, unlike, elsewhere, tmp_path / f".summary.csv.{here}.x.part"):
        path.touch()
    write_text(tmp_path / "summary.csv", "")
    assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "summary.csv",
        others.name,
        unlike.name,
        elsewhere.name,
        f".summary.csv.{here}.x.part",
    }


@pytest.mark.parametrize("how", [["2", "14"], ["1", "5", "--files"]])
def test_killed_at_random_moments_and_file_operations(how):
    command = [sys.executable, "-m", "tests.stress.kills", *how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= int(how[0])


# -- memory ------------------------------------------------------------------------------------------------------------


def test_nothing_of_a_step_is_kept(tmp_path):
    """A short form of the soak, whose bound is for thousands of steps: the images of one alone are 64 KiB."""
    growth, files = soak(100, tmp_path)
    assert growth < 32 * 1024
    assert files <= 0


def large_cell() -> Cell:
    """A step of 256 images that needs some 950 MiB, and computes for seconds if it gets them."""
    model = {"vim_micro": MICRO["models"]["vim_micro"] | {"embed_dim": 64, "img_size": 32, "patch_size": 2}}
    batches = {"epochs": 1, "global_batch": 256, "mixup_batch": 256, "micro_batch": 256, "eval_batch": 32}
    settings = {**MICRO, "models": model, "recipe": MICRO["recipe"] | batches}
    return Experiment.from_config(settings).cell("vim_micro", "upper", 0)


LIMITED = """
import resource, sys
from famba.cli import main
import famba.commands.train
from famba.system.memory import process_memory
limit = process_memory()["VmSize"] + (600 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""
ADVICE = (
    r"recipe.micro_batch 256 needs about (\d\.\d\d) GiB of the (\d\.\d\d) GiB here, by .*; (\d+) needs about (\S+) GiB"
)


def test_memory_that_runs_out_is_one_line_with_numbers(tmp_path):
    """Under a real limit, as `ulimit -v` sets it."""
    command = [sys.executable, "-c", LIMITED, *arguments(tmp_path, large_cell())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "vim_micro-upper-s0: does not fit into memory" in line
    needed, here, batch, fits = map(float, re.search(ADVICE, line).groups())
    assert 256 % batch == 0
    assert fits <= here < needed
    assert cell_state(tmp_path).note in line


@pytest.mark.parametrize(("free", "words"), [(1.5, "; 32 needs about 1.18 GiB"), (0.1, ", and no smaller one fits")])
def test_a_gpu_whose_memory_runs_out(free, words, tmp_path, capsys, monkeypatch):
    """No GPU is here: its error is raised where it would come from, and its numbers are the driver's."""

    def full(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a capacity of 8 GiB")

    made = Experiment.from_config({**MICRO, "models": ["vim_tiny"], "recipe": MICRO["recipe"]})
    monkeypatch.setattr(Training, "__init__", lambda *_: None)
    monkeypatch.setattr(Training, "run", full)
    monkeypatch.setattr("famba.commands.train.pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * 2**30), 8 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    assert main(arguments(tmp_path, made.cell("vim_tiny", "upper", 0))) == 2
    line = last_line(capsys)
    assert "does not fit into memory (it asked for 1.50 GiB): recipe.micro_batch 64 needs about " in line
    assert f"of the {free:.2f} GiB here" in line
    assert words in line


def test_an_evaluation_that_does_not_fit_names_its_own_batch(tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Forward, "__call__", full)
    assert main(arguments(tmp_path)) == 2
    assert re.search(r"memory: recipe\.eval_batch 256 needs about .*; 255 needs about", last_line(capsys))


def test_a_batch_of_an_image_folder_needs_what_one_of_a_known_data_set_does():
    folder = ListedFolder(manifest="f.jsonl", sha256="a" * 64, train=40, test=14, classes=10, pixels=(8, 8))
    of_folder = small_cell().model_copy(update={"dataset": "flowers", "data": folder})
    asked = [remedy(made, torch.device("cpu"), False).partition(" of the ")[0] for made in (of_folder, small_cell())]
    assert asked[0] == asked[1]


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A memory control group of 700 MiB, version 1 or 2."""
    for parent, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup", parent, f"famba-test-{os.getpid()}")
        with suppress(OSError):
            group.mkdir()
            try:
                (group / limit).write_text(str(700 << 20))
                yield group
                return
            finally:
                group.rmdir()
    pytest.skip("no memory control group can be made here")


def test_a_training_that_the_kernel_kills_for_memory_is_named_so(control_group, tmp_path, capsys):
    def enter() -> None:
        (control_group / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-m", "famba", *arguments(tmp_path, large_cell())]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False, preexec_fn=enter)
    assert killed.returncode == -signal.SIGKILL
    assert cell_state(tmp_path).note == OUT_OF_MEMORY
    assert main(arguments(tmp_path)) == 0
    assert f"the run before was {OUT_OF_MEMORY}: recipe.micro_batch 128 needs about" in capsys.readouterr().err
