"""`famba audit`: compared with a table typed apart from the ledger, and with fits written anew."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from famba.claims.audit import document, page
from famba.claims.ledger import load, published_rows
from famba.cli import main
from famba.strategies import strategy
from tests.helpers import ROOT

LEDGER = ROOT / "config" / "claims.yaml"
TYPED = ROOT / "tests" / "files" / "published.csv"


@pytest.fixture(scope="module")
def typed() -> list[dict[str, str]]:
    with TYPED.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def found() -> document.Document:
    return document.audit(published_rows(LEDGER), "the paper")


def test_every_published_number_is_in_the_ledger(typed, tmp_path):
    assert len(typed) == 33
    assert main(["audit", "--claims", str(LEDGER), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "published.csv").read_text() == TYPED.read_text()


def trainings(typed: list[dict[str, str]], model: str) -> list[dict[str, str]]:
    """Distinct rows of a model."""
    rows = [row for row in typed if row["model"] == model]
    return list({(row["top1"], row["time_s"], row["memory_mib"]): row for row in rows}.values())


def fused(row: dict[str, str], shift: int, lower: int) -> list[int]:
    if row["strategy"] == "lower":
        return [9] * lower + [0] * (24 - lower)
    if row["strategy"] == "upper":
        start = int(row["starting_layer"] or 6) - 1 + shift
        return [0] * start + [int(row["tokens_per_layer"] or 9)] * (24 - start)
    return list(strategy(row["strategy"]))


def rms(rows: list[dict[str, str]], before: bool, shift: int, lower: int) -> float:
    """Root mean square of the residuals of an independent fit of peak memory, in MiB."""
    lines = []
    for row in rows:
        tokens, seen, entering = 197, 0, 0
        for r in fused(row, shift, lower):
            entering += tokens if r else 0
            after = tokens - min(r, (tokens - 1) // 2)
            seen += after if before else tokens
            tokens = after
        lines.append([1.0, seen, entering])
    x, y = np.array(lines), np.array([float(row["memory_mib"]) for row in rows])
    residuals = y - x @ (np.linalg.pinv(x) @ y)
    return float(np.sqrt((residuals**2).mean()))


def test_memory_agrees_with_an_independent_fit(typed, found):
    rows = trainings(typed, "vim_tiny")
    assert len(rows) == found.memory.trainings == 26
    for reading in found.memory.readings:
        independent = rms(rows, reading.placement == "before", reading.start_shift, reading.lower_layers)
        assert reading.rms_mib == pytest.approx(independent, rel=1e-6)


def test_the_memory_supports_fusion_before_the_mixer(found):
    best = found.memory.best
    assert (best.placement, best.start_shift, best.lower_layers) == ("before", 0, 18)
    assert best.rms_mib < 20
    for reading in found.memory.readings:
        if (reading.placement, reading.start_shift) != ("before", 0):
            assert reading.rms_mib > 2 * best.rms_mib
    assert found.memory.floats_per_channel == pytest.approx(16.9, abs=0.1)
    assert found.memory.support["placement"].left_out == (26, 26)
    assert found.memory_vim_small.trainings == 5
    assert found.memory_vim_small.best.start_shift == 1  # 18 layers, as in the released script lower-merge-r9-l5


@pytest.mark.parametrize("model", ["vim_tiny", "vim_small"])
def test_time_agrees_with_an_independent_line(typed, found, model):
    rows = [row for row in typed if row["table"] == "1" and row["model"] == model]
    shares = []
    for row in rows:
        tokens, seen = 197, 0
        for r in fused(row, 0, 19):
            tokens -= r
            seen += tokens
        shares.append(seen / (24 * 197))
    seconds = [int(row["time_s"]) / 300 for row in rows]
    slope, fixed = np.polyfit(shares, seconds, 1)
    time = found.time[model]
    assert time.fixed_s_per_epoch == pytest.approx(fixed)
    assert time.token_s_per_epoch == pytest.approx(slope)
    assert 35 < time.fixed_s_per_epoch < 46
    assert time.rms_s < 1
    assert time.upper_would_save_without_the_fixed_part == pytest.approx(1 - shares[4], abs=1e-9)


def test_time_of_all_rows_agrees_with_an_independent_fit(typed, found):
    rows = trainings(typed, "vim_tiny")
    lines = []
    for row in rows:
        tokens, seen, entering = 197, 0, 0
        for r in fused(row, 0, 18):
            entering += tokens if r else 0
            tokens -= r
            seen += tokens
        lines.append([1, seen / (24 * 197), entering / (24 * 197)])
    x, y = np.array(lines), np.array([int(row["time_s"]) / 300 for row in rows])
    every = found.time["vim_tiny"].with_fusing
    fitted = np.array([every.fixed_s_per_epoch, every.token_s_per_epoch, every.fusing_s_per_epoch])
    assert fitted == pytest.approx(np.linalg.pinv(x) @ y, rel=1e-6)
    assert every.trainings == 26
    assert 35 < every.fixed_s_per_epoch < 46
    assert every.rms_s == pytest.approx(0.51, abs=0.01)


def test_which_statements_the_tables_bear_out(found):
    said = {claim.id: claim.borne_out for claim in found.claims}
    assert said == {"a": True, "b": True, "c": True, "d": True, "e": True, "f": True, "g": False, "h": False, "i": None}
    exceptions = {claim.id: " ".join(claim.exceptions) for claim in found.claims}
    assert "layer 3 4:08:11" in exceptions["g"]
    assert "4:42:38 > 1 per layer 4:42:32" in exceptions["h"]


def test_another_number_gives_another_answer(tmp_path):
    settings = yaml.safe_load(LEDGER.read_text())
    row = next(row for row in settings["tables"][0]["rows"] if (row["model"], row["strategy"]) == ("vim_tiny", "upper"))
    row["top1"] = 60.0
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(settings))
    found = document.audit(published_rows(tmp_path / "claims.yaml"), "the paper")
    claim = next(claim for claim in found.claims if claim.id == "d")
    assert claim.borne_out is False
    assert "Vim-Ti upper top-1 60.0 %" in claim.exceptions[0]


def test_the_outputs(found, tmp_path, capsys, monkeypatch):
    """From any folder; the same bytes each time; the page has every reading and every statement."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        assert main(["audit", "--out", name]) == 0
    files = {path.name: path.read_bytes() for path in Path("one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in Path("two").iterdir()}
    assert files.keys() == {"audit.json", "audit.md", "published.csv"} | {
        f"{figure}.{kind}" for figure in ("memory", "time", "starting_layer") for kind in ("svg", "png")
    }
    assert document.Document.model_validate_json(files["audit.json"]).claims == found.claims
    text = files["audit.md"].decode()
    assert len(re.findall(r"^\| (?:before|after) the mixer", text, re.M)) == 12
    assert len(re.findall(r"^\| [a-i] \|", text, re.M)) == 9
    assert capsys.readouterr().out == 2 * page.findings(found)


def test_bad_input_is_one_line(tmp_path, capsys):
    assert main(["audit", "--claims", str(tmp_path / "none.yaml")]) == 2
    settings = yaml.safe_load(LEDGER.read_text())
    settings["tables"][0]["rows"].pop(0)
    for claim in ("table_cells", "claims"):
        settings[claim] = []
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(settings))
    assert main(["audit", "--claims", str(tmp_path / "claims.yaml")]) == 2
    (tmp_path / "file").write_text("")
    assert main(["audit", "--claims", str(LEDGER), "--out", str(tmp_path / "file")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert "the ledger has no row of vim_tiny, baseline, in Table 1" in errors[1]


def test_no_torch_and_no_library_that_is_slow_to_load(tmp_path):
    code = (
        "import sys; from famba.cli import main; main(['audit', '--out', sys.argv[1]]); "
        "sys.exit(bool({'torch', 'scipy', 'pandas', 'seaborn'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode == 0


def test_the_document_fits_its_published_schema(found):
    schema = json.loads((ROOT / "config" / "schema" / "audit.json").read_text())
    assert schema == document.Document.model_json_schema(mode="serialization")


def test_the_page_in_the_documentation_is_this_one():
    text = page.markdown(document.audit(published_rows(LEDGER), load(LEDGER).sources["paper"]))
    for name in ("memory", "time", "starting_layer"):
        text = text.replace(f"({name}.svg)", f"(audit-{name.replace('_', '-')}.svg)")
    assert (ROOT / "docs" / "audit.md").read_text() == text
