"""`famba judge` writes verdicts and tables."""

import json

from famba.claims.ledger import load
from famba.cli import main
from tests.helpers import ROOT
from tests.helpers.rows import experiment, write_grid

CLAIMS = {claim.id: claim for claim in load(ROOT / "config" / "claims.yaml").judged}


def test_judge_writes_claims_and_tables(tmp_path, capsys):
    paths = write_grid(tmp_path, experiment())
    assert main(["judge", "--out", str(tmp_path), *map(str, paths)]) == 0
    assert f"{len(CLAIMS)} claims not tested" in capsys.readouterr().out
    written = json.loads((tmp_path / "claims.json").read_text())
    assert written["watermark"] == "SMOKE"
    assert [verdict["id"] for verdict in written["verdicts"]] == list(CLAIMS)
    markdown = (tmp_path / "tables" / "verdicts.md").read_text()
    assert "SMOKE: not evidence about the paper" in markdown
    assert markdown.count("not tested: these are smoke rows") == 1  # the reason that all of them share
    assert f"* {len(CLAIMS)} claims not tested: these are smoke rows" in markdown
    assert "| claim |" not in markdown
    latex = (tmp_path / "tables" / "verdicts.tex").read_text()
    assert latex.count("{") == latex.count("}")
    assert [line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")] == [6, 0]
    assert f"{len(CLAIMS)} claims not tested" in latex
