"""What a training records of its clock, over several runs."""

from pathlib import Path

import pytest
import torch

from famba.results.row import read_row
from famba.system import float32
from famba.training.timing import running
from famba.training.train import Training
from tests.helpers.cells import cell as micro_cell


@pytest.fixture
def half_and_half(tmp_path, monkeypatch) -> Training:
    """A training that was stopped after the first of two epochs."""

    class Stopped(Exception):
        pass

    def stop(training: Training) -> None:
        save(training)
        raise Stopped

    save = Training._save
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_save", stop)
        with pytest.raises(Stopped):
            Training(micro_cell(epochs=2), tmp_path, Path("data")).run()
    return Training(micro_cell(epochs=2), tmp_path, Path("data"))


def test_times_are_summed_over_resumed_runs(half_and_half):
    first = torch.load(half_and_half.folder / "checkpoint.pt", weights_only=True)["history"]
    time_, epochs = half_and_half.run().time, half_and_half.history.epochs
    assert time_.runs == 2
    assert time_.cpu == pytest.approx(sum(e["cpu_s"] for e in epochs) - half_and_half.history.warmup_cpu_s)
    assert time_.ema_evaluation == pytest.approx(sum(e["ema_evaluation_s"] for e in epochs))
    assert time_.total >= time_.train + time_.evaluation + time_.ema_evaluation
    for part, earlier in (("thread_cpu", "thread_cpu_s"), ("loop_cpu", "loop_cpu_s"), ("total", "total_s")):
        assert getattr(time_, part) > first[earlier] > 0
    assert len(half_and_half.history.step_cpu_ms) == len(half_and_half.history.step_ms)
    # of one thread, CPU time cannot be more than the wall clock; steps are a part of the loop
    assert time_.thread_cpu <= time_.train
    assert time_.cpu <= time_.loop_cpu


def test_the_row_on_disk_says_what_was_measured(half_and_half):
    row = half_and_half.run()
    assert read_row(half_and_half.folder / "row.json").time == row.time


def test_steps_are_timed_in_the_arithmetic_of_a_training():
    """Not in TF32, which cuDNN uses unless it is told otherwise."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        running(micro_cell(), torch.device("cpu"), "reference", 10)
        assert not float32.arithmetic().tf32
        assert float32.arithmetic().float32_matmul == "highest"
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
