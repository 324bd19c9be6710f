"""What a training records of its clock, and that what it multiplies in float32 is float32."""

import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from famba.claims.decide import decide, grid_of
from famba.claims.ledger import Ledger
from famba.results.row import Arithmetic, Row, read_row, write_row
from famba.results.summary import SHARED, ratios, read_rows, shared_note, summarise, wall_to_cpu
from famba.results.tables import NOTE, latex, markdown
from famba.system import float32
from famba.system.cpu_time import cpu_seconds
from famba.training import paired
from famba.training.train import Training
from tests.helpers.cells import cell as micro_cell
from tests.helpers.rows import experiment, make_row, paper_experiment


def burn(seconds: float) -> None:
    """Until that much CPU time is used, however long it takes."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def waits_after_work(ready, release) -> None:
    burn(0.2)
    ready.set()
    release.wait()


def test_cpu_time_is_of_work_and_not_of_waiting():
    before, wall = cpu_seconds(), time.perf_counter()
    time.sleep(0.5)
    assert cpu_seconds() - before < (time.perf_counter() - wall) / 2
    burn(0.1)
    assert cpu_seconds() - before >= 0.1


def test_cpu_time_counts_processes_that_are_alive_and_those_that_have_ended():
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    before = cpu_seconds()
    child = context.Process(target=waits_after_work, args=(ready, release))
    child.start()
    ready.wait()
    alive = cpu_seconds() - before
    release.set()
    child.join()
    assert alive >= 0.19  # read in ticks of 10 ms
    assert cpu_seconds() - before >= alive


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


def test_every_training_multiplies_in_full_float32(tmp_path):
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    row = Training(micro_cell(epochs=1), tmp_path, Path("data")).run()
    assert row.arithmetic == Arithmetic(float32_matmul="highest", tf32=False)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_row_records_the_arithmetic_in_force():
    try:
        torch.set_float32_matmul_precision("high")
        assert float32.arithmetic() == Arithmetic(float32_matmul="high", tf32=True)
    finally:
        float32.fix()
    assert float32.arithmetic() == Arithmetic(float32_matmul="highest", tf32=False)


def timed(row: Row, **time: float) -> Row:
    return row.model_copy(update={"time": row.time.model_copy(update=time)})


def test_wall_clock_to_cpu_time_leaves_out_waits_for_loading_processes():
    row = timed(make_row(experiment().cells()[0]), train=22.0, warmup=2.0, thread_cpu=10.0, data_wait=9.0)
    assert wall_to_cpu(row) == 2.0  # this experiment loads in the process itself: waiting for images is work
    recipe = row.cell.recipe.model_copy(update={"augmentation": "timm", "workers": 2})
    loading = row.model_copy(update={"cell": row.cell.model_copy(update={"recipe": recipe})})
    assert wall_to_cpu(loading) == pytest.approx(1.1)
    several = row.environment.model_copy(update={"world_size": 2})
    assert wall_to_cpu(row.model_copy(update={"environment": several})) is None  # it waits for the others
    assert wall_to_cpu(make_row(paper_experiment(seeds=[0]).cells()[0])) is None  # it waits for the GPU


def test_a_shared_machine_is_named_in_every_table_and_its_ratios_are_of_cpu_time(tmp_path):
    rows = {}
    for cell in experiment(models={"vim_a": {"embed_dim": 8}}, strategies=["baseline", "upper"]).cells():
        row = make_row(cell)
        if row.id == "vim_a-upper-s1":  # a neighbour: everything takes twice as long by the wall clock
            slow = {name: 2 * getattr(row.time, name) for name in ("total", "train", "evaluation", "warmup", "step_ms")}
            row = timed(row, **slow)
        rows[tmp_path / row.id / "row.json"] = row
        write_row(row, tmp_path / row.id / "row.json")
    baseline, upper = summarise(read_rows(list(rows)))
    assert baseline["wall_to_cpu"] < SHARED < upper["wall_to_cpu"] == pytest.approx(2 / 0.98)
    quiet = {path: make_row(row.cell) for path, row in rows.items()}
    assert summarise(quiet)[1]["step_ratio"] == upper["step_ratio"]
    assert summarise(quiet)[1]["time_ratio"] == upper["time_ratio"]
    note = shared_note([baseline, upper])
    assert "The machine was shared: steps took up to 2.04 times their CPU time (vim_a upper; 1 of 2 lines" in note
    assert note in markdown([baseline, upper], "made up")
    assert "The machine was shared" in latex([baseline, upper], "made up")
    assert shared_note(summarise(quiet)) is None
    assert markdown(summarise(quiet), "made up").endswith(f"{NOTE}\n")


def test_claims_judge_the_loop_without_the_average_and_compare_cpu_time():
    ledger = Ledger.model_validate(
        {
            "sources": {"mine": "expected"},
            "published": [],
            "claims": [
                {
                    "id": "faster", "quote": "upper reduces training time", "source": "mine",
                    "needs": {"dataset": "digits", "protocols": ["smoke"], "minimum_n": 3},
                    "tests": [
                        {
                            "quantity": "time_reduction", "models": ["vim_tiny_mini"], "strategies": ["upper"],
                            "against": "baseline", "relation": "above",
                        }
                    ],
                }
            ],
        }
    )  # fmt: skip
    cells = experiment(strategies=["baseline", "upper"]).cells()
    rows = [make_row(cell) for cell in cells if cell.model == "vim_tiny_mini"]
    # by the wall clock, with a neighbour, every fused training takes four times as long
    rows = [timed(row, total=4 * row.time.total) if row.cell.strategy == "upper" else row for row in rows]
    grid = grid_of(rows)
    upper = grid["vim_tiny_mini", "upper"].of
    assert upper["hours"].tolist() == [row.time.judged_seconds / 3600 for row in rows if row.cell.strategy == "upper"]
    assert str(decide(ledger.claims[0], ledger, grid)[0]) == "reproduced"
    assert "cpu_hours" not in grid_of([make_row(c) for c in paper_experiment(seeds=[0]).cells()])["vim_tiny", "all"].of


def test_the_row_on_disk_says_what_was_measured(half_and_half):
    row = half_and_half.run()
    assert read_row(half_and_half.folder / "row.json").time == row.time


def test_a_step_ratio_is_free_of_a_neighbour_that_comes_and_goes(monkeypatch):
    """Each step costs what its tokens cost, times what the neighbour takes at that moment."""
    clock = [0.0]
    calls: list[str] = []

    def running(cell, device, scan, classes):
        assert cell.recipe.micro_batch == cell.recipe.global_batch == paired.MAX_IMAGES
        fused = any(cell.schedule)

        def step():
            neighbour = 1.8 if len(calls) // 5 % 2 else 1.0  # changes in the middle of some pairs
            calls.append("fused" if fused else "unfused")
            clock[0] += (0.6 if fused else 1.0) * neighbour

        return None, step, None

    monkeypatch.setattr(paired, "running", running)
    monkeypatch.setattr(paired.time, "process_time", lambda: clock[0])
    upper = next(cell for cell in paper_experiment().cells() if cell.strategy == "upper")
    large = upper.model_copy(update={"recipe": upper.recipe.model_copy(update={"micro_batch": 512})})
    assert paired.step_ratio(large, "reference", 10) == pytest.approx(0.6)
    assert calls[2:6] == ["fused", "unfused", "unfused", "fused"]
    assert len(calls) == 2 + 2 * paired.PAIRS


def test_a_cell_that_fuses_nothing_has_the_step_ratio_one_unmeasured(monkeypatch):
    monkeypatch.setattr(paired, "running", None)
    assert paired.step_ratio(experiment().cells()[0], "reference", 10) == 1.0


def test_a_row_has_its_step_ratio_and_the_summary_takes_it(tmp_path):
    row = Training(micro_cell(epochs=1), tmp_path, Path("data")).run()
    assert row.time.step_ratio not in (None, 1.0)
    assert ratios(row, {tmp_path: row})["step_ratio"] == row.time.step_ratio
    without = timed(row, step_ratio=None)
    assert ratios(without, {tmp_path: without})["step_ratio"] is None  # there is no baseline to compare it with
