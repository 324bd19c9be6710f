"""`famba search`: schedules for a trained model, without training."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from famba.cli import main
from famba.config import Experiment
from famba.flops import forward_flops
from famba.model import VisionMamba
from famba.results.same_images import mcnemar
from famba.results.statistics import holm
from tests.helpers.cells import MICRO, cell

SHAPE = cell().architecture  # 4 layers, 17 tokens
QUICK = ("--batch", "1", "--rounds", "1", "--threads", "1", "--device", "cpu", "--images", "48", "--limit", "60")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Made-up weights whose outputs differ between images, and the experiment that names their model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    model = VisionMamba(**SHAPE.model_dump(), num_classes=10)
    with torch.no_grad():
        model.head.weight.mul_(30)
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "e.yaml").write_text(yaml.safe_dump(MICRO))
    return folder / "weights.pt", folder / "e.yaml"


def searched(out: Path, checkpoint: tuple[Path, Path], *arguments: object) -> dict[str, dict[str, str]]:
    weights, experiment = checkpoint
    words = ["search", weights, "--config", experiment, *arguments, *QUICK, "--out", out]
    assert main([str(word) for word in words]) == 0
    with out.open(newline="") as file:
        return {line["strategy"]: line for line in csv.DictReader(file)}


def schedule(line: dict[str, str]) -> tuple[int, ...]:
    return tuple(map(int, line["schedule"].split()))


def test_schedules_are_found_checked_and_compared_with_the_papers(checkpoint, tmp_path, capsys):
    out = tmp_path / "search.csv"
    lines = searched(out, checkpoint, "--shares", "0.8", "--loss", "2,100")
    paper = ["all", "interleaved", "lower", "upper"]
    assert list(lines) == [
        "baseline", *paper, *(f"found_{name}" for name in paper), "found_cost_80", "found_loss_2", "found_loss_100",
    ]  # fmt: skip
    whole = forward_flops(SHAPE, (0, 0, 0, 0), 10)
    for name, line in lines.items():
        assert float(line["predicted_cost"]) == pytest.approx(float(line["forward_flops"]), rel=1e-5), name
        assert float(line["cost_share"]) == pytest.approx(float(line["predicted_cost"]) / whole, rel=1e-5)
        assert sum(schedule(line)) == 17 - int(line["tokens"].split()[-1]) or not name.startswith("found")
    for name in paper:
        found, rival = lines[f"found_{name}"], lines[name]
        assert found["rival"] == name
        assert float(found["predicted_cost"]) <= float(rival["predicted_cost"])
        assert float(found["predicted_damage"]) <= float(rival["predicted_damage"])
        right = []
        for line in (found, rival):
            with np.load(tmp_path / line["predictions"]) as file:
                right.append(file["top5"][:, 0] == file["labels"])
        only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        assert (int(found["only_this"]), int(found["only_rival"])) == only
        assert float(found["mcnemar_p"]) == pytest.approx(mcnemar(*only), rel=1e-5)
    assert float(lines["found_cost_80"]["cost_share"]) <= 0.8
    assert float(lines["found_loss_2"]["predicted_loss"]) <= 2
    assert float(lines["found_loss_100"]["predicted_cost"]) <= float(lines["found_loss_2"]["predicted_cost"])
    said = capsys.readouterr().out
    adjusted = holm(np.array([float(lines[f"found_{name}"]["mcnemar_p"]) for name in paper]))
    for name, p in zip(paper, adjusted, strict=True):  # shown with its interval, before the schedule
        assert re.search(rf"^found_{name} .* {name} .* {re.escape(f'{p:.2g}')}  +\d+( \d+){{3}}$", said, re.MULTILINE)
    assert "chosen without retraining, on 48 training images of digits, by famba_v" in said
    assert "additivity: on other training images" in said
    with (tmp_path / "search-layers.csv").open(newline="") as file:
        layers = list(csv.DictReader(file))
    assert [(line["layer"], line["removed"]) for line in layers] == [
        (str(layer), str(removed)) for layer in range(4) for removed in (1, 2, 4, 8)
    ]
    alone = next(line for line in layers if (line["layer"], line["removed"]) == ("1", "8"))
    assert float(alone["damage"]) > 0
    svg = (tmp_path / "search.svg").read_text()
    assert all(f"{name}\n" in svg for name in lines)  # a tooltip of each


def test_what_was_found_can_be_pasted_into_an_experiment(checkpoint, tmp_path):
    lines = searched(
        tmp_path / "search.csv", checkpoint, "--method", "rmeeto:prune=true", "--shares", "0.7", "--loss", ""
    )  # fmt: skip
    text = (tmp_path / "search.yaml").read_text()
    assert text.startswith("# Found without training, on 48 training images of digits, by rmeeto:prune=True")
    names = [name for name in lines if name.startswith("found_")]
    block = yaml.safe_load(text)["schedules"]
    assert list(block) == names
    assert schedule(lines["found_cost_70"])[0] == 0  # it cannot act in the first layer
    assert {"all", "lower"}.isdisjoint(lines)
    experiment = Experiment.from_config({**MICRO, "strategies": ["baseline", *names], "schedules": block})
    for name in names:
        cells = experiment.cell("vim_micro", name, 0)
        assert cells.schedule == schedule(lines[name])
        assert (cells.fusion.method, cells.fusion.settings) == ("rmeeto", {"prune": True})


@pytest.mark.parametrize(("cost", "share"), [("step", 1.0), ("memory", 0.9)])
def test_other_costs_and_late_methods(checkpoint, tmp_path, cost, share):
    lines = searched(
        tmp_path / "search.csv", checkpoint, "--cost", cost, "--method", "random_prune:placement=after",
        "--shares", share, "--loss", "",
    )  # fmt: skip
    assert float(lines["baseline"]["cost_share"]) == 1
    found = lines[f"found_cost_{100 * share:g}"]
    assert float(found["cost_share"]) <= share
    assert schedule(found)[-1] == 0  # its mixer would see all tokens still


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "900"], "--images 900: digits has 1437 training images, for 718 at most"),
        (["--shares", "1.5"], "list of shares above 0, up to 1"),
        (["--loss", "-1"], "list of points from 0 to 100"),
        (["--method", "utrr"], "unknown method 'utrr'"),
        (["--cost", "money"], "--cost"),
    ],
)
def test_bad_input_is_one_line(checkpoint, tmp_path, capsys, arguments, message):
    weights, experiment = checkpoint
    words = ["search", str(weights), "--config", str(experiment), *QUICK, *arguments, "--out", str(tmp_path / "s.csv")]
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "s.csv").exists()


def test_a_cost_that_nothing_reaches_is_left_out_and_said_so(checkpoint, tmp_path, capsys):
    lines = searched(tmp_path / "search.csv", checkpoint, "--shares", "0.01,0.9", "--loss", "")
    assert "found_cost_1" not in lines
    assert "left out: found_cost_1: no schedule costs less than" in capsys.readouterr().err
