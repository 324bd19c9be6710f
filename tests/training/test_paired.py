"""The step ratio: a cell's step and the step of the same model without fusion, in turn."""

from pathlib import Path

import pytest

from famba.results.summary import ratios
from famba.training import paired
from famba.training.train import Training
from tests.helpers.cells import cell as micro_cell
from tests.helpers.rows import experiment, paper_experiment, timed


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

    monkeypatch.setattr(paired, "MAX_SECONDS", 60.0)
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
