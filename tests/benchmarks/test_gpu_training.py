"""benchmarks/gpu_training.py and the halves that its data travels in: all that needs no GPU."""

import argparse
import importlib
import json
import lzma
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from famba import data
from famba.config import Experiment
from famba.errors import InputError
from famba.results.predictions import read_predictions
from famba.results.row import read_row
from tests.helpers import ROOT, cifar_forms
from tests.helpers.cells import MICRO, cell


@pytest.fixture
def halves(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("cifar_halves")
    monkeypatch.setattr(module, "SHEET", 64)  # several sheets of a small set, the last of them not full
    return module


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_training")


@pytest.fixture
def packing(gpu):
    return importlib.import_module("gpu_training_pack")


@pytest.fixture
def shuffled(tmp_path, monkeypatch):
    """A small CIFAR-100 whose records are in no order, and the folder that it is in."""
    rng = np.random.default_rng(3)
    splits = {}
    for name, split in cifar_forms.generate().items():
        order = rng.permutation(len(split.fine))
        splits[name] = type(split)(split.images[order], split.fine[order], split.coarse[order])
    monkeypatch.setenv("FAMBA_SOURCES", str(cifar_forms.write_sources(tmp_path / "sources.yaml", splits)))
    cifar_forms.write_folder(tmp_path / "data", "python", splits)
    return tmp_path / "data"


# -- the halves --------------------------------------------------------------------------------------------------------


def test_the_halves_give_back_every_record_in_its_place(halves, shuffled, tmp_path):
    one, two = halves.split(shuffled, tmp_path / "halves")
    joined, whole = halves.join([two, one], tmp_path / "joined"), data.load("cifar100", shuffled)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert joined.classes == whole.classes
    assert joined.identity.sequence == whole.identity.sequence
    assert data.load("cifar100", tmp_path / "joined").identity == joined.identity
    sizes = [len(path.read_bytes()) for path in (one, two)]
    assert max(sizes) < 2 * min(sizes)


def test_coarse_labels_are_those_of_the_published_classes(halves, shuffled, tmp_path):
    """The binary format has them, and a user may read them."""
    halves.join(halves.split(shuffled, tmp_path), tmp_path)
    rows = np.fromfile(tmp_path / "cifar-100-binary" / "test.bin", np.uint8).reshape(-1, 3074)
    fine, coarse = (
        (tmp_path / "cifar-100-binary" / f"{kind}_label_names.txt").read_text().split() for kind in ("fine", "coarse")
    )
    pairs = {fine[row[1]]: coarse[row[0]] for row in rows}
    assert len(pairs) == 100
    assert (pairs["dolphin"], pairs["maple_tree"], pairs["tractor"]) == ("aquatic_mammals", "trees", "vehicles_2")


def test_halves_that_do_not_belong_together_are_refused(halves, shuffled, tmp_path, monkeypatch):
    one, two = halves.split(shuffled, tmp_path / "halves")
    with pytest.raises(InputError, match="both are half 1; name one of each"):
        halves.join([one, one], tmp_path / "joined")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        halves.join([one, tmp_path / "none.zip"], tmp_path / "joined")
    splits = cifar_forms.generate()
    cifar_forms.write_folder(tmp_path / "other", "binary", splits)
    monkeypatch.setenv("FAMBA_SOURCES", str(cifar_forms.write_sources(tmp_path / "other.yaml", splits)))
    other, _ = halves.split(tmp_path / "other", tmp_path / "more")
    with pytest.raises(InputError, match="halves of different data"):
        halves.join([other, two], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


@pytest.mark.parametrize("where", [0.2, 0.5, 0.999])
def test_a_damaged_half_is_refused(where, halves, shuffled, tmp_path):
    one, two = halves.split(shuffled, tmp_path / "halves")
    content = bytearray(one.read_bytes())
    content[int(where * len(content))] ^= 0xFF
    one.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged|missing"):
        halves.join([one, two], tmp_path / "joined")
    one.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        halves.join([one, two], tmp_path / "joined")


def test_what_is_not_cifar_100_is_not_split(halves, shuffled, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FAMBA_SOURCES")
    monkeypatch.setattr(sys, "argv", ["cifar_halves", "split", "--data", str(shuffled), "--out", str(tmp_path / "h")])
    assert halves.main() == 2
    assert "a subset: 200 of 50,000 images" in capsys.readouterr().err
    assert not (tmp_path / "h").exists()


# -- the number of epochs ----------------------------------------------------------------------------------------------


def test_epochs_fill_the_time_that_is_left(gpu):
    times = {"baseline": 8.0, "upper": 6.0}
    # 1380 s - 80 - 5 x 20 = 1200 s, in which 85 epochs of both take 1190 s
    epochs, why = gpu.epochs_that_fit(1500, 80, times, start_s=20, starts=5)
    assert epochs == 85
    assert "1500 s less 8% reserve" in why
    assert "leave 1200 s" in why
    assert "an epoch of all 2 cells takes 14.0 s" in why
    assert gpu.epochs_that_fit(1e6, 0, times, 20, 2)[0] == 300  # the recipe's
    with pytest.raises(InputError, match=r"--minutes: not one epoch fits .*; allow more"):
        gpu.epochs_that_fit(140, 80, times, 20, 2)


def test_the_settings_are_those_of_fast_but_for_a_short_training(gpu):
    fast = Experiment.load(ROOT / "config" / "fast.yaml").cell("vim_tiny", "upper", 0)
    cells = gpu.settings(quick=False, device="cuda", epochs=30).cells()
    assert [one.strategy for one in cells] == ["baseline", "all", "interleaved", "lower", "upper"]
    mine = cells[-1]
    changed = {name for name, value in mine.recipe if value != getattr(fast.recipe, name)}
    assert changed == {"epochs", "warmup_epochs", "ema_decay", "sched_on_updates", "preset"}
    assert (mine.recipe.epochs, mine.recipe.warmup_epochs, mine.protocol) == (30, 3, "custom")
    assert mine.recipe.ema_decay == pytest.approx(1 - 10 * (1 - fast.recipe.ema_decay), abs=1e-6)
    for name in ("dataset", "architecture", "schedule", "fusion", "device"):
        assert getattr(mine, name) == getattr(fast, name)
    assert mine.architecture.cls_position == "head"


def test_steps_of_the_toy_are_timed(gpu, tmp_path):
    (baseline, *_) = gpu.settings(quick=True, device="cpu", epochs=2).cells()
    before = torch.get_num_threads()
    try:
        found = gpu.measure([baseline], Path("data"), tmp_path)
    finally:
        torch.set_num_threads(before)
    times = found["strategies"]["baseline"]
    assert times["steps"] == 11  # of 128 of 1,437 images
    assert times["epoch_s"] == times["steps"] * times["step_s"] + times["evaluation_s"] + times["checkpoint_s"]
    assert times["setup_s"] < times["whole_s"]
    assert json.loads(json.dumps(found)) == found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_first_call_writes_plan_and_experiment(gpu, tmp_path):
    args = arguments(tmp_path / "run", minutes=1e4)
    plan = gpu.make_plan(args, time.monotonic())
    assert gpu.read_plan(args) == json.loads(json.dumps(plan))
    assert plan["epochs"] == 300
    assert list(plan["strategies"]) == ["baseline", "all", "interleaved", "lower", "upper"]
    assert plan["environment"]["device_kind"] == "cpu"
    assert Experiment.load(args.out / "experiment.yaml") == gpu.settings(True, "cpu", 300)
    assert sorted(path.name for path in args.out.iterdir()) == ["experiment.yaml", "plan.json"]


# -- stopping and resuming ---------------------------------------------------------------------------------------------


def arguments(out: Path, **more) -> argparse.Namespace:
    given = {"device": "cpu", "quick": True, "minutes": 3.0, "limit": 3.0, "pack": None, "weights": False}
    return argparse.Namespace(data=Path("data"), out=out, **{**given, **more})


def test_a_training_stops_at_the_deadline_and_resumes(gpu, tmp_path):
    """Nothing is lost, and later calls end the training."""
    settings = cell(epochs=12)
    named = ["--cell", settings.model_dump_json()]
    limit_s = 3.0
    while not (tmp_path / "checkpoint.pt").exists():  # a start takes seconds, or many on a busy machine
        assert gpu.train(named, tmp_path, time.monotonic() + limit_s) is None
        limit_s *= 1.5
    assert not (tmp_path / "row.json").exists()
    assert gpu.train(named, tmp_path, time.monotonic() + 3600) == 0
    row = read_row(tmp_path / "row.json")
    assert (row.time.runs, row.cell) == (2, settings)
    assert "resuming after epoch " in (tmp_path / "train.log").read_text()
    assert len((tmp_path / "epochs.csv").read_text().splitlines()) == 13


def test_a_training_that_fails_says_so(gpu, tmp_path):
    assert gpu.train(["--cell", "no-such-cell"], tmp_path, time.monotonic() + 3600) == 2


def test_a_call_says_what_is_left_and_the_next_one_brings_it_back(gpu, packing, tmp_path, capsys):
    config = {**MICRO, "strategies": ["upper"], "recipe": MICRO["recipe"] | {"epochs": 1}, "experiment": "gpu_training"}
    run = tmp_path / "run"
    run.mkdir()
    (run / "experiment.yaml").write_text(yaml.safe_dump(config))
    args = arguments(run)
    fixed = {"device": "cpu", "quick": True, "minutes": 3.0}
    plan = {"arguments": fixed, "epochs": 1, "start_s": 1.0, "strategies": {"upper": {"epoch_s": 0.1}}, "calls": []}
    (run / "plan.json").write_text(json.dumps(plan))

    assert gpu.run(arguments(run, limit=0.01, pack=tmp_path / "back")) == 0
    said = capsys.readouterr().out
    assert "left: vim_micro-upper-s0 (not begun)\nthe same command continues\n" in said
    with tarfile.open(tmp_path / "back" / "gpu-training.tar.gz") as archive:
        assert archive.getnames() == ["gpu-training/plan.json", "gpu-training/experiment.yaml"]

    args = arguments(run, limit=60, pack=tmp_path / "back", weights=True)
    assert gpu.run(args) == 0
    said = capsys.readouterr().out
    assert "1 of 1 cells done" in said
    assert "left:" not in said
    with tarfile.open(tmp_path / "back" / "gpu-training.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    folder = tmp_path / "unpacked" / "gpu-training" / "cells" / "vim_micro-upper-s0"
    assert {path.name for path in folder.iterdir()} == {*packing.PACKED}
    read_predictions(folder / "predictions.npz", read_row(folder / "row.json"))
    calls = json.loads((folder.parents[1] / "plan.json").read_text())["calls"]
    assert [call["left"] for call in calls] == [["vim_micro-upper-s0 (not begun)"], []]
    assert [call["failed"] for call in calls] == [[], []]


def test_packed_weights_start_another_training(packing, tmp_path):
    weights = {"a": torch.randn(64, 64), "b": torch.randn(5)}
    torch.save({"model": weights}, tmp_path / "weights.pt")
    packing.pack_weights(tmp_path / "weights.pt", tmp_path / "packed.pt.xz")
    (tmp_path / "packed.pt").write_bytes(lzma.decompress((tmp_path / "packed.pt.xz").read_bytes()))
    found = torch.load(tmp_path / "packed.pt", weights_only=True)
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys("ab", torch.bfloat16)
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name].float(), tensor, rtol=2**-8, atol=0)


def test_a_plan_is_for_the_arguments_that_it_was_made_with(gpu, tmp_path):
    (tmp_path / "plan.json").write_text(
        json.dumps({"arguments": {"device": "cpu", "quick": True, "minutes": 25.0}, "calls": []})
    )
    with pytest.raises(InputError, match=r"plan.json: made with --minutes 25.0, now 3.0; choose another --out"):
        gpu.read_plan(arguments(tmp_path))
