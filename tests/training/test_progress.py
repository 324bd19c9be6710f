"""The terminal: one line per cell, redrawn in place where there is a terminal, and a log that stays readable."""

import io
import signal
import sys

import pytest

from famba.errors import CheckFailed, InputError, Stopped
from famba.training import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_on_a_terminal_the_line_is_redrawn_in_place(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    line = progress.Progress("a-cell", epochs=4)
    for step in range(1, 5):
        clock[0] += 10
        line.step(0, step, 10, 64)
    said = sys.stderr.getvalue()
    assert "\n" not in said
    assert said.count("\r") == 4
    last = said.split("\r")[-1]
    assert "epoch 1/4" in last
    assert "ETA 6:00" in last  # 40 s for a tenth of the run
    assert " 6 images/s" in last
    assert "top-1 –" in last


def test_elsewhere_a_line_a_minute(monkeypatch, clock, capsys, tmp_path):
    line = progress.Progress("a-cell", epochs=2, log=tmp_path / "log")
    for step in range(1, 31):
        clock[0] += 5
        line.step(0, step, 100, 8)
    line.epoch(12.5)
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "\r" not in said
    assert (tmp_path / "log").read_text() == said


def test_a_silent_process_says_nothing(clock, capsys, tmp_path):
    line = progress.Progress("a-cell", epochs=2, log=tmp_path / "log", silent=True)
    clock[0] += 100
    line.step(0, 1, 2, 8)
    line.say("a word")
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "log").exists()


def test_a_log_that_cannot_be_written_is_known_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--log .*/file/log: cannot be written \("):
        progress.Progress("a-cell", epochs=2, log=tmp_path / "file" / "log")
    progress.Progress("a-cell", epochs=2, log=tmp_path / "new" / "folder" / "log").say("a word")
    assert (tmp_path / "new" / "folder" / "log").read_text() == "a word\n"


def test_the_memory_is_the_host_s_on_a_machine_whose_gpu_is_not_used(monkeypatch):
    monkeypatch.setattr(progress.torch.cuda, "is_available", lambda: True)
    assert progress._peak_mib() > 100


def test_the_log_ends_with_how_the_training_ended(tmp_path):
    ends = {
        CheckFailed("a-cell: the loss is nan"): "a-cell: the loss is nan",
        Stopped("a-cell: stopped by SIGTERM", signal.SIGTERM): "a-cell: stopped by SIGTERM",
        KeyboardInterrupt(): "a-cell: stopped by SIGINT",
        RuntimeError("shapes\ndo not match"): "RuntimeError: shapes do not match",
    }
    for error in ends:
        with pytest.raises(type(error)), progress.Progress("a-cell", epochs=2, log=tmp_path / "log").recorded():
            raise error
    assert (tmp_path / "log").read_text().splitlines() == list(ends.values())


def test_a_log_that_is_lost_on_the_way_stops_nothing(tmp_path, capsys):
    line = progress.Progress("a-cell", epochs=2, log=tmp_path / "log")
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    line.say("a word")
    line.say("another")
    lost = f"a-cell: {tmp_path / 'log'} cannot be written (Is a directory); the training continues without it"
    assert capsys.readouterr().err.splitlines() == ["a word", lost, "another"]
