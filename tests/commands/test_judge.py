"""`famba judge` writes verdicts and tables."""

import csv
import json
import re

import numpy as np
import pytest

from famba.claims.ledger import load
from famba.cli import main
from tests.helpers import ROOT
from tests.helpers.pages import Page, report
from tests.helpers.rows import experiment, write_grid, write_predictions

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


@pytest.fixture
def rows(tmp_path):
    """Two models, three strategies, two seeds, with predictions beside all of them but one."""
    paths = write_grid(tmp_path, experiment(strategies=["baseline", "lower", "upper"], seeds=[0, 1]))
    labels = np.arange(360) % 10
    for number, path in enumerate(paths[1:]):
        write_predictions(path, np.random.default_rng(number).random(360) < 0.8, labels)
    return paths


def test_judge_and_report_pair_the_strategies_and_time_the_trainings(tmp_path, rows, capsys):
    assert report(tmp_path, rows) == 0
    missing = f"1 row left out: predictions.npz is not beside the row ({rows[0].parent.name})"
    assert missing in capsys.readouterr().out

    paired = json.loads((tmp_path / "paired.json").read_text())
    with (tmp_path / "paired.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    flat = [
        (pair["model"], pair["strategy"], pair["against"], "mcnemar", str(one["seed"]), str(one["p_holm"]))
        for pair in paired["pairs"]
        for one in pair["networks"]
    ]
    fields = ("model", "strategy", "against", "test", "seeds", "p_holm")
    assert [tuple(line[f] for f in fields) for line in lines if line["test"] == "mcnemar"] == flat
    assert len(flat) == 2 * 3 * 2 - 2  # the row without predictions is in two pairs
    crossed = [line for line in lines if line["test"] == "crossed"]
    assert [line["p"] for line in crossed] == [
        str(pair["over_seeds"]["p"]) for pair in paired["pairs"] if pair["over_seeds"]
    ]
    with (tmp_path / "targets.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)

    page, text, tex = (Page((tmp_path / "report.html").read_text()), *texts(tmp_path))
    assert {"paired-strategies", "paired-networks", "targets"} <= {a["id"] for a in page.all("table") if "id" in a}
    for shown in (page.text, text, tex):
        assert "another seed gives other networks" in " ".join(shown.split())
        assert "differ only in their seed" in shown
        assert "the highest that every training of this model reaches" in shown
    for shown in (page.text, text):
        assert "not whether the strategies do: another seed gives other networks" in " ".join(shown.split())
    assert re.findall(r"\\label\{tab:(paired[\w-]+)\}", tex) == ["paired-strategies"]  # a page holds no more lines
    assert missing in page.text
    assert missing in text
    assert (tmp_path / "tables" / "paired.md").read_text().strip() in text
    assert (tmp_path / "tables" / "targets.md").read_text().strip() in text
    assert tex.count("{") == tex.count("}")
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}")


def texts(folder):
    return ((folder / f"report.{kind}").read_text() for kind in ("md", "tex"))


def targets_of(folder) -> dict[str, tuple[float, str]]:
    written = json.loads((folder / "targets.json").read_text())["targets"]
    return {target["model"]: (target["top1"], target["chosen"]) for target in written}


def test_targets_are_given_by_the_ledger_or_on_the_command_line(tmp_path, rows, capsys):
    models = list(dict.fromkeys(path.parent.name.split("-")[0] for path in rows))
    ledger = tmp_path / "own.yaml"
    ledger.write_text(f"sources: {{}}\npublished: []\nclaims: []\ntargets: {{{models[0]}: 70, vim_other: 60}}\n")

    def judged(*options: str) -> int:
        return main(["judge", "--out", str(tmp_path), "--claims", str(ledger), *options, *map(str, rows)])

    assert judged() == 0
    highest = "the highest that every training of this model reaches"
    assert targets_of(tmp_path)[models[0]] == (70, "of the ledger")
    assert targets_of(tmp_path)[models[1]][1] == highest
    assert judged("--target", f"{models[1]}=81.5", "--target", "80") == 0
    given = "given with --target"
    assert targets_of(tmp_path) == {models[0]: (80, given), models[1]: (81.5, given)}
    capsys.readouterr()
    assert judged("--target", "vim_tini_mini=80") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no row is of this model; did you mean 'vim_tiny_mini'?" in said
    for wrong in ("101", "nan", "much"):
        with pytest.raises(SystemExit, match="2"):
            judged("--target", wrong)
        assert f"invalid accuracy in percent value: '{wrong}'" in capsys.readouterr().err
