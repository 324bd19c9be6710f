"""The report's page, and its forms in Markdown and LaTeX: what is on it, where it leads, and that it loads nothing."""

import csv
import html
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from famba.claims import ledger
from famba.cli import main
from famba.config import Cell, Experiment
from famba.figures.palette import STRATEGY_COLOURS
from famba.report import prose
from famba.report.pictures import PICTURES, VECTOR_AT_MOST
from famba.results import summary
from famba.results.row import read_row
from tests.helpers import ROOT
from tests.helpers.pages import CLAIMS, DEVIATIONS, Page, report
from tests.helpers.rows import experiment, paper_experiment, write_grid

PUBLIC = re.compile(r"https://(arxiv\.org/abs|doi\.org|github\.com)/[\w./-]+")


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Path:
    """A folder with the report of the paper's grid, made-up numbers."""
    folder = tmp_path_factory.mktemp("paper")
    assert report(folder, write_grid(folder, paper_experiment(seeds=[0, 1, 2]))) == 0
    return folder


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smoke")
    assert report(folder, write_grid(folder, experiment(seeds=[0]))) == 0
    return folder


@pytest.fixture(scope="module")
def pages(paper, smoke) -> dict[str, Page]:
    return {folder.name[:5]: Page((folder / "report.html").read_text()) for folder in (paper, smoke)}


def rows_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("cells/*/row.json"))


def copied(page: Page, of: str, kind: str) -> str:
    (button,) = page.all("button", **{"aria-label": f"Copy {kind}: {of}"})
    return button["data-copy"]


@pytest.mark.parametrize("which", ["paper", "smoke"])
def test_every_claim_is_there_with_its_verdict(pages, which, request):
    folder = request.getfixturevalue(which)
    judged = folder / "judged"
    assert main(["judge", "--out", str(judged), "--claims", str(CLAIMS), *map(str, rows_in(folder))]) == 0
    verdicts = json.loads((judged / "claims.json").read_text())["verdicts"]
    page = pages[which]
    shown = [a["id"] for a in page.all("li") if a.get("id", "").startswith("claim-")]
    assert sorted(shown) == sorted(f"claim-{v['id']}" for v in verdicts)
    for v in verdicts:
        shown = page.text[page.text.index(" ".join(v["quote"].split())) :]
        assert ledger.load(CLAIMS).sources[v["source"]].split()[-1] in shown[:400]
        assert v["reason"][1:] in page.text
        alike = [other for other in verdicts if (other["verdict"], other["reason"]) == (v["verdict"], v["reason"])]
        if len(alike) > 1:
            recipe = "" if v["recipe"] == "custom" else f" (recipe {v['recipe']})"
            assert page.text.count(f"{len(alike)} claims {v['verdict']}{recipe}: {v['reason']}") == 1
        if v["mean"] is not None:
            assert f"{v['mean']:.4g}" in shown
    exact = list(csv.DictReader(io.StringIO(copied(page, "the verdicts", "CSV"))))
    assert [(line["claim"], line["verdict"]) for line in exact] == [(v["id"], v["verdict"]) for v in verdicts]
    assert copied(page, "the verdicts", "LaTeX") == (judged / "tables" / "verdicts.tex").read_text()


@pytest.mark.parametrize("which", ["paper", "smoke"])
def test_results_and_figures_come_before_the_verdicts(pages, which, request):
    ids = [a["id"] for a in pages[which].all("section")]
    assert ids[:4] == ["results", "figures", "audit", "verdicts"]
    assert [a["href"] for a in pages[which].all("a") if a["href"] in {f"#{i}" for i in ids}][1:5] == [
        f"#{i}" for i in ids[:4]
    ]
    text = (request.getfixturevalue(which) / "report.md").read_text()
    assert text.index("## Results") < text.index("## Verdicts")
    tex = (request.getfixturevalue(which) / "report.tex").read_text()
    assert tex.index(r"\label{tab:summary}") < tex.index(r"\label{tab:verdicts}")


def test_what_the_papers_own_tables_say(smoke, pages):
    assert "6 of 8 agree with the paper's own tables" in pages["smoke"].text
    assert "## The paper's own tables\n\n* Memory: the 26 Vim-Ti rows" in (smoke / "report.md").read_text()


def test_smoke_verdicts_are_one_line_in_markdown(smoke, pages):
    text = (smoke / "report.md").read_text()
    assert text.count("these are smoke rows") == 1
    assert "| claim |" not in text
    assert pages["smoke"].text.count("these are smoke rows") == 1


def test_a_table_without_numbers_is_left_out(pages):
    assert "Noise floor" in pages["paper"].text
    assert "Noise floor" not in pages["smoke"].text  # one seed


def test_every_comparison_of_a_claim_is_shown(pages):
    assert "Vim-S, upper against baseline: time reduction" in pages["paper"].text
    assert "above 0 %" in pages["paper"].text


def test_a_trade_off_says_how_often_it_is_dominance(tmp_path):
    grid = Experiment.load(ROOT / "config" / "starting-layer.yaml")
    assert report(tmp_path, write_grid(tmp_path, grid), "--claims", str(ROOT / grid.claims)) == 0
    text = Page((tmp_path / "report.html").read_text()).text
    assert "efficiency is highest when fusion starts at the 6th layer" in text
    assert re.search(r"dominates in \d+% of resamples", text)


def test_smoke_rows_test_no_claim_and_say_so(pages):
    assert "0 ✓ reproduced" in pages["smoke"].text
    assert f"{len(ledger.load(CLAIMS).judged)} ○ not tested" in pages["smoke"].text
    assert "SMOKE" in pages["smoke"].text
    charts = pages["smoke"].all("svg", role="group")
    assert len(pages["smoke"].all("text", **{"class": "smoke"})) == len(charts) > 7
    assert "SMOKE" not in pages["paper"].text
    assert pages["paper"].all("text", **{"class": "smoke"}) == []


def test_the_summary_is_the_judges(paper, pages):
    rows = summary.read_rows(rows_in(paper))
    out = paper / "again"
    assert main(["judge", "--out", str(out), "--claims", str(CLAIMS), *map(str, rows)]) == 0
    of = "One line per model and strategy"
    assert copied(pages["paper"], of, "CSV") == (out / "summary.csv").read_text()
    assert copied(pages["paper"], of, "LaTeX") == (out / "tables" / "summary.tex").read_text()
    lines = summary.summarise(rows)
    values = [a["data-value"] for a in pages["paper"].all("td") if "data-value" in a]
    for line in lines:
        assert str(line["top1_last_percent"]) in values
        assert str(line["step_ratio"]) in values
        tips = [a["aria-label"] for a in pages["paper"].all("a", href=f"#line-{line['model']}-{line['strategy']}",
                                                            **{"class": "mark"})]  # fmt: skip
        top1, ratio = f"{line['top1_best_percent']:.6g} ± {line['top1_best_percent_ci95']:.6g}", line["step_ratio"]
        assert any(f"top-1, best epoch: {top1} %" in tip and "n = 3" in tip for tip in tips)
        assert any(f"time of a step / baseline's: {ratio:.6g}" in tip for tip in tips)


def test_published_numbers_and_the_missing_ones(pages):
    assert "paper (1 seed, best epoch on test): 76.9 %" in " ".join(
        a["aria-label"] for a in pages["paper"].all("a", **{"class": "mark"})
    )
    assert "not published in the sources we have" in pages["paper"].text
    assert not any("paper" in a["aria-label"] for a in pages["smoke"].all("a", **{"class": "mark"}))


@pytest.mark.parametrize("which", ["paper", "smoke"])
def test_every_link_leads_somewhere(pages, which, request):
    folder, page = request.getfixturevalue(which), pages[which]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in page.all("a")]
    for href in links:
        if href.startswith("#"):
            assert href[1:] in ids
        elif "://" in href:
            assert PUBLIC.fullmatch(href), href
        else:
            assert (folder / href).is_file(), href
    for path in rows_in(folder):
        assert path.relative_to(folder).as_posix() in links
        assert f"#row-{path.parent.name}" in links
        assert copied(page, path.parent.name, "JSON") == path.read_text().rstrip("\n")
        words = shlex.split(copied(page, path.parent.name, "command"))
        assert Cell.from_json(words[words.index("--cell") + 1]) == read_row(path).cell


@pytest.mark.parametrize("which", ["paper", "smoke"])
def test_the_page_loads_nothing(pages, which, request):
    page, text = pages[which], (request.getfixturevalue(which) / "report.html").read_text()
    assert len(text.encode()) < 5_000_000
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag, attributes in page.elements:
        assert "src" not in attributes or attributes["src"].startswith("data:"), tag
        assert "style" not in attributes, tag  # the policy refuses it
        assert not any(name.startswith("on") for name in attributes), tag
    assert [a["href"] for a in page.all("link")] == ["data:,"]
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp|import\(", text)


def test_strategies_have_the_figures_colours(paper):
    text = (paper / "report.html").read_text()
    for i, colour in enumerate(STRATEGY_COLOURS.values()):
        assert f".s{i}{{--hue:{colour}}}" in text


def test_the_deviations_are_the_documents(pages):
    found = prose.deviations(DEVIATIONS)
    assert len(found.lines) >= 16
    shown = re.sub(r"\s", "", pages["paper"].text)  # the pieces of a text are elements of their own
    for text in [*found.before, *(cell for line in found.lines for cell in line), *found.bullets]:
        assert re.sub(r"[\s`]", "", text) in shown


def test_identical_rows_give_identical_files(tmp_path, smoke):
    rows = rows_in(smoke)
    assert report(tmp_path / "a", rows) == 0
    assert report(tmp_path / "b", rows[::-1]) == 0
    for name in ("report.html", "report.md", "report.tex", "report.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_text_from_outside_is_escaped(tmp_path):
    nasty = '<img src=x onerror=alert(1)> & "quoted" \'</script>'
    rows = write_grid(tmp_path, experiment(seeds=[0], strategies=["baseline", "upper"]), device=nasty)
    assert report(tmp_path, rows) == 0
    text = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in text
    assert html.escape(nasty, quote=False).split("&lt;/")[0].split(" &amp;")[0] in text
    assert text.count("</script>") == 1
    assert nasty in " ".join(Page(text).words)


def test_markdown_and_latex_hold_verdicts_and_summary(paper):
    text = (paper / "report.md").read_text()
    assert "| claim | recipe | verdict |" in text
    assert "| Vim-Ti | baseline " in text
    assert "GPU-hours" in text
    tex = (paper / "report.tex").read_text()
    assert tex.index(r"\begin{document}") < tex.index(r"\label{tab:summary}")
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 3  # Table 1, summary, verdicts


def test_figures_beside_the_page_are_taken_in(tmp_path):
    rows = write_grid(tmp_path, experiment(seeds=[0], strategies=["baseline", "upper"]))
    folder = tmp_path / "figures"
    folder.mkdir()
    (small, *_), (large, *_), *_ = PICTURES
    (folder / f"{small}.svg").write_text("<svg/>")
    (folder / f"{large}.svg").write_bytes(b" " * (VECTOR_AT_MOST + 1))
    (folder / f"{large}.png").write_bytes(b"PNG")
    assert report(tmp_path, rows) == 0
    page = Page((tmp_path / "report.html").read_text())
    kinds = [a["src"].partition(";")[0] for a in page.all("img")]
    assert kinds == ["data:image/svg+xml", "data:image/png"]
    assert all(a["alt"] for a in page.all("img"))
    for name, _, _ in PICTURES[2:]:
        assert f"there is no figures/{name}.svg" in page.text


def test_a_plan_stands_beside_the_measured_time(tmp_path, smoke, pages):
    assert "No plan was given" in pages["smoke"].text
    plan = tmp_path / "plan.json"
    cells = [{"cell": path.parent.name, "cell_s": 12345.6, "peak_bytes": 1} for path in rows_in(smoke)]
    plan.write_text(json.dumps({"basis": ["device: made up"], "cells": cells}))
    assert report(tmp_path, rows_in(smoke), "--plan", str(plan)) == 0
    page = Page((tmp_path / "report.html").read_text())
    assert "Planned: device: made up." in page.text
    assert page.text.count(" 12,345.60 ") == len(cells)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (["--out", "page.pdf"], "is a .html file"),
        (["--deviations", "absent.md"], "cannot read the deviations"),
        (["--plan", "absent.json"], "cannot read the plan"),
        (["--claims", "absent.yaml"], "cannot read the claims"),
    ],
)
def test_bad_input_is_one_line(tmp_path, smoke, capsys, changed, says):
    options = {"--out": str(tmp_path / "report.html"), "--claims": str(CLAIMS), "--deviations": str(DEVIATIONS)}
    options[changed[0]] = str(tmp_path / changed[1])
    arguments = [word for pair in options.items() for word in pair]
    assert main(["report", *arguments, *map(str, rows_in(smoke))]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_broken_plan_is_named(tmp_path, smoke, capsys):
    (tmp_path / "plan.json").write_text('{"basis": [], "cells": [{"cell": "a"}]}')
    assert report(tmp_path, rows_in(smoke), "--plan", str(tmp_path / "plan.json")) == 2
    assert "cells.0.cell_s" in capsys.readouterr().err


def test_the_audit_brings_its_figures(paper, pages, tmp_path):
    rows = sorted(paper.glob("cells/*/row.json"))[:1]
    assert main(["audit", "--claims", str(CLAIMS), "--out", str(tmp_path / "audit")]) == 0
    assert report(tmp_path, rows) == 0
    figures = [a["id"] for a in Page((tmp_path / "report.html").read_text()).all("figure")]
    names = ["figure-audit-memory", "figure-audit-time", "figure-audit-starting_layer"]
    assert [name for name in figures if name.startswith("figure-audit")] == names
    assert not any(a["id"].startswith("figure-audit") for a in pages["paper"].all("figure"))  # none beside that page
