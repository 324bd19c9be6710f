"""The RO-Crate of a finished experiment: what it lists is there, what it refers to exists, what it says is so."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from famba.cli import main
from famba.config import Experiment
from famba.results.row import Initial, Row, read_row, write_row
from tests.helpers import ROOT
from tests.helpers.rows import experiment, make_row, write_grid

GRID = experiment(strategies=["baseline", "upper"], seeds=[0, 1], models={"vim_a": {"embed_dim": 192}})


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment, judged, with weights and logs as training leaves them, and its crate."""
    folder = tmp_path_factory.mktemp("results") / "smoke"
    paths = write_grid(folder, GRID)
    for row in paths:
        row.with_name("weights.pt").write_bytes(b"weights")
        row.with_name("train.log").write_text("log")
        row.with_name("status.json").write_text("{}")
    in_a_container(paths[0])
    other = folder / "cells" / "vim_a-lower-s0"  # of an earlier grid
    shutil.copytree(paths[0].parent, other)
    assert main(["judge", "--out", str(folder), *map(str, paths)]) == 0
    crate(folder)
    return folder


def in_a_container(path: Path) -> None:
    row = make_row(GRID.cells()[0]).model_dump()
    row["environment"] |= {
        "container_sha256": "c" * 64,
        "git_commit": "d" * 40,
        "git_dirty": False,
        "packages": {"torch": "2.13.0+cpu", "timm": None},
    }
    write_row(Row.model_validate(row), path)


def crate(folder: Path, grid: Experiment = GRID) -> int:
    return main(["crate", str(folder), "--config", grid.model_dump_json()])


def entities(folder: Path) -> dict[str, dict[str, Any]]:
    graph = json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]
    ids = [entity["@id"] for entity in graph]
    assert len(ids) == len(set(ids))
    return {entity["@id"]: entity for entity in graph}


def test_every_file_is_there_with_its_size_and_hash(described: Path) -> None:
    files = {name: entity for name, entity in entities(described).items() if "File" in entity["@type"]}
    for name, entity in files.items():
        content = (described / name).read_bytes()
        assert entity["contentSize"] == str(len(content))
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
        assert "/" in entity["encodingFormat"]
    cells = {f"cells/{cell.id}/{name}" for cell in GRID.cells() for name in ("row.json", "epochs.csv")}
    judged = ("summary", "paired", "targets")
    tables = {f"tables/{name}.{kind}" for name in (*judged, "verdicts") for kind in ("md", "tex")}
    workflow = {f"workflow/{name}" for name in ("experiment.yaml", "Snakefile", "requirements.txt")}
    workflow |= {f"workflow/rules/{path.name}" for path in (ROOT / "rules").glob("*.smk")}
    numbers = {f"{name}.{kind}" for name in judged for kind in ("csv", "json")} | {"claims.json"}
    assert files.keys() == cells | tables | workflow | numbers


def test_everything_that_is_referred_to_is_described(described: Path) -> None:
    known = entities(described)

    def references(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(references, value))
        return {value["@id"]} if isinstance(value, dict) else set()

    for entity in known.values():
        for key, value in entity.items():
            outside = references(value) - known.keys()
            assert all(one.startswith("https://w3id.org/") for one in outside), (entity["@id"], key)
    listed = references(known["./"]["hasPart"])
    assert listed == {name for name, entity in known.items() if "File" in entity["@type"]}


def test_a_training_tells_when_with_what_and_on_what(described: Path) -> None:
    known = entities(described)
    row = make_row(GRID.cells()[0])
    first, second = (known[f"#{cell.id}"] for cell in GRID.cells()[:2])
    assert (first["@type"], first["startTime"], first["endTime"]) == ("CreateAction", row.started, row.finished)
    assert first["result"] == [{"@id": f"cells/{row.id}/{name}"} for name in ("epochs.csv", "row.json")]
    assert known[first["containerImage"]["@id"]]["sha256"] == "c" * 64
    assert "containerImage" not in second
    famba = known[first["instrument"]["@id"]]
    assert famba["softwareVersion"].endswith(f"commit {'d' * 40}")
    assert [known[one["@id"]]["value"] for one in famba["identifier"]] == ["d" * 40]
    needs = {known[one["@id"]]["name"]: known[one["@id"]]["softwareVersion"] for one in famba["softwareRequirements"]}
    assert needs == {"python": "3.11.2", "torch": "2.13.0+cpu"}
    assert known["#data"]["sha256"] == row.data.sha256
    root = known["./"]
    assert root["description"].startswith("SMOKE")
    assert known[root["citation"]["@id"]]["name"].startswith("Famba-V: Fast Vision Mamba")
    assert len(root["mentions"]) == 1 + len(GRID.cells())


def test_the_settings_in_the_crate_are_the_experiment(described: Path) -> None:
    assert Experiment.load(described / "workflow" / "experiment.yaml") == GRID
    assert yaml.safe_load((described / "workflow" / "experiment.yaml").read_text())["recipe"]["betas"] == [0.9, 0.999]


def test_a_method_of_ones_own_and_the_weights_of_the_start_are_in_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my method.py").write_bytes(b"class Mine: ...\r\n")
    mine = {"like": "upper", "method": "my method.py:Mine"}
    settings = GRID.model_dump() | {"strategies": ["baseline", "mine"], "schedules": {"mine": mine}, "seeds": [0]}
    grid, folder = Experiment.from_config(settings), tmp_path / "results" / "smoke"
    paths = write_grid(folder, grid)
    start = {"init": Initial(weights="start.pt", sha256="e" * 64)}
    for cell, path in zip(grid.cells(), paths, strict=True):
        write_row(make_row(cell).model_copy(update=start), path)
    ledger = str(ROOT / "config" / "claims.yaml")
    assert main(["judge", "--out", str(folder), "--claims", ledger, *map(str, paths)]) == 0
    for text in (b"class Mine: ...\r\n", b"class Mine: pass\n"):
        Path("my method.py").write_bytes(text)
        again = Experiment.from_config(settings)
        for cell, path in zip(again.cells(), paths, strict=True):
            write_row(read_row(path).model_copy(update={"cell": cell}), path)
        assert crate(folder, again) == 0
        known = entities(folder)
        (copy,) = (folder / "workflow" / "methods").iterdir()
        assert copy.read_bytes() == text
        used = [one["@id"] for one in known["#vim_a-mine-s0"]["object"]]
        assert used == ["workflow/experiment.yaml", "#data", quote(str(copy.relative_to(folder))), f"#start-{'e' * 12}"]
        assert known[used[2]]["sha256"] == hashlib.sha256(text).hexdigest()
        assert (known[used[3]]["name"], known[used[3]]["sha256"]) == ("start.pt", "e" * 64)
        assert [one["@id"] for one in known["#vim_a-baseline-s0"]["object"]] == [*used[:2], used[3]]


def test_no_path_of_this_machine_is_in_it_and_a_second_one_is_the_same(described: Path) -> None:
    before = (described / "ro-crate-metadata.json").read_bytes()
    for name in (str(described.parent), str(ROOT), str(Path.home())):
        assert name.encode() not in before
    assert crate(described) == 0
    assert (described / "ro-crate-metadata.json").read_bytes() == before


def test_what_is_not_finished_is_one_line(described: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(described, tmp_path / "smoke")
    other = Experiment.from_config({**GRID.model_dump(), "recipe": {**GRID.recipe.model_dump(), "lr": 0.5}})
    assert crate(folder, other) == 2
    assert "vim_a-baseline-s0/row.json: made with other settings" in capsys.readouterr().err
    (folder / "claims.json").unlink()
    assert crate(folder) == 2
    assert "claims.json is missing" in capsys.readouterr().err
    (folder / "cells" / GRID.cells()[2].id / "row.json").unlink()
    (folder / "ro-crate-metadata.json").unlink()
    assert crate(folder) == 2
    said = capsys.readouterr().err
    assert "vim_a-upper-s0/row.json is missing: the experiment is not finished" in said
    assert said.count("\n") == 1
    assert not (folder / "ro-crate-metadata.json").exists()
    assert main(["crate", str(folder), "--config", "{"]) == 2
    assert main(["crate", str(tmp_path / "no_such")]) == 2
    assert "no_such.yaml" in capsys.readouterr().err
