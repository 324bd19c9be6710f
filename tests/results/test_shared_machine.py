"""Times of a machine that was shared: its ratios are of CPU time, and every table says so."""

import pytest

from famba.claims.decide import decide, grid_of
from famba.claims.ledger import Ledger
from famba.config.image_folder import ListedFolder
from famba.results.row import write_row
from famba.results.summary import SHARED, accuracy_note, read_rows, shared_note, summarise, wall_to_cpu
from famba.results.summary_table import NOTE, summary_table
from tests.helpers.rows import experiment, make_row, paper_experiment, timed


def test_wall_clock_to_cpu_time_leaves_out_waits_for_loading_processes():
    row = timed(make_row(experiment().cells()[0]), train=22.0, warmup=2.0, thread_cpu=10.0, data_wait=9.0)
    assert wall_to_cpu(row) == 2.0  # this experiment loads in the process itself: waiting for images is work
    folder = ListedFolder(manifest="f.jsonl", sha256="a" * 64, train=40, test=14, classes=10, pixels=(8, 8), size=8)
    for augmentation, data in (("timm", None), ("tensor", folder)):  # files are decoded in these processes, too
        recipe = row.cell.recipe.model_copy(update={"augmentation": augmentation, "workers": 2})
        cell = row.cell.model_copy(update={"recipe": recipe, "data": data})
        assert wall_to_cpu(row.model_copy(update={"cell": cell})) == pytest.approx(1.1)
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
    assert note in summary_table([baseline, upper], "made up").markdown_page
    assert "The machine was shared" in summary_table([baseline, upper], "made up").latex_float
    assert shared_note(summarise(quiet)) is None
    alone = summarise(quiet)
    assert summary_table(alone, "made up").markdown_page.endswith(f"{NOTE} {accuracy_note(alone)}\n")


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
    upper = grid["vim_tiny_mini", "upper"].quantities
    assert upper["hours"].tolist() == [row.time.judged_seconds / 3600 for row in rows if row.cell.strategy == "upper"]
    assert str(decide(ledger.claims[0], ledger, grid)[0]) == "reproduced"
    assert (
        "cpu_hours"
        not in grid_of([make_row(c) for c in paper_experiment(seeds=[0]).cells()])["vim_tiny", "all"].quantities
    )
