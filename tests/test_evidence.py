"""The committed evidence: its rows keep the rules, and what was made of them is what they give."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from famba.cli import main
from famba.config import Experiment
from tests.helpers import ROOT

EVIDENCE = ROOT / "results" / "evidence"
FOLDERS = sorted(cells.parent for cells in EVIDENCE.glob("*/cells"))


def test_every_experiment_there_is_one_that_can_be_repeated():
    for folder in FOLDERS:
        assert Experiment.load(ROOT / "config" / f"{folder.name}.yaml").experiment == folder.name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_rows_give_these_verdicts(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    rows = sorted(map(str, Path("cells").glob("*/row.json")))
    assert main(["check", "--rules", *rows]) == 0
    ledger = ROOT / Experiment.load(ROOT / "config" / f"{folder.name}.yaml").claims
    assert main(["judge", "--out", str(tmp_path), "--claims", str(ledger), *rows]) == 0
    tables = [f"tables/{name}.md" for name in ("summary", "verdicts", "paired", "targets")]
    for name in ("summary.csv", "paired.csv", "targets.csv", *tables):
        assert (tmp_path / name).read_text() == (folder / name).read_text(), name
    made, kept = (json.loads((where / "claims.json").read_text()) for where in (tmp_path, folder))
    assert [(v["id"], v["verdict"]) for v in made["verdicts"]] == [(v["id"], v["verdict"]) for v in kept["verdicts"]]
    assert made["verdicts"][0].get("mean") == pytest.approx(kept["verdicts"][0].get("mean"))
    assert made["digest"] == kept["digest"]  # of these rows and this ledger, and so are the figures
    assert all(f'data-digest="{kept["digest"]}"' in path.read_text() for path in Path("figures").glob("*.svg"))


def test_an_evaluation_says_what_its_predictions_do():
    for path in EVIDENCE.glob("training-free/*.csv"):
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
        for line in lines:
            with np.load(path.parent / line["predictions"]) as made:
                hits = made["top5"] == made["labels"][:, None]
                assert (str(made["test_digest"]), len(hits)) == (line["test_digest"], int(line["images"]))
            assert float(line["top1"]) == pytest.approx(100 * hits[:, 0].mean(), rel=1e-5)
            assert float(line["top5"]) == pytest.approx(100 * hits.any(axis=1).mean(), rel=1e-5)


def test_the_frozen_baseline_is_of_these_rows(tmp_path):
    rows = sorted(map(str, (ROOT / "results" / "evidence" / "smoke").glob("cells/*/row.json")))
    assert main(["check", "--freeze", str(tmp_path / "smoke.json"), *rows]) == 0
    assert (tmp_path / "smoke.json").read_text() == (ROOT / "results" / "baselines" / "smoke.json").read_text()
