"""The report's page, and its forms in Markdown and LaTeX: what is on it, where it leads, and that it loads nothing."""

import csv
import html
import io
import json
import math
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from famba.claims import ledger
from famba.cli import main
from famba.config import Cell, Experiment
from famba.figures import names_of, style, svg
from famba.figures.captions import AUDIT, CAPTIONS
from famba.figures.draw import figure
from famba.figures.palette import DARK, DARK_PAGE, MODELS, STRATEGY_COLOURS, colours
from famba.figures.results import read_results
from famba.figures.svg import Origin
from famba.report import embedded, prose
from famba.results import summary
from famba.results.row import read_row
from famba.results.tables import in_unit
from tests.helpers import ROOT
from tests.helpers.pages import CLAIMS, DEVIATIONS, Page, report
from tests.helpers.rows import changed, experiment, paper_experiment, write_grid, write_predictions

PUBLIC = re.compile(r"https://(arxiv\.org/abs|doi\.org|github\.com)/[\w./-]+")


DRAWN = ("top1", "time", "accuracy_time")


def drawn_and_audited(folder: Path, rows: list[Path]) -> list[Path]:
    """The rows, with some of their figures and the audit where the page takes them from."""
    results = read_results(rows, CLAIMS)
    for name in DRAWN:
        with style.theme():
            style.save(figure(name, results), folder / "figures", name, CAPTIONS[name], origin=Origin(results.digest))
    assert main(["audit", "--claims", str(CLAIMS), "--out", str(folder / "audit")]) == 0
    return rows


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Path:
    """A folder with the report of the paper's grid, made-up numbers."""
    folder = tmp_path_factory.mktemp("paper")
    assert report(folder, drawn_and_audited(folder, write_grid(folder, paper_experiment(seeds=[0, 1, 2])))) == 0
    return folder


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smoke")
    assert report(folder, drawn_and_audited(folder, write_grid(folder, experiment(seeds=[0])))) == 0
    return folder


@pytest.fixture(scope="module")
def pages(paper, smoke) -> dict[str, Page]:
    return {folder.name[:5]: Page((folder / "report.html").read_text()) for folder in (paper, smoke)}


def rows_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("cells/*/row.json"))


def copied(page: Page, of: str, kind: str) -> str:
    (button,) = page.all("button", **{"aria-label": f"Copy {kind}: {of}"})
    return button["data-copy"] if "data-copy" in button else page.preformatted[button["data-copy-of"]]


@pytest.mark.parametrize("which", ["paper", "smoke"])
def test_every_claim_is_there_with_its_verdict(pages, which, request):
    judged = request.getfixturevalue(which)
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
            assert f"{in_unit(v['mean'], v['unit'])} {v['unit']}" in shown
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
    assert "above 0.00 %" in pages["paper"].text


def test_a_trade_off_says_how_often_it_is_dominance(tmp_path):
    grid = Experiment.load(ROOT / "config" / "starting-layer.yaml")
    assert report(tmp_path, write_grid(tmp_path, grid), claims=ROOT / grid.claims) == 0
    text = Page((tmp_path / "report.html").read_text()).text
    assert "efficiency is highest when fusion starts at the 6th layer" in text
    assert re.search(r"dominates in \d+% of resamples", text)


def test_smoke_rows_test_no_claim_and_say_so(pages):
    assert "0 ✓ reproduced" in pages["smoke"].text
    assert f"{len(ledger.load(CLAIMS).judged)} ○ not tested" in pages["smoke"].text
    assert "SMOKE" in pages["smoke"].text
    marked = [a["id"] for _, a in pages["smoke"].elements if a.get("id", "").endswith("watermark-smoke")]
    assert marked == [f"{name}-watermark-smoke" for name in DRAWN]
    assert "SMOKE" not in pages["paper"].text
    assert not any(a.get("id", "").endswith("watermark-smoke") for _, a in pages["paper"].elements)


def test_the_summary_is_the_judges(paper, pages):
    of = "One line per model and strategy"
    assert copied(pages["paper"], of, "CSV") == (paper / "summary.csv").read_text()
    assert copied(pages["paper"], of, "LaTeX") == (paper / "tables" / "summary.tex").read_text()
    assert (paper / "tables" / "summary.md").read_text() in (paper / "report.md").read_text()
    assert (paper / "tables" / "verdicts.md").read_text() in (paper / "report.md").read_text()
    values = [a["data-value"] for a in pages["paper"].all("td") if "data-value" in a]
    for line in summary.summarise(summary.read_rows(rows_in(paper))):
        for name in ("top1_last_percent", "step_ratio"):
            assert str(float(f"{line[name]:.6g}")) in values


def test_the_marks_tell_the_summarys_numbers(paper):
    """Each of a figure's marks, by the line of the summary that it leads to."""
    (top1, time, _) = (told(paper / "figures" / f"{name}.svg") for name in DRAWN)
    for line in summary.summarise(summary.read_rows(rows_in(paper))):
        href = f"#line-{line['model']}-{line['strategy']}"
        mean = f"{line['top1_best_percent']:.6g} ± {line['top1_best_percent_ci95']:.6g}"
        assert f"top-1, best epoch on test: {mean} %" in top1[href][0]
        assert "n = 3, 95 % interval" in top1[href][0]
        assert f"time of a step / baseline's: {line['step_ratio']:.6g}" in " ".join(time[href][1])
        assert f"predicted from the tokens: {line['token_share']:.6g}" in time[href][1]


def told(path: Path) -> dict[str, list[list[str]]]:
    """What the marks of a figure tell, line by line, by where they lead."""
    found: dict[str, list[list[str]]] = {}
    for mark in ET.parse(path).iter(f"{{{svg.SVG}}}a"):
        words = mark.findtext(f"{{{svg.SVG}}}title") or ""
        found.setdefault(mark.attrib["href"], []).append(words.split("\n"))
    return found


@pytest.mark.parametrize("which", ["paper", "smoke"])
def test_the_figures_are_the_very_files(which, pages, request):
    folder, page = request.getfixturevalue(which), pages[which]
    text = (folder / "report.html").read_text()
    for name in DRAWN:
        assert (folder / "figures" / f"{name}.svg").read_text() in text
        assert CAPTIONS[name].text in page.text
    for name, caption in AUDIT.items():
        assert (folder / "audit" / f"{name}.svg").read_text() in text
        assert caption.text in page.text
    shown = [a["id"] for a in page.all("figure")]
    assert shown == [*(f"figure-{name}" for name in DRAWN), *(f"figure-audit-{name}" for name in AUDIT)]
    missing = [CAPTIONS[name].title for name in names_of(STRATEGY_COLOURS) if name not in DRAWN]
    told = f"(famba figures): {', '.join(missing)}."
    assert re.sub(r"\s", "", told) in re.sub(r"\s", "", page.text)


def test_a_dark_page_has_other_greys(pages, smoke):
    """Every grey that is drawn with has its counterpart: on a dark page none is left dark."""
    page = (smoke / "report.html").read_text()
    drawn = {a[paint] for _, a in pages["smoke"].elements for paint in ("fill", "stroke") if paint in a}
    greys = {colour for colour in drawn if re.fullmatch(r"#(..)\1\1", colour)} - {"#ffffff", "#000000"}
    assert greys <= {grey.lower() for grey in DARK}
    for grey in greys:
        assert f'[fill="{grey}"] {{ fill: {DARK[grey]}; }}' in page


def test_a_dark_page_has_hues_that_stand_out(tmp_path):
    """Also those of strategies that are an experiment's own: a contrast of 3 with the page (WCAG 2.2, 1.4.11)."""
    css = (ROOT / "famba" / "report" / "templates" / "report.css").read_text()
    assert f"--paper: {DARK_PAGE};" in css
    for names in (["upper", "a", "b", "c", "d", "e"], [*"abcdefghijkl"]):
        rules = dict(re.findall(r'\[fill="(#\w{6})"\] { fill: (#\w{6}); }', embedded.dark(names)))
        for hue in [*colours(names).values(), *STRATEGY_COLOURS.values(), *MODELS.values()]:
            assert contrast(rules[hue.lower()], DARK_PAGE) > 3
    rows = write_grid(
        tmp_path, experiment(seeds=[0], schedules={"late": (0,) * 11 + (20,)}, strategies=["upper", "late"])
    )
    assert report(tmp_path, rows) == 0
    late = colours(["upper", "late"])["late"].lower()
    assert f'[stroke="{late}"] {{ stroke: #' in (tmp_path / "report.html").read_text()


def contrast(one: str, other: str) -> float:
    """Of two colours: WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        shares = [byte / 255 for byte in bytes.fromhex(colour[1:])]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_published_numbers_and_the_missing_ones(pages):
    assert "paper (1 seed, best epoch on test): 76.9 %" in pages["paper"].text
    assert "not published in the sources we have" in pages["paper"].text
    assert "paper (1 seed" not in pages["smoke"].text


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
        assert page.source.count(html.escape(path.read_text().rstrip("\n"), quote=False)) == 1  # and only there
        words = shlex.split(copied(page, path.parent.name, "command"))
        assert Cell.from_json(words[words.index("--cell") + 1]) == read_row(path).cell


@pytest.mark.parametrize("which", ["paper", "smoke"])
def test_the_page_loads_nothing(pages, which, request):
    page, text = pages[which], (request.getfixturevalue(which) / "report.html").read_text()
    assert len(text.encode()) < 2_000_000
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag, attributes in page.elements:
        assert "src" not in attributes or attributes["src"].startswith("data:"), tag
        assert "style" not in attributes, tag  # the policy refuses it
        assert not any(name.startswith("on") for name in attributes), tag
    assert [a["href"] for a in page.all("link")] == ["data:,"]
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp|import\(", text)


def test_the_deviations_are_the_documents(pages):
    found = prose.deviations(DEVIATIONS)
    assert len(found.lines) >= 16
    shown = re.sub(r"\s", "", pages["paper"].text)  # the pieces of a text are elements of their own
    for text in [*found.before, *(cell for line in found.lines for cell in line), *found.bullets]:
        assert re.sub(r"\]\([^)]*\)|[\s`[]", "", text) in re.sub(r"\[", "", shown)


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
    labels = re.findall(r"\\label\{tab:([\w-]+)\}", tex)
    assert labels[-4:] == ["summary", "verdicts", "paired-networks", "targets"]
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == len(labels) == 5  # and the paper's Table 1


def test_markdown_shows_the_figures_whose_rows_were_checked(paper, smoke):
    """The SVGs: nobody knows of what rows a PNG is, and `famba figures --format svg` draws none."""
    for folder in (paper, smoke):
        linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (folder / "report.md").read_text())
        assert sorted(linked) == sorted(f"figures/{name}.svg" for name in DRAWN)
        assert all((folder / link).is_file() for link in linked)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("claims.json", None, "cannot read the file of verdicts (No such file or directory); run famba judge first"),
        ("claims.json", "{}", "not a valid file of verdicts: watermark: Field required; run famba judge first"),
        ("summary.csv", None, "run famba judge first"),
        (
            "summary.csv",
            "model,strategy\n",
            "differs from what famba judge writes for these rows; run famba judge first",
        ),
        ("summary.csv", b"\xff", "cannot read what famba judge wrote (not a UTF-8 text file); run famba judge first"),
        ("tables/summary.md", "", "differs from what famba judge writes for these rows; run famba judge first"),
        ("tables/verdicts.tex", None, "run famba judge first"),
        ("figures/top1.svg", "<svg/>", "not drawn by this version of famba, or truncated; draw it again"),
        ("figures/top1.svg", b"\xff", "cannot read the figure (not a UTF-8 text file); draw it again"),
        ("audit/memory.svg", b"\xff", "cannot read the figure (not a UTF-8 text file); draw it again"),
        ("audit/audit.json", "{}", "not a valid audit: source: Field required; run famba audit again"),
    ],
)
def test_what_is_missing_or_broken_beside_the_page_is_one_line(tmp_path, smoke, capsys, name, text, says):
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder)
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    page = (folder / "report.html").read_bytes()
    error = refused(folder, rows_in(folder), capsys)
    assert f"{folder / name}: " in error
    assert says in error
    assert (folder / "report.html").read_bytes() == page


def refused(folder: Path, rows: list[Path], capsys, claims: Path = CLAIMS) -> str:
    """The line with which the command refuses to write a page of these rows and what stands beside it."""
    given = ["--out", str(folder / "report.html"), "--claims", str(claims), "--deviations", str(DEVIATIONS)]
    capsys.readouterr()
    assert main(["report", *given, *map(str, rows)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("summary.csv", lambda text: text[:-200]),
        ("summary.csv", lambda text: text.replace("\n", ",1\n")),
        ("summary.csv", lambda text: re.sub(r"(mini,upper(,[^,]*){10}),[^,]*", r"\1,", text, count=1)),
        ("summary.csv", lambda text: re.sub(r"(mini,upper(,[^,]*){10}),[^,]*", r"\1,nan", text, count=1)),
        ("figures/time.svg", lambda text: text[:20_000]),
        ("audit/time.svg", lambda text: text[:5_000]),
    ],
)
def test_a_damaged_file_beside_the_page_is_one_line(tmp_path, smoke, capsys, name, damage):
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder)
    whole = (folder / name).read_text()
    (folder / name).write_text(damage(whole))
    assert (folder / name).read_text() != whole
    assert f"{folder / name}: " in refused(folder, rows_in(folder), capsys)


def test_files_of_other_rows_are_refused(tmp_path, smoke, capsys):
    """Also where a cell was trained again to the same accuracy, and where it was judged again and not drawn again."""
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder)
    rows = rows_in(folder)
    judge = "claims.json: made from other rows or another ledger; run famba judge first, on the same rows"
    assert judge in refused(folder, rows[1:], capsys)
    whole = rows[0].read_text()
    for change in ({"metrics": {"last": {"top1": 12.0}}}, {"time": {"step_ms": 1e5}}):
        rows[0].write_text(whole)
        changed(rows[0], **change)
        assert judge in refused(folder, rows, capsys)
    given = ["--claims", str(CLAIMS), *map(str, rows)]
    assert main(["judge", "--out", str(folder), *given]) == 0
    draw = "figures/top1.svg: drawn from other rows or another ledger; run famba figures first, on the same rows"
    assert draw in refused(folder, rows, capsys)
    assert main(["figures", "--out", str(folder / "figures"), *given]) == 0
    assert report(folder, rows) == 0


def test_files_made_from_other_files_beside_the_rows_are_refused(tmp_path, capsys):
    """The row is the same, and what is compared image by image or drawn epoch by epoch is not."""
    rows = write_grid(tmp_path, experiment(seeds=[0], strategies=["baseline", "upper"]))
    hits = np.arange(90) % 3 > 0
    for path in rows:
        write_predictions(path, hits, np.arange(90) % 10)
    assert report(tmp_path, rows) == 0
    given = ["--claims", str(CLAIMS), *map(str, rows)]
    assert main(["figures", "--out", str(tmp_path / "figures"), "--only", "curves", *given]) == 0
    predictions, epochs = (rows[0].with_name(name) for name in ("predictions.npz", "epochs.csv"))
    kept, row = predictions.read_bytes(), rows[0].read_bytes()
    write_predictions(rows[0], hits[::-1].copy(), np.arange(90) % 10)
    assert rows[0].read_bytes() == row
    judge = f"made from another {{}} of {rows[0].parent.name}; run famba judge first"
    assert f"paired.json: {judge.format('predictions.npz')}" in refused(tmp_path, rows, capsys)
    predictions.write_bytes(kept)

    curve = epochs.read_text()
    epochs.write_text(re.sub(r"(\n0,[^,]*),[^,]*", r"\1,7", curve, count=1))  # the first epoch's loss
    assert epochs.read_text() != curve
    assert f"targets.json: {judge.format('epochs.csv')}" in refused(tmp_path, rows, capsys)
    assert main(["judge", "--out", str(tmp_path), *given]) == 0
    assert "curves.svg: drawn from another epochs.csv; run famba figures first" in refused(tmp_path, rows, capsys)

    epochs.unlink()  # rows that are published without these files say the same
    predictions.unlink()
    page = ["--out", str(tmp_path / "report.html"), "--deviations", str(DEVIATIONS)]
    assert main(["report", *page, *given]) == 0
    predictions.write_bytes(kept[:-1])
    old = json.loads((tmp_path / "paired.json").read_text())
    assert old.pop("predictions").keys() == {path.parent.name for path in rows}
    assert f"paired.json: {judge.format('predictions.npz')}" in refused(tmp_path, rows, capsys)
    (tmp_path / "paired.json").write_text(json.dumps(old, indent=1, ensure_ascii=False) + "\n")  # as it once was
    assert main(["report", *page, *given]) == 0


@pytest.mark.parametrize(
    ("of", "to"), [("\nsources:\n", "\naccuracy: last\nsources:\n"), ("  readme: git", "  readme: at git")]
)
def test_files_of_another_ledger_are_refused(tmp_path, smoke, capsys, of, to):
    """Also of one with the same claims: it may judge another epoch, or have another source."""
    text = CLAIMS.read_text()
    assert of in text
    other = tmp_path / "claims.yaml"
    other.write_text(text.replace(of, to))
    says = "claims.json: made from other rows or another ledger; run famba judge first"
    assert says in refused(smoke, rows_in(smoke), capsys, other)
    assert says in refused(smoke, rows_in(smoke), capsys, ROOT / "config" / "cifar100-small-claims.yaml")


def test_verdicts_with_a_source_that_the_ledger_lacks_are_refused(tmp_path, smoke, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder)
    path = folder / "claims.json"
    path.write_text(path.read_text().replace('"source": "readme"', '"source": "gone"'))
    assert "claims.json: made from other rows or another ledger" in refused(folder, rows_in(folder), capsys)


def test_a_plan_stands_beside_the_measured_time(tmp_path, smoke, pages):
    assert "No plan was given" in pages["smoke"].text
    plan = tmp_path / "plan.json"
    cells = [{"cell": path.parent.name, "cell_s": 12345.6, "peak_bytes": 1} for path in rows_in(smoke)]
    plan.write_text(json.dumps({"experiment": "smoke", "basis": ["device: made up"], "cells": cells}))
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
    options = {"--out": str(smoke / "other.html"), "--claims": str(CLAIMS), "--deviations": str(DEVIATIONS)}
    options[changed[0]] = str(tmp_path / changed[1])
    arguments = [word for pair in options.items() for word in pair]
    assert main(["report", *arguments, *map(str, rows_in(smoke))]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert not (smoke / "other.html").exists()


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"cells": [{"cell": "a"}]}, "cells.0.cell_s: "),
        ({"cells": [{"cell": "a", "cell_s": -5}]}, "cells.0.cell_s: Input should be greater than 0, found -5"),
        ({"cells": [{"cell": "a", "cell_s": 0}]}, "cells.0.cell_s: Input should be greater than 0"),
        ({"cells": [{"cell": "a", "cell_s": math.inf}]}, "cells.0.cell_s: Input should be a finite number"),
        ({"experiment": "paper"}, "the plan of experiment paper, and the rows are of smoke; name the plan of theirs"),
    ],
)
def test_a_wrong_plan_is_one_line(tmp_path, smoke, capsys, plan, says):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"experiment": "smoke", "basis": [], "cells": []} | plan))
    given = ["--claims", str(CLAIMS), "--deviations", str(DEVIATIONS), "--plan", str(path)]
    assert main(["report", "--out", str(smoke / "other.html"), *given, *map(str, rows_in(smoke))]) == 2
    error = capsys.readouterr().err
    assert f"{path}: " in error
    assert says in error
    assert error.count("\n") == 1


def test_a_page_of_several_experiments_names_them_all(tmp_path):
    """With the commands of each; a plan is of one, and stands beside its rows alone."""
    rows = [
        *write_grid(tmp_path / "one", experiment(experiment="one", seeds=[0], strategies=["baseline", "upper"])),
        *write_grid(tmp_path / "two", experiment(experiment="two", seeds=[0], strategies=["lower"])),
    ]
    cells = [{"cell": path.parent.name, "cell_s": 12345.6} for path in rows]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"experiment": "two", "basis": [], "cells": cells}))
    assert report(tmp_path, rows, "--plan", str(plan)) == 0
    page = Page((tmp_path / "report.html").read_text())
    text, tex = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "tex"))
    assert "Experiments one and two" in " ".join(page.text.split())
    for shown in (page.text, text, tex):
        assert "Famba-V, measured again: experiments one and two" in shown
    for name in ("one", "two"):
        compare = f"famba reproduce results/{name}/cells/*/row.json --with results/{name}-again/cells/*/row.json"
        assert f"cp results/{name}/workflow/experiment.yaml {name}-again.yaml" in text
        assert compare in text
        assert compare in page.text
    assert page.text.count(" 12,345.60 ") == 2  # one strategy of two models
