"""An image folder of one's own through the real pipeline: one block in an experiment, a manifest, and no code."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from famba.cli import main
from famba.results.row import read_row
from tests.helpers import image_folders
from tests.helpers.pipeline import planned, snakemake

CONFIG, SUMMARY = "config/flowers.yaml", "results/flowers/summary.csv"
FLOWERS = {
    "experiment": "flowers",
    "protocol": "custom",
    "data": {"name": "flowers", "manifest": "config/flowers.jsonl"},
    "models": {"vim_micro": {"embed_dim": 8, "depth": 2, "img_size": 16, "patch_size": 8}},
    "strategies": ["baseline", "upper"],
    "seeds": [0],
    "fusion": {"budget": "proportional"},
    "recipe": {
        "epochs": 1, "warmup_epochs": 0, "min_lr": 0, "global_batch": 16, "mixup_batch": 16, "micro_batch": 16,
        "repeats": 1, "eval_resize": 18, "workers": 1,
    },
    "device": "cpu",
    "threads": 1,
}  # fmt: skip


def famba(*words: str) -> int:
    return main(list(words))


@pytest.fixture
def flowers(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with an image folder, its manifest and an experiment on it; the working directory is there."""
    monkeypatch.chdir(checkout)
    image_folders.make(checkout / "data/flowers")
    assert famba("data", "manifest", "data/flowers", "--out", "config/flowers.jsonl") == 0
    (checkout / CONFIG).write_text(yaml.safe_dump(FLOWERS))
    return checkout


def test_a_folder_without_its_manifest_is_refused_in_one_line(flowers: Path) -> None:
    (flowers / "config/flowers.jsonl").unlink()
    said = snakemake(flowers, "-n", "--configfile", CONFIG)
    assert said.returncode == 2
    assert "manifest config/flowers.jsonl: cannot be read (No such file or directory)" in said.stdout


@pytest.mark.slow
def test_from_a_folder_to_a_verdict(flowers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = snakemake(flowers, "--cores", "1", "--configfile", CONFIG, "--", SUMMARY)
    assert said.returncode == 0, said.stdout
    (identity,) = (flowers / "data").glob("flowers-*.json")
    cells = flowers / "results/flowers/cells"
    row = read_row(cells / "vim_micro-upper-s0/row.json")
    assert row.data.model_dump() == json.loads(identity.read_text())
    assert (row.data.train, row.data.test, row.data.classes, row.data.size) == (40, 14, 2, None)
    assert planned(flowers, "--configfile", CONFIG, "--", SUMMARY) == {}
    rows = sorted(str(path) for path in cells.glob("*/row.json"))

    weights = "results/flowers/cells/vim_micro-upper-s0/weights.pt"
    asked = ("--strategies", "upper", "--batch", "2", "--rounds", "1", "--threads", "1", "--device", "cpu")
    assert famba("evaluate", weights, *asked, "--out", "own.csv") == 0
    assert famba("evaluate", weights, *asked, "--dataset", "config/flowers.jsonl", "--out", "named.csv") == 0
    for name in ("own.csv", "named.csv"):
        with (flowers / name).open(newline="") as file:
            (line,) = csv.DictReader(file)
        assert float(line["top1"]) == pytest.approx(row.metrics.last.top1)
        assert (line["dataset"], line["test_digest"]) == ("flowers", row.data.test_digest)

    assert famba("reproduce", rows[1]) == 0
    assert "data (" in capsys.readouterr().out  # all of it identical

    # another image, first without and then with a new manifest
    new = flowers / "data/flowers/train/rose/new.png"
    new.write_bytes(image_folders.encoded("png RGB", image_folders.pixels(99, 20, 20)))
    command = ("train", "--config", CONFIG, "--cell", "vim_micro-upper-s0", "--force", "--out", "again/row.json")
    assert famba(*command) == 2
    assert "lists: train/rose/new.png is not in it" in capsys.readouterr().err
    assert famba("data", "manifest", "data/flowers", "--out", "config/flowers.jsonl") == 0
    assert planned(flowers, "--configfile", CONFIG, "--", SUMMARY) == {"dataset": 1, "train": 2, "judge": 1}
    assert famba(*command) == 0
    assert famba("judge", "--out", "judged", rows[0], "again/row.json") == 2
    assert "differ in train digest of the data" in capsys.readouterr().err
