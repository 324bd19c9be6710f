"""What `famba watch` says of a cell, and how the terminal looks: files as trainings write them, a real terminal."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from famba.cli import main
from famba.commands.watch import frame, remaining, table, total
from famba.config import Cell
from famba.results.row import write_row
from famba.text import clock
from famba.training.progress import Progress
from famba.training.status import QUIET_S, CellState, cell_state
from famba.training.train import Training
from tests.helpers import ROOT
from tests.helpers.cells import cell as micro_cell
from tests.helpers.rows import experiment, make_row

NOW = 1_800_000_000.0
CELL = "vim_tiny_mini-upper-s0"


def written(path: Path, content: str | bytes, ago: float) -> None:
    """Write a file, and say that it and its folder were last touched so many seconds before NOW."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    for touched in (path, path.parent):
        os.utime(touched, (NOW - ago, NOW - ago))


def of_eight_epochs() -> Cell:
    grid = experiment()
    return experiment(recipe=grid.recipe.model_copy(update={"epochs": 8}).model_dump()).cell_by_id(CELL)


def epochs(n: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": e,
            "top1": 50.0 + e,
            "train_s": 8.0,
            "evaluation_s": 1.0,
            "ema_evaluation_s": 1.0,
            "images_per_s": 123.4,
        }
        for e in range(n)
    ]


def checkpoint(cell: Cell, done: int, evaluation_s: float = 2.0) -> bytes:
    """As a training saves it."""
    history = {"epochs": epochs(done), "total_s": 10.5 * done, "device_peak": 0, "host_peak": 300 * 2**20}
    for epoch in history["epochs"]:
        epoch["evaluation_s"] = epoch["ema_evaluation_s"] = evaluation_s / 2
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    state = {
        "cell": cell.model_dump_json(),
        "model": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
    }
    path = Path(os.environ["PYTEST_SCRATCH"], "c.pt")
    with path.open("wb") as file:
        torch.save(state, file)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PYTEST_SCRATCH", str(tmp_path_factory.mktemp("scratch")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results" / "smoke" / "cells" / CELL


def line(epoch: str = "5/8", eta: str = "1:02:05", rate: str = "1,234", top1: str = "71.3 %") -> str:
    return f"{CELL:<32}  epoch {epoch}  ETA {eta}  {rate} images/s  2,048 MiB  top-1 {top1}\n"


def test_no_folder_is_waiting_and_an_empty_one_is_starting(folder):
    assert cell_state(folder, NOW) == CellState(CELL, "waiting")
    folder.mkdir(parents=True)
    os.utime(folder, (NOW - 5, NOW - 5))
    assert cell_state(folder, NOW) == CellState(CELL, "starting", quiet_s=5)
    assert cell_state(folder, NOW + QUIET_S).kind == "quiet"


def test_the_log_tells_of_a_training(folder):
    written(folder / "train.log", "resuming after epoch 3 of 8\n" + line(), ago=20)
    state = cell_state(folder, NOW)
    assert state == CellState(
        CELL, "training", 5, 8, 1234.0, 2048.0, 71.3, left_s=3725 - 20, whole_s=pytest.approx(3725 * 8 / 3.5),
        quiet_s=20,
    )  # fmt: skip
    written(folder / "train.log", line(top1="–"), ago=20)
    assert cell_state(folder, NOW).top1 is None


def test_the_log_is_read_as_progress_writes_it(folder, monkeypatch, capsys):
    """The real writer: should its line change, this fails."""
    now = [0.0]
    monkeypatch.setattr("famba.training.progress.time.perf_counter", lambda: now[0])
    folder.mkdir(parents=True)
    progress = Progress(CELL, epochs=4, log=folder / "train.log")
    now[0] = 100.0
    progress.step(1, 5, 10, batch=64)  # 1.5 of 4 epochs
    capsys.readouterr()
    state = cell_state(folder)
    assert (state.kind, state.epoch, state.epochs) == ("training", 2, 4)
    assert state.left_s == pytest.approx(100 / 1.5 * 2.5, abs=1.5)
    assert state.images_per_s == pytest.approx(64 * 15 / 100, abs=1)
    assert state.mib is not None
    assert state.mib > 10


def test_a_line_of_an_earlier_run_does_not_count(folder):
    written(folder / "train.log", line() + f"{CELL}  epoch 8/8  took 0:54  9 images/s  9 MiB  top-1 9.0 %\n", ago=3)
    assert cell_state(folder, NOW).kind == "starting"
    written(folder / "train.log", line() + "a-cell: resuming after epoch 5 of 8\n", ago=3)
    assert cell_state(folder, NOW).epoch is None


def test_the_checkpoint_tells_between_the_lines(folder):
    cell = of_eight_epochs()
    written(folder / "checkpoint.pt", checkpoint(cell, done=3), ago=4)
    assert cell_state(folder, NOW) == CellState(
        CELL, "training", 4, 8, 123.4, 300.0, 52.0, left_s=50 - 4, whole_s=31.5 + 50, quiet_s=4
    )
    written(folder / "train.log", line(epoch="4/8", eta="0:33"), ago=2)  # newer
    assert cell_state(folder, NOW).left_s == 31
    written(folder / "train.log", line(epoch="3/8", eta="0:59"), ago=9)  # older
    assert cell_state(folder, NOW).epoch == 4


def test_the_checkpoint_is_read_as_training_writes_it(tmp_path, monkeypatch):
    stopped = Training(micro_cell(), tmp_path / micro_cell().id, Path("data"))
    monkeypatch.setattr(stopped, "_row", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    state = cell_state(stopped.folder)
    assert (state.cell, state.kind, state.epoch, state.epochs) == (micro_cell().id, "training", 3, 3)
    assert state.top1 == stopped.history.epochs[-1]["top1"]
    assert state.left_s == 0
    assert state.mib is not None
    assert state.mib > 100


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"junk"])
def test_a_damaged_checkpoint_is_no_more_than_a_sign_of_life(folder, content):
    written(folder / "checkpoint.pt", content, ago=4)
    assert cell_state(folder, NOW).kind == "starting"


def test_a_checkpoint_runs_no_code(folder, tmp_path):
    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "planted"),)

    with (tmp_path / "c.pt").open("wb") as file:
        torch.save({"history": Planted()}, file)
    written(folder / "checkpoint.pt", (tmp_path / "c.pt").read_bytes(), ago=4)
    assert cell_state(folder, NOW).kind == "starting"
    assert not (tmp_path / "planted").exists()


def test_silence_is_quiet_but_an_evaluation_may_be_long(folder):
    cell = of_eight_epochs()
    written(folder / "checkpoint.pt", checkpoint(cell, done=3), ago=QUIET_S + 1)
    state = cell_state(folder, NOW)
    assert (state.kind, state.left_s) == ("quiet", 50)  # no time has been worked off
    written(folder / "checkpoint.pt", checkpoint(cell, done=3, evaluation_s=QUIET_S), ago=QUIET_S + 1)
    assert cell_state(folder, NOW).kind == "training"


def test_a_row_is_done_unless_it_is_being_made_again(folder):
    row = make_row(experiment().cell_by_id(CELL))
    write_row(row, folder / "row.json")
    state = cell_state(folder)
    assert (state.kind, state.top1, state.whole_s) == ("done", row.metrics.last.top1, row.time.total)
    assert state.left_s == 0
    (folder / "checkpoint.pt").write_bytes(checkpoint(row.cell, done=2))
    assert cell_state(folder).kind == "training"
    (folder / "checkpoint.pt").unlink()
    (folder / "row.json").write_text("{}")
    assert cell_state(folder).kind == "unreadable"
    assert "row.json" in table([cell_state(folder)], "smoke")[0]


TRAINING = CellState("m-a-s0", "training", 3, 12, 1234.0, 512.0, 91.44, left_s=90.0, whole_s=120.0)
DONE = CellState("m-b-s0", "done", 12, 12, 999.0, 500.0, 92.0, left_s=0.0, whole_s=100.0)
WAITING = CellState("m-c-s0", "waiting")
QUIET = replace(TRAINING, cell="m-d-s0", kind="quiet", quiet_s=400.0, left_s=80.0)
OTHER = CellState("n-c-s0", "waiting")
STATES = [TRAINING, DONE, WAITING, QUIET, OTHER]


def test_a_line_per_cell_and_one_for_all():
    said = table(STATES, "smoke")
    assert [text.split() for text in said[:3]] == [
        ["m-a-s0", "epoch", "3/12", "ETA", "1:30", "1,234", "images/s", "512", "MiB", "top-1", "91.4", "%"],
        ["m-b-s0", "done", "took", "1:40", "999", "images/s", "500", "MiB", "top-1", "92.0", "%"],
        ["m-c-s0", "waiting"],
    ]
    assert said[3].split()[1:5] == ["quiet", "6:40", "epoch", "3/12"]
    assert said[5].startswith("smoke: 1 of 5 done, 1 training, 1 quiet, 2 waiting   ETA ")
    assert len({text.index("images/s") for text in said if "images/s" in text}) == 1  # in columns
    assert total([DONE], "smoke") == "smoke: 1 of 1 done"


def test_the_time_left_for_all():
    mean = (120 + 100 + 120) / 3  # of model m; n has none of its own
    work = 90 + mean + 80 + mean
    assert remaining(STATES) == pytest.approx(work)
    assert remaining([*STATES, replace(TRAINING, cell="m-e-s0")]) == pytest.approx((work + 90 + 2 * (5 / 3)) / 2)
    assert remaining([DONE, replace(TRAINING, left_s=500.0), replace(TRAINING, left_s=1.0)]) == 500
    assert remaining([DONE, WAITING, QUIET]) is None  # nothing is running
    assert remaining([CellState("m-a-s0", "starting"), WAITING]) is None  # nothing is known
    assert "ETA –" in total([CellState("m-a-s0", "starting"), WAITING], "smoke")


@pytest.mark.parametrize("columns", [1, 20, 60, 200])
@pytest.mark.parametrize("rows", [1, 2, 4, 6, 50])
def test_a_frame_fits_the_terminal(columns, rows):
    drawn = frame([*STATES, replace(DONE, cell="m-z-s0")], "smoke", columns, rows)
    assert drawn.startswith("\x1b[H")
    assert drawn.endswith("\x1b[J")
    assert "\x1b[2J" not in drawn  # erased first, it would flicker
    lines = drawn.removeprefix("\x1b[H").removesuffix("\x1b[J").split("\r\n")
    assert len(lines) == min(rows, 7)
    assert all(len(text.removesuffix("\x1b[K")) < max(columns, 2) for text in lines)
    if columns == 200:
        assert lines[-1].startswith("smoke: 2 of 6 done")
        kept = {50: ["a", "b", "c", "d", "c", "z"], 6: ["a", "c", "d", "c", "z"], 4: ["a", "d", "c"], 2: ["a"], 1: []}
        assert [text.split("-")[1] for text in lines[:-1]] == kept[rows]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_the_cells_are_those_of_the_experiment_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grid = experiment()
    write_row(make_row(grid.cells()[0]), tmp_path / "results/smoke/cells" / grid.cells()[0].id / "row.json")
    assert main(["watch", "results/smoke"]) == 0  # no file: what there is
    assert capsys.readouterr().out.splitlines()[-1] == "smoke: 1 of 1 done"
    (tmp_path / "config").mkdir()
    named = tmp_path / "config" / "smoke.yaml"
    named.write_text(yaml.safe_dump({**grid.model_dump(mode="json"), "seeds": [0]}, sort_keys=False))
    assert main(["watch", "results/smoke", "--once"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [text.split()[0] for text in said[:-1]] == [cell.id for cell in grid.cells() if cell.seed == 0]
    assert said[-1] == "smoke: 1 of 10 done, 9 waiting   ETA –"
    assert main(["watch", "results/other", "--config", str(named)]) == 2
    assert main(["watch", "results/none"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "is the experiment 'smoke', not 'other'" in errors[0]
    assert "--config" in errors[1]


def test_torch_is_not_imported():
    code = "import sys, famba.commands.watch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


class Terminal:
    """A real terminal with `famba watch` in it."""

    def __init__(self, folder: Path, *options: str, columns: int = 70) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(columns)
        command = [sys.executable, "-m", "famba", "watch", "results/smoke", *options]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.seen = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", 12, columns, 0, 0))

    def until(self, text: str | None) -> str:
        """What is written until the text has come, or to the end."""
        start, deadline = len(self.seen), time.monotonic() + 60
        while text is None or text not in self.seen[start:]:
            assert time.monotonic() < deadline, self.seen
            if not select.select([self.ours], [], [], 1)[0]:
                continue
            try:
                self.seen += os.read(self.ours, 65536).decode()
            except OSError:  # EIO: so ends the output of a process that has closed its terminal
                break
        return self.seen[start:]


@pytest.mark.parametrize(("leave", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_terminal_is_redrawn_until_one_leaves_and_given_back(tmp_path, leave, status):
    grid = experiment(seeds=[0], strategies=["upper"])
    (first, second), cells = grid.cells(), tmp_path / "results/smoke/cells"
    (cells / first.id).mkdir(parents=True)
    (cells / second.id).mkdir()
    terminal = Terminal(tmp_path)
    assert terminal.until("2 starting").startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    write_row(make_row(first), cells / first.id / "row.json")
    assert "top-1" not in terminal.until("1 of 2 done")  # cut off at 70 columns
    terminal.resize(200)
    terminal.until("top-1")
    terminal.process.send_signal(leave)
    last = terminal.until(None)
    assert terminal.process.wait(timeout=30) == status
    assert "\x1b[?25h\x1b[?1049l" in last
    assert "Traceback" not in last
    if status == 0:  # the last table stays
        assert last.rsplit("\x1b[?1049l", 1)[1].splitlines()[-1].startswith("smoke: 1 of 2 done")


def test_it_ends_by_itself_when_all_is_done(tmp_path):
    (cell,) = experiment(seeds=[0], strategies=["upper"], models={"m": {"embed_dim": 8}}).cells()
    write_row(make_row(cell), tmp_path / "results/smoke/cells" / cell.id / "row.json")
    terminal = Terminal(tmp_path)
    assert terminal.until(None).splitlines()[-1] == "smoke: 1 of 1 done"
    assert terminal.process.wait(timeout=30) == 0
