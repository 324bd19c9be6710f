"""`famba publish`: rows of several machines become one set and one page, whatever their order; what is left out."""

import csv
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from famba.cli import main
from famba.figures.palette import STRATEGY_COLOURS
from famba.report.leaderboard import page
from famba.report.leaderboard.contribution import Contributed, Origin
from famba.report.leaderboard.shared import merged
from famba.results.row import Row, read_row
from famba.text import one_line
from tests.helpers import ROOT
from tests.helpers.pages import Page
from tests.helpers.rows import changed, experiment, formal, make_row, paper_experiment, thresholded

EVIDENCE = ROOT / "results" / "evidence" / "cifar100-small"
OWN = list(EVIDENCE.glob("cells/*/row.json"))
GRID = paper_experiment(seeds=[0, 1], strategies=["baseline", "upper"], models=["vim_tiny"])
LINE = paper_experiment(seeds=[0, 1], strategies=["upper"], models=["vim_tiny"])  # one line, for which nothing is drawn


def publish(site: Path, *folders: Path, source: str | None = "A, Town") -> int:
    named = [] if source is None else ["--source", source]
    return main(["publish", *map(str, folders), *named, "--out", str(site)])


def later(paths: list[Path], slower: float = 1.0) -> None:
    """The same cells, trained on another day and on a machine that is slower."""
    for path in paths:
        time = read_row(path).time
        took = {name: getattr(time, name) * slower for name in ("step_ms", "train", "total")}
        changed(path, time={**took, "images_per_s": time.images_per_s / slower})
        text = path.read_text().replace('"started": "2026-01-01', '"started": "2025-12-31')
        path.write_text(text)


@pytest.fixture(scope="module")
def machines(tmp_path_factory) -> dict[str, Path]:
    """Two made-up machines with the same cells, and the committed rows of a real one. The second one is an archive."""
    folder = tmp_path_factory.mktemp("machines")
    formal(folder / "a" / "paper", GRID)
    later(formal(folder / "b" / "paper", GRID), slower=3)
    shutil.make_archive(str(folder / "b"), "zip", folder / "b")
    return {"A, Town": folder / "a", "B & B, City": folder / "b.zip", "famba's own": EVIDENCE}


@pytest.fixture(scope="module")
def site(machines, tmp_path_factory) -> Path:
    """All three, one after the other."""
    folder = tmp_path_factory.mktemp("site")
    for source, place in machines.items():
        assert publish(folder, place, source=source) == 0
    return folder


@pytest.fixture(scope="module")
def shown(site) -> Page:
    return Page((site / "index.html").read_text())


def lines(site: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((site / "leaderboard.csv").read_text().splitlines()))


def contents(site: Path) -> dict[str, bytes]:
    return {path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def manifest(site: Path) -> list[dict]:
    return json.loads((site / "manifest.json").read_text())["rows"]


def test_the_real_rows_have_the_numbers_that_were_judged(site):
    with (EVIDENCE / "summary.csv").open() as file:
        judged = {line["strategy"]: line for line in csv.DictReader(file)}
    own = [line for line in lines(site) if line["source"] == "famba's own"]
    assert [line["strategy"] for line in own] == sorted(
        judged, key=lambda name: -float(judged[name]["top1_last_percent"])
    )
    for line in own:
        of = judged[line["strategy"]]
        assert (line["data set"], line["protocol"], line["device class"]) == ("cifar100", "custom", "CPU")
        assert float(line["top-1 (%)"]) == pytest.approx(float(of["top1_last_percent"]), rel=1e-5)
        assert float(line["step time ratio"]) == pytest.approx(float(of["step_ratio"]), rel=1e-5)
        assert float(line["tokens seen (%)"]) == pytest.approx(100 * float(of["token_share"]), rel=1e-5)
        assert (line["n"], line["notes"]) == (of["n"], "–")
    page_of = (site / "index.html").read_text()
    best = max(judged.values(), key=lambda line: float(line["top1_last_percent"]))
    assert f">{float(best['top1_last_percent']):.2f} ± {float(best['top1_last_percent_ci95']):.2f}<" in page_of
    assert "One of the 10,000 test images is 0.01 points." in page_of


def test_machines_stay_apart_and_times_are_ratios_within_one(site, shown):
    """B is three times slower: nothing of that is to be seen."""
    by_source = {}
    for line in lines(site):
        by_source.setdefault(line["source"], []).append(line)
    a, b = by_source["A, Town"], by_source["B & B, City"]
    assert [line["strategy"] for line in a] == [line["strategy"] for line in b] == ["baseline", "upper"]
    for one, other in zip(a, b, strict=True):
        assert one["step time ratio"] == other["step time ratio"]
        assert not {*one["rows"].split()} & {*other["rows"].split()}
    assert float(a[0]["step time ratio"]) == 1
    assert float(a[1]["step time ratio"]) < 0.8
    assert not {"ms", "(ms)", "(s)", "(h)"} & {*shown.text.split()}


def test_groups_that_cannot_be_compared_are_tables_of_their_own(shown):
    titles = ["cifar100, CUDA GPU, paper protocol, 300 epochs", "cifar100, CPU, custom protocol, 4 epochs"]
    assert [shown.text.count(title) for title in titles] == [2, 2]  # once in the navigation
    assert len(shown.all("table")) == 2


def test_every_row_has_its_origin_and_its_files(site, machines):
    listed = manifest(site)
    assert len(listed) == 4 + 4 + len(OWN)
    for entry in listed:
        folder = (site / entry["path"]).parent
        assert {path.name for path in folder.iterdir()} == {*entry["sha256"], "origin.json"}
        row = read_row(site / entry["path"])
        assert entry["environment"]["git_commit"] == row.environment.git_commit
        assert entry["data"]["test_digest"] == row.data.test_digest
        assert entry["method"] == {
            "name": "famba_v",
            "settings": {},
            "placement": None,
            "order": "sequence",
            "code": None,
        }
        (origin,) = entry["origins"]
        original = machines[origin["source"]]
        assert origin["within"] == original.name
        if original.is_dir():
            assert read_row(original / origin["path"]) == row
    real = [entry for entry in listed if entry["origins"][0]["source"] == "famba's own"]
    assert all("predictions.npz" in entry["sha256"] and not entry["labels"] for entry in real)
    made_up = [entry for entry in listed if entry not in real]
    assert all(entry["labels"] == ["no predictions"] for entry in made_up)


def test_any_order_gives_the_same_bytes_and_twice_is_once(site, machines, tmp_path, capsys):
    for source, place in reversed(machines.items()):
        assert publish(tmp_path / "site", place, source=source) == 0
    assert contents(tmp_path / "site") == contents(site)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "site").rglob("*")}
    assert publish(tmp_path / "site", machines["A, Town"]) == 0
    assert f"{8 + len(OWN)} rows in 13 lines; 0 of them new" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "site").rglob("*")}


def test_two_sets_are_merged_with_their_origins(site, machines, tmp_path):
    a, b, _ = machines
    assert publish(tmp_path / "other", machines[b], source=b) == 0
    assert publish(tmp_path / "both", machines[a], source=a) == 0
    assert publish(tmp_path / "both", tmp_path / "other", source=None) == 0
    assert {o["source"] for e in manifest(tmp_path / "both") for o in e["origins"]} == {a, b}


def test_the_same_rows_from_two_sources_are_one_line_of_both(machines, tmp_path):
    a = machines["A, Town"]
    assert publish(tmp_path / "site", a, source="Second") == 0
    assert publish(tmp_path / "site", a, source="First") == 0
    assert {line["source"] for line in lines(tmp_path / "site")} == {"First; Second"}
    assert [[o["source"] for o in e["origins"]] for e in manifest(tmp_path / "site")] == [["First", "Second"]] * 4


def test_a_row_is_withdrawn_by_deleting_its_folder(machines, tmp_path):
    site = tmp_path / "site"
    assert publish(site, machines["A, Town"]) == 0
    baselines = [e for e in manifest(site) if e["cell"]["strategy"] == "baseline" and e["cell"]["seed"] == 1]
    shutil.rmtree((site / baselines[0]["path"]).parent)
    assert publish(site, source=None) == 0
    assert {line["strategy"]: line["n"] for line in lines(site)} == {"baseline": "1", "upper": "2"}
    (upper,) = [line for line in lines(site) if line["strategy"] == "upper"]
    assert upper["step time ratio"] == "–"  # one of its seeds has no baseline


def test_of_several_trainings_of_a_seed_the_first_counts(tmp_path):
    """And not the best: the later one is listed beside it."""
    paths = formal(tmp_path / "a", GRID)
    again = formal(tmp_path / "b", GRID)
    for path in again:
        changed(path, metrics={name: {"top1": 80.0, "top5": 99.9} for name in ("last", "best", "ema_last", "ema_best")})
        path.with_name("epochs.csv").write_text(
            re.sub(r"(?m)^(299,.*?,.*?,)[\d.]+", r"\g<1>80", path.with_name("epochs.csv").read_text())
        )
    later(paths)
    for order in (("a", "b"), ("b", "a")):
        site = tmp_path / "".join(order)
        assert publish(site, *(tmp_path / name for name in order)) == 0
        assert {line["n"] for line in lines(site)} == {"2"}
        assert all(float(line["top-1 (%)"]) < 80 for line in lines(site))
        assert (site / "index.html").read_text().count("s0 again") == 2


def dirty(path: Path) -> None:
    changed(path, environment={"git_dirty": True})


def smoke(path: Path) -> None:
    path.write_text(make_row(experiment().cells()[0]).model_dump_json())


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:-200])


def of_another_format(path: Path) -> None:
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))


def without_epochs(path: Path) -> None:
    path.with_name("epochs.csv").unlink()


def another_recipe(path: Path) -> None:
    changed(path, cell={"recipe": {"lr": 0.1}})


def other_images(path: Path) -> None:
    changed(path, data={"official": False})


def spoilt_predictions(path: Path) -> None:
    path.with_name("predictions.npz").write_bytes(b"PK")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (smoke, "a smoke row shows that the pipeline works and is no result"),
        (cut, "not a valid row: Invalid JSON"),
        (of_another_format, "format version 1, but this famba reads version 2"),
        (without_epochs, "breaks the rule curve of famba check --rules: "),
        (another_recipe, "breaks the rule protocol of famba check --rules: recipe.lr is 0.1, the protocol's 0.0005"),
        (other_images, "breaks the rule data of famba check --rules: made up is not the official cifar100"),
        (spoilt_predictions, "cannot read the predictions (no checksum at its end)"),
    ],
)
def test_a_row_that_cannot_be_trusted_is_left_out_and_the_others_are_not(spoil, says, tmp_path, capsys):
    paths = formal(tmp_path / "a", LINE)
    spoil(paths[1])
    assert publish(tmp_path / "site", tmp_path / "a") == 1
    (line, last) = capsys.readouterr().err.splitlines()
    assert line.startswith("left out: ")
    assert f"{paths[1].parent}/" in line
    assert says in line
    assert last == "famba: error: 1 row left out, for the reasons above"
    assert len(manifest(tmp_path / "site")) == 1
    assert publish(tmp_path / "none", paths[1].parent) == 1
    assert not (tmp_path / "none").exists()


def test_real_predictions_must_give_the_rows_accuracy(tmp_path, capsys):
    cells = [EVIDENCE / "cells" / f"vim_mini-{name}-s0" for name in ("upper", "lower")]
    for cell in cells:
        shutil.copytree(cell, tmp_path / "a" / cell.name)
    shutil.copy(cells[0] / "predictions.npz", tmp_path / "a" / cells[1].name)
    assert publish(tmp_path / "site", tmp_path / "a") == 1
    assert "% of the last epoch of row vim_mini-lower-s0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "label"),
    [
        ({"git_dirty": True}, "uncommitted changes"),
        ({"git_commit": None}, "commit not recorded"),
        ({"container_sha256": None}, "no container"),
        ({"other_processes": 1}, "GPU perhaps shared"),
    ],
)
def test_a_row_that_cannot_be_repeated_exactly_says_so(environment, label, tmp_path):
    """It makes a line of its own beside those of the same cells with their code."""
    formal(tmp_path / "a", paper_experiment(seeds=[0], strategies=["upper"], models=["vim_tiny"]), **environment)
    assert publish(tmp_path / "site", tmp_path / "a") == 0
    (line,) = lines(tmp_path / "site")
    assert line["notes"] == f"{label}, no predictions"


def test_dirty_seeds_are_no_seeds_of_a_clean_line(tmp_path):
    paths = formal(tmp_path / "a", GRID)
    dirty(paths[3])
    assert publish(tmp_path / "site", tmp_path / "a") == 0
    found = [(line["strategy"], line["n"], "uncommitted" in line["notes"]) for line in lines(tmp_path / "site")]
    assert sorted(found) == [("baseline", "2", False), ("upper", "1", False), ("upper", "1", True)]


def test_a_crates_hashes_are_compared(tmp_path, capsys):
    grid = experiment(strategies=["baseline", "upper"], seeds=[0], models={"vim_a": {"embed_dim": 192}})
    grid = grid.model_copy(update={"protocol": "custom"})
    folder = tmp_path / "mine"
    rows = formal(folder, grid)
    given = [*map(str, rows)]
    assert main(["judge", "--out", str(folder), "--claims", str(ROOT / "config" / "claims.yaml"), *given]) == 0
    assert main(["crate", str(folder), "--config", grid.model_dump_json()]) == 0
    with zipfile.ZipFile(tmp_path / "crate.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, Path("mine") / path.relative_to(folder))
    assert publish(tmp_path / "site", tmp_path / "crate.zip") == 0
    (crates,) = {entry["origins"][0]["crate"] for entry in manifest(tmp_path / "site")}
    assert crates is not None
    changed(rows[0], environment={"python": "3.12.0"})
    shutil.copytree(rows[1].parent, folder / "cells" / "vim_a-lower-s0")
    assert publish(tmp_path / "other", folder) == 1
    first, second, _ = capsys.readouterr().err.splitlines()
    assert f"{rows[0]}: not the file that ro-crate-metadata.json lists" in first
    assert "vim_a-lower-s0/epochs.csv: not listed in ro-crate-metadata.json" in second


def test_a_damaged_set_is_not_built_upon(machines, tmp_path, capsys):
    site = tmp_path / "site"
    assert publish(site, machines["A, Town"]) == 0
    path = site / manifest(site)[0]["path"]
    changed(path, environment={"python": "3.12.0"})
    before = contents(site)
    assert publish(site, machines["B & B, City"], source="B") == 2
    said = capsys.readouterr().err
    assert f"{path}: not the file that origin.json lists" in said
    assert "restore the published file, or delete its folder to withdraw the row" in said
    assert contents(site) == before


@pytest.mark.parametrize(
    ("make", "source", "says"),
    [
        (lambda path: None, "A", "neither a folder nor a zip archive that can be read (No such file or directory)"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "A", "neither a folder nor a zip archive that can be read"),
        (os.mkfifo, "A", "neither a folder nor a zip archive that can be read (a device or pipe, not a regular file)"),
        (lambda path: path.mkdir(), "A", "no row.json in it; name the folder of an experiment that has been run"),
        (lambda path: formal(path, LINE), None, "whose rows are these? Say who and where: --source 'NAME, PLACE'"),
    ],
    ids=["nothing", "cut archive", "pipe", "empty folder", "nobody's"],
)
def test_what_is_no_contribution(make, source, says, tmp_path, capsys):
    make(tmp_path / "given")
    assert publish(tmp_path / "site", tmp_path / "given", source=source) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'given'}: {says}" in line
    assert not (tmp_path / "site").exists()


def test_a_folder_with_another_page_is_left_alone(machines, tmp_path, capsys):
    (tmp_path / "index.html").write_text("mine")
    assert publish(tmp_path, machines["A, Town"]) == 2
    assert "so it is no published set; name another folder" in capsys.readouterr().err
    assert contents(tmp_path) == {"index.html": b"mine"}
    assert publish(tmp_path / "new", source=None) == 2
    assert "no rows there and none given" in capsys.readouterr().err


def test_the_page_loads_nothing_and_every_link_leads_somewhere(site, shown):
    text = (site / "index.html").read_text()
    (policy,) = [a["content"] for a in shown.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    for tag, attributes in shown.elements:
        assert "style" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes), tag
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp|import\(|https?://(?!www\.w3\.org/)", text)
    ids = [a["id"] for _, a in shown.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in shown.all("a")]
    assert all(href[1:] in ids if href.startswith("#") else (site / href).is_file() for href in links)
    assert {entry["path"] for entry in manifest(site)} <= {*links}
    assert "B & B, City" in shown.text


def test_methods_have_colours_and_schedules_have_markers(tmp_path):
    """Of strategies that differ in the method alone, the schedule is named once; no hue is left without a dark one."""
    schedules = {f"upper_{method}": {"like": "upper", "method": method} for method in ("rmeeto", "utr")}
    grid = paper_experiment(
        "custom", seeds=[0], strategies=["baseline", "upper", *schedules], schedules=schedules, models=["vim_tiny"]
    )
    formal(tmp_path / "a", grid)
    assert publish(tmp_path / "site", tmp_path / "a") == 0
    assert {(line["strategy"], line["method"], line["placement"]) for line in lines(tmp_path / "site")} == {
        ("baseline", "none", "none"),
        ("upper", "famba_v", "before"),
        ("upper_rmeeto", "rmeeto", "input"),
        ("upper_utr", "utr", "after"),
    }
    text = (tmp_path / "site" / "index.html").read_text()
    found = Page(text)
    for legend in re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL):
        words = re.findall(r"<text[^>]*>([^<]*)</text>", legend)
        assert [words.count(word) for word in ("famba_v", "rmeeto", "utr", "upper", "upper_utr")] == [1, 1, 1, 1, 0]
    drawn = {a[paint] for _, a in found.elements for paint in ("fill", "stroke") if paint in a}
    hues = {colour for colour in drawn if re.fullmatch("#[0-9a-f]{6}", colour)} - {"#ffffff", "#000000"}
    assert len(hues) >= 4
    assert all(f'[fill="{hue}"] {{ fill: #' in text for hue in hues)


def test_what_fuses_nothing_is_drawn_like_the_baseline_by_any_name(tmp_path):
    """Of several methods, which have the colours, and without any row of `baseline`."""
    schedules = {"start_99": [0] * 24, "upper_utr": {"like": "upper", "method": "utr"}}
    names = ["start_99", "upper", "upper_utr"]
    formal(
        tmp_path / "a",
        paper_experiment("custom", seeds=[0], models=["vim_tiny"], strategies=names, schedules=schedules),
    )
    assert publish(tmp_path / "site", tmp_path / "a") == 0
    assert {line["method"] for line in lines(tmp_path / "site") if line["strategy"] == "start_99"} == {"none"}
    (legend,) = re.findall(r"<svg .*?</svg>", (tmp_path / "site" / "index.html").read_text(), flags=re.DOTALL)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", legend)
    assert [words.count(word) for word in ("baseline", "none", "start_99")] == [1, 0, 0]
    assert f'fill="{STRATEGY_COLOURS["baseline"]}"' in legend


def test_a_thresholds_tokens_are_means_and_its_schedule_a_bound():
    pruned = {"pruned": {"like": "upper", "settings": {"threshold": 0.9}}}
    grid = paper_experiment(
        "custom", seeds=[0], models=["vim_tiny"], strategies=["baseline", "pruned"], schedules=pruned
    )
    rows = [thresholded(row) if row.cell.fusion.varies else row for row in map(make_row, grid.cells())]
    text = Page(made(rows, "x")).text
    assert "197 → 26.3" in text
    assert "19 layers, 5–23: at most 171 tokens" in text
    assert "26.33" not in text


HOSTILE = (
    '<img src=x onerror=alert(1)> & "q" \'</script><script>alert(1)</script> {{ 7 * 7 }} $\\frac{_ \x00\x1b[31m\u2028'
)


def hostile(row: Row, text: str) -> Row:
    """A row with a text wherever a text of any kind may be."""
    data = row.model_dump(mode="json")
    line = "".join(filter(str.isprintable, text)) or "-"  # settings refuse others
    data["environment"] |= {"device": text, "cpu": text, "git_commit": text, "packages": {text: text}}
    data["cell"]["fusion"] |= {"method": line, "settings": {line: line}, "code": line}
    data["scan"] |= {"backend": text, "reason": text}
    data["data"] |= {"source": text, "decoder": text}
    return Row.model_validate(data)


def made(rows: list[Row], text: str) -> str:
    origin = Origin(source=one_line(text)[:200] or "-", within=text, path=text, crate=None)
    shared = merged(Contributed(row, {}, (origin,)) for row in rows)
    return page.page(shared, page.sections(shared))


def skeleton(text: str) -> list[tuple[str, list[str]]]:
    """The elements of a page with the names of their attributes, without the filters, whose choices differ."""
    kept = re.sub(r'<div class="filters".*?</div>', "", text, flags=re.DOTALL)
    return [(tag, sorted(attributes)) for tag, attributes in Page(kept).elements]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(min_size=1, max_size=60), st.text(alphabet="<>&\"'/{}%$\\_-=! \n", min_size=1)))
def test_no_text_of_a_row_becomes_a_part_of_the_page(text):
    """One line, thus no figure; the next test has those."""
    row = make_row(GRID.cell("vim_tiny", "upper", 0))
    assert skeleton(made([hostile(row, text)], text)) == skeleton(made([hostile(row, "plain")], "plain"))


def test_nor_of_a_figure():
    rows = [make_row(GRID.cell("vim_tiny", name, seed)) for name in ("baseline", "upper") for seed in (0, 1)]
    bad = made([hostile(row, HOSTILE) for row in rows], HOSTILE)
    good = made([hostile(row, "plain") for row in rows], "plain")
    count = [sum(tag in ("script", "img", "svg", "title", "a") for tag, _ in skeleton(text)) for text in (bad, good)]
    assert count[0] == count[1]
    assert bad.count("</script>") == 1
    assert "<img" not in bad
    assert "{{ 7 * 7 }}" in Page(bad).text
    assert not re.search("[\x00-\x08\x0b-\x1f]", bad)
