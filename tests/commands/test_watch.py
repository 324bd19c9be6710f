"""What `famba watch` says of a cell, and how the terminal looks: files as trainings write them, a real terminal."""

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from famba.cli import main
from famba.commands.watch import frame, remaining, table, total
from famba.results.row import write_row
from famba.text import clock
from famba.training.status import QUIET_S, CellState, Status, cell_state, read_status, write_status
from tests.helpers import ROOT
from tests.helpers.rows import experiment, make_row

NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
CELL = "vim_tiny_mini-upper-s0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results" / "smoke" / "cells" / CELL


def status(ago: float = 0.0, **changes: object) -> Status:
    """Of a training in this very process, which has written it so many seconds before NOW."""
    updated = NOW - timedelta(seconds=ago)
    given = {
        "cell": CELL, "state": "training", "epoch": 5, "epochs": 8, "step": 1, "steps": 2, "images_per_s": 1234.0,
        "memory_mib": 2048.0, "loss": 0.5, "top1": 71.3, "left_s": 3725.0, "whole_s": 9000.0,
        "checkpoint_epochs": 4,
        "pid": os.getpid(), "host": socket.gethostname(), "started": updated - timedelta(hours=1), "updated": updated,
    }  # fmt: skip
    return Status(**(given | changes))


def test_a_cell_that_nobody_has_begun_is_waiting(folder):
    assert cell_state(folder, NOW) == CellState(CELL, "waiting")
    folder.mkdir(parents=True)
    assert cell_state(folder, NOW) == CellState(CELL, "waiting")


def test_a_status_that_was_written_is_read(folder):
    write_status(folder, status())
    assert read_status(folder) == status()
    assert [path.name for path in folder.iterdir()] == ["status.json"]
    found = json.loads((folder / "status.json").read_text())
    assert found.keys() == Status.model_fields.keys()
    assert found["version"] == 1


def test_a_training_is_shown_as_it_says(folder):
    write_status(folder, status(ago=20))
    assert cell_state(folder, NOW) == CellState(
        CELL, "training", 5, 8, 1234.0, 2048.0, 71.3, left_s=3725 - 20, whole_s=9000.0, quiet_s=20,
    )  # fmt: skip
    write_status(folder, status(state="evaluating", step=2, left_s=9000))
    assert cell_state(folder, NOW).kind == "evaluating"
    at_the_start = dict.fromkeys(("epoch", "step", "steps", "left_s", "whole_s", "top1"))
    write_status(folder, status(state="starting", **at_the_start))
    assert cell_state(folder, NOW) == CellState(CELL, "starting", None, 8, 1234.0, 2048.0)


def test_a_checkpoint_without_a_status_is_of_a_training_that_was_stopped(folder):
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"")
    assert cell_state(folder, NOW) == CellState(CELL, "stopped", note="no status.json")


def test_silence_is_quiet_and_no_time_is_worked_off(folder):
    write_status(folder, status(ago=QUIET_S + 1))
    state = cell_state(folder, NOW)
    assert (state.kind, state.left_s, state.quiet_s) == ("quiet", 3725, QUIET_S + 1)
    write_status(folder, status(ago=QUIET_S - 1))
    assert cell_state(folder, NOW).kind == "training"


@pytest.mark.parametrize("reaped", [True, False])
def test_a_training_that_is_gone_without_a_word_has_died(folder, reaped):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    if reaped:
        gone.wait()
    else:  # a zombie, whose parent has not asked for it
        os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    write_status(folder, status(ago=3, pid=gone.pid))
    assert cell_state(folder, NOW).kind == "died"
    assert cell_state(folder, NOW).left_s == 3725
    write_status(folder, status(ago=3, pid=gone.pid, host="elsewhere"))  # a process of that number there may be alive
    assert cell_state(folder, NOW).kind == "training"
    gone.wait()


def test_how_a_training_ended_is_shown_with_why(folder):
    write_status(folder, status(state="failed", error=f"{CELL}: the loss is nan at epoch 4, step 1"))
    assert table([cell_state(folder, NOW)], "smoke")[0].split()[1:4] == ["failed", "epoch", "5/8"]
    assert table([cell_state(folder, NOW)], "smoke")[0].endswith("the loss is nan at epoch 4, step 1")
    write_status(folder, status(ago=9999, state="stopped", signal=15))
    assert cell_state(folder, NOW).kind == "stopped"
    assert table([cell_state(folder, NOW)], "smoke")[0].endswith("by SIGTERM")
    write_status(folder, status(state="stopped", signal=99))  # of another system
    assert table([cell_state(folder, NOW)], "smoke")[0].endswith("by signal 99")
    write_status(folder, status(state="finished"))  # and its row has been deleted
    assert cell_state(folder, NOW) == CellState(CELL, "waiting")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Invalid JSON"),
        (b"junk", "Invalid JSON"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"[]", "Input should be an object"),
        (b'{"version": 2}', "format version 2, but this famba reads version 1"),
        (b'{"version": 1, "cell": 3}', "cell: Input should be a valid string"),
        (status().model_dump_json().replace(str(os.getpid()), str(2**31)).encode(), "pid: Input should be less than"),
    ],
)
def test_a_file_of_another_kind_is_one_line_and_hides_no_result(folder, content, said):
    folder.mkdir(parents=True)
    (folder / "status.json").write_bytes(content)
    state = cell_state(folder, NOW)
    assert state.kind == "unreadable"
    assert f"{folder}/status.json: not a valid status: {said}" in state.note
    assert "\n" not in state.note
    write_row(make_row(experiment().cell_by_id(CELL)), folder / "row.json")
    assert cell_state(folder, NOW).kind == "done"


def test_a_row_is_done_unless_it_is_being_replaced(folder):
    row = make_row(experiment().cell_by_id(CELL))
    write_row(row, folder / "row.json")  # of a time before status.json
    state = cell_state(folder, NOW)
    assert (state.kind, state.top1, state.whole_s) == ("done", row.metrics.last.top1, row.time.total)
    assert state.left_s == 0
    write_status(folder, status(state="failed"))  # before its first checkpoint: the old row still stands
    assert cell_state(folder, NOW).kind == "done"
    write_status(folder, status())
    assert cell_state(folder, NOW).kind == "training"
    write_status(folder, status(state="stopped"))
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):  # killed between two renames, the previous one is alone
        (folder / name).write_bytes(b"")
        assert cell_state(folder, NOW).kind == "stopped"
        (folder / name).unlink()
    (folder / "row.json").write_text("{}")
    assert cell_state(folder, NOW).kind == "unreadable"
    assert "row.json" in table([cell_state(folder, NOW)], "smoke")[0]


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


@pytest.mark.parametrize(("leave", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_terminal_is_redrawn_until_one_leaves_and_given_back(tmp_path, leave, code):
    grid = experiment(seeds=[0], strategies=["upper"])
    (first, second), cells = grid.cells(), tmp_path / "results/smoke/cells"
    for begun in (first, second):
        now = datetime.now(UTC)
        write_status(cells / begun.id, status(cell=begun.id, state="starting", started=now, updated=now))
    terminal = Terminal(tmp_path)
    assert terminal.until("2 starting").startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    write_row(make_row(first), cells / first.id / "row.json")
    write_status(cells / first.id, status(cell=first.id, state="finished"))
    assert "top-1" not in terminal.until("1 of 2 done")  # cut off at 70 columns
    terminal.resize(200)
    terminal.until("top-1")
    terminal.process.send_signal(leave)
    last = terminal.until(None)
    assert terminal.process.wait(timeout=30) == code
    assert "\x1b[?25h\x1b[?1049l" in last
    assert "Traceback" not in last
    if code == 0:  # the last table stays
        assert last.rsplit("\x1b[?1049l", 1)[1].splitlines()[-1].startswith("smoke: 1 of 2 done")


def test_it_ends_by_itself_when_all_is_done(tmp_path):
    (cell,) = experiment(seeds=[0], strategies=["upper"], models={"m": {"embed_dim": 8}}).cells()
    write_row(make_row(cell), tmp_path / "results/smoke/cells" / cell.id / "row.json")
    terminal = Terminal(tmp_path)
    assert terminal.until(None).splitlines()[-1] == "smoke: 1 of 1 done"
    assert terminal.process.wait(timeout=30) == 0
