"""`famba plan`: predictions that add up, a calibration that finds what it was made from, errors of one line."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from famba.cli import main
from famba.config import ARCHITECTURES, Architecture, Recipe
from famba.config.datasets import DATASETS
from famba.cost import plan as planning
from famba.cost.calibrate import Calibration, calibrate, data_seconds, fit
from famba.cost.plan import assumed, counted, plan, predict
from famba.cost.roofline import MEASURED, PROFILES, Rates
from famba.data import digits
from famba.flops import cost, forward_flops, scheduled_tokens, step_cost
from famba.methods import Method
from famba.methods.names import build
from famba.strategies import STRATEGIES, strategy
from tests.helpers import ROOT
from tests.helpers.rows import experiment, paper_experiment

RATES = Rates("made up", MEASURED, 1e11, 1e10, 2e10)
CPU = torch.device("cpu")


def test_every_cell_is_predicted_and_fusion_pays():
    predictions, notes = plan(paper_experiment(), "a100")
    assert [p.cell for p in predictions] == [cell.id for cell in paper_experiment().cells()]
    assert "calculated, not measured" in notes[0]
    of = {(p.model, p.strategy): p for p in predictions}
    for model in ("vim_tiny", "vim_small"):
        baseline = of[model, "baseline"]
        for name in ("all", "interleaved", "lower", "upper"):
            fused = of[model, name]
            assert fused.step_s < baseline.step_s
            assert fused.saved_per_image < baseline.saved_per_image
            assert fused.step_s / baseline.step_s == pytest.approx(fused.token_share, abs=0.05)
    assert of["vim_small", "baseline"].step_s > 1.8 * of["vim_tiny", "baseline"].step_s


def test_each_method_s_own_comparisons_are_counted(tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    own.write_text("raise SystemExit('it is not to be run')\n")
    methods = {"fuse": "famba_v", "prune": "random_prune", "features": "rmeeto", "own": f"{own}:Own"}
    schedules = {name: {"like": "upper", "method": method} for name, method in methods.items()}
    schedules["features"]["settings"] = {"feature": "B"}
    grid = experiment(strategies=list(methods), schedules=schedules)
    cells = {cell.strategy: cell for cell in grid.cells()}
    of = {name: counted(cell, "triton") for name, cell in cells.items()}
    flops = {name: sum(layer.fusion.both.gemm_flops for layer in step.layers) for name, step in of.items()}
    shape = cells["fuse"].architecture
    assert flops["prune"] == flops["own"] == 0 < flops["features"] < flops["fuse"]
    for name, step in of.items():
        expected = build(methods[name], cells[name].fusion.settings) if name != "own" else Method()
        whole = forward_flops(shape, cells[name].schedule, 10, method=expected)
        assert flops[name] == whole - forward_flops(shape, cells[name].schedule, 10, method=Method())
        assert sum(layer.fusion.both.moved for layer in step.layers) > 0  # merging and dropping move tokens, too
    monkeypatch.setattr(planning, "LAUNCH_S", 0.0)  # which decides in a model as small as this one
    predictions, notes = plan(grid, "a100")
    seconds = {one.strategy: one.step_s for one in predictions}
    assert seconds["prune"] == seconds["own"] < seconds["features"] < seconds["fuse"]
    assert f"methods of your own: what they compare is left out: {own}:Own" in notes


def test_a_method_is_planned_where_it_acts(tmp_path):
    """A late one's mixers see what goes in their layer, its last comparison counts, and its last tokens are gone."""
    own = tmp_path / "own.py"
    own.write_text("raise SystemExit('it is not to be run')\n")
    methods = {"fuse": "famba_v", "prune": "random_prune", "own": f"{own}:Own"}
    late = {name: {"like": "upper", "method": method, "placement": "after"} for name, method in methods.items()}
    grid = experiment(strategies=["upper", *late], schedules=late)
    predictions, _ = plan(grid, "a100")
    of = {cell.strategy: (cell, counted(cell, "triton")) for cell in grid.cells()}
    finals = {one.strategy: one.tokens_final for one in predictions}
    schedule = of["upper"][0].schedule
    assert schedule[-1] > 0
    assert set(finals.values()) == {scheduled_tokens(of["upper"][0].architecture, schedule)[-1]}
    assert of["own"][1].work == of["prune"][1].work
    assert [layer.tokens for layer in of["fuse"][1].layers] == [layer.entering for layer in of["upper"][1].layers]
    compared = [layer.fusion.forward.gemm_flops for layer in of["fuse"][1].layers]
    assert compared == [layer.fusion.forward.gemm_flops for layer in of["upper"][1].layers]
    assert compared[-1] > 0


def test_a_faster_device_takes_less_time_and_the_same_memory():
    slow, fast = (plan(paper_experiment(), name)[0] for name in ("a100", "h200"))
    assert all(f.hours < s.hours and f.saved_per_image == s.saved_per_image for f, s in zip(fast, slow, strict=True))


def test_profiles_are_labelled_as_calculated():
    assert {rates.source for profile in PROFILES.values() for rates in profile.values()} == {"calculated, not measured"}


def test_a_cell_takes_its_epochs_of_steps_and_evaluations():
    cell = paper_experiment().cells()[0]
    step = step_cost(cell, 100)
    calibration = Calibration(RATES, 2.0, 1e-3, 2.0, 2.0, 3.0, data_s=None)
    made = predict(cell, step, calibration, workers=8)
    assert made.step_s == calibration.step_s(step)
    assert made.cell_s == pytest.approx(300 * (97 * made.step_s + 2 * calibration.evaluation_s(step, 10_000)))
    assert made.hours == made.cell_s / 3600
    assert made.limit == "training"


def test_processes_share_a_step_and_each_costs_its_hours():
    alone = paper_experiment()
    together = alone.model_copy(update={"processes": 4})
    (one, *_), (four, *_), (_, notes) = plan(alone, "a100")[0], plan(together, "a100")[0], plan(together, "a100")
    assert one.step_s / 4 < four.step_s < one.step_s / 2  # the update is each process's own
    assert four.hours == pytest.approx(four.cell_s * 4 / 3600)
    assert four.images_per_s == pytest.approx(512 / four.step_s)
    assert "processes: 4" in notes[-1]
    assert "left out" in notes[-1]


def test_a_slow_loader_sets_the_pace():
    cell = paper_experiment().cells()[0]  # timm, 512 images a step
    calibration = Calibration(RATES, 1.0, 0.0, 1.0, 1.0, 1.0, data_s=10.0)
    made = predict(cell, step_cost(cell, 100), calibration, workers=4)
    assert made.step_s == 512 * 10.0 / 4
    assert made.limit == "data"
    alone = predict(cell, step_cost(cell, 100), calibration, workers=0)
    assert alone.step_s == pytest.approx(512 * 10.0 + calibration.step_s(step_cost(cell, 100)))


def test_the_fit_finds_the_factors_behind_exact_seconds():
    known = Calibration(RATES, 1.7, 2e-3, 3.0, 1.4, 1.0, data_s=None)
    shapes = [(0,), (0,) * 6, (98, 49, 0, 0, 0, 0), (7,) * 6]
    recipe = Recipe(global_batch=8, mixup_batch=8, micro_batch=8, augmentation="tensor")
    steps = [cost(Architecture(embed_dim=192, depth=len(s)), s, recipe, 100) for s in shapes]
    found = fit(steps, [known.step_s(step) for step in steps], RATES)
    np.testing.assert_allclose(found, [1.7, 2e-3, 3.0, 1.4], rtol=1e-3)
    unseen = cost(ARCHITECTURES["vim_tiny"], strategy("upper"), recipe, 100)
    again = replace(known, layers=found[0], per_layer_s=found[1], fusion=found[2], fixed=found[3])
    assert again.step_s(unseen) == pytest.approx(known.step_s(unseen), rel=1e-6)


def test_no_noise_makes_the_fit_beat_a_bound():
    recipe = Recipe(global_batch=8, mixup_batch=8, micro_batch=8, augmentation="tensor")
    steps = [cost(Architecture(embed_dim=48, depth=len(s)), s, recipe, 10) for s in ((0,), (0,) * 4, (7,) * 4)]
    found = fit(steps, [1e-9, 5.0, 1e-9], RATES)
    assert (found >= [1.0, 0.0, 1.0, 1.0]).all()


def test_launches_are_a_floor_for_an_eager_step():
    eager, captured = (assumed("bf16", "h200", graphs) for graphs in (False, True))
    recipe = Recipe(global_batch=1, mixup_batch=1, micro_batch=1)
    small = cost(Architecture(embed_dim=16, depth=24, img_size=32, patch_size=16), strategy("all"), recipe, 10)
    assert captured.step_s(small) < eager.step_s(small) == pytest.approx(5e-6 * 24 * 70, rel=0.8)


def test_probes_calibrate_a_small_model():
    grid = experiment(models={"mini": {"embed_dim": 16, "depth": 2, "img_size": 32, "patch_size": 8}}, threads=None)
    cell = grid.cells()[0]
    found = calibrate(cell, CPU, "chunked", 10, (8, 8, 1), rounds=1)
    assert found.rates.source == MEASURED
    assert found.data_s is not None
    assert found.data_s > 0
    assert found.step_s(step_cost(cell, 10, scan="chunked")) > 0
    assert found.evaluation_s(step_cost(cell, 10), 360) > 0
    assert found.wall_to_cpu > 0.9  # a thread cannot use more than its own time


def test_a_machine_that_others_use_is_called_busy(monkeypatch):
    """Measured ratios are given, since a real neighbour would be up to chance."""
    grid = experiment(models={"mini": {"embed_dim": 16, "depth": 2, "img_size": 32, "patch_size": 8}}, seeds=[0])
    quiet = Calibration(RATES, 1.7, 2e-3, 3.0, 1.4, 1.0, data_s=0.0, wall_to_cpu=1.05)
    busy = "warning: the machine is busy: the probes took 2.0 times their CPU time"
    for found, says in ((quiet, []), (replace(quiet, wall_to_cpu=2.0), [busy])):
        monkeypatch.setattr(planning, "calibrate", lambda *_, found=found: found)
        _, notes = plan(grid, "measure")
        assert [note.partition(";")[0] for note in notes if "busy" in note] == says


@pytest.mark.skipif(find_spec("timm") is None, reason="times timm")
def test_the_per_image_pipeline_is_timed_too():
    cell = paper_experiment().cells()[0]
    state = torch.get_rng_state()
    assert data_seconds(cell, CPU, (32, 32, 3)) > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_the_sizes_of_the_data_sets_are_theirs():
    found = digits.load()
    assert DATASETS["digits"] == (
        len(found.train_images), len(found.test_images), found.train_images.shape[1:], len(found.classes)
    )  # fmt: skip


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    out = tmp_path / "plan.json"
    config = str(ROOT / "config" / "paper.yaml")
    assert main(["plan", "--config", config, "--device", "h200", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    first, *_ = printed.splitlines()
    assert re.fullmatch(r"total: [\d,.]+ hours of one H200, one cell after the other", first)
    assert "calculated, not measured" in printed
    kinds = [line.split()[:3] for line in printed.splitlines() if line.startswith("vim_")]
    assert kinds == [[m, s, "3"] for m in ("vim_tiny", "vim_small") for s in STRATEGIES]  # a line each, seeds counted
    found = json.loads(out.read_text())
    assert len(found["cells"]) == 30
    assert found["cells"][0]["cell"] == "vim_tiny-baseline-s0"


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_a_device_that_is_not_here_is_one_line_that_says_what_to_do(capsys):
    assert main(["plan", "--config", str(ROOT / "config" / "paper.yaml"), "--device", "measure"]) == 2
    error = capsys.readouterr().err
    assert "--device a100" in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
@pytest.mark.parametrize(("name", "cells"), [("starting-layer", 45), ("tokens-per-layer", 30)])
def test_without_a_gpu_the_papers_is_planned_for_and_the_plan_says_so(tmp_path, capsys, monkeypatch, name, cells):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "plan.json"
    assert main(["plan", "--config", f"config/{name}.yaml", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert len(found["cells"]) == cells
    assert any("no GPU is here" in note for note in found["basis"])
    assert "hours of one A100" in capsys.readouterr().out
