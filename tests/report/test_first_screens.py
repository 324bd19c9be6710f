"""What a reader must know before the numbers: whose files, whose machine, how sure; and how to run it again."""

import re
from pathlib import Path

import pytest

from famba.config import Experiment
from famba.report import provenance
from famba.results.row import read_row
from famba.results.tables import in_images
from tests.helpers import ROOT
from tests.helpers.pages import Page, report
from tests.helpers.rows import changed, make_row, write_grid

GRID = Experiment.load(ROOT / "config" / "cifar100-small.yaml").model_copy(update={"seeds": [0, 1]})
COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two seeds, on a machine that others used in one training."""
    folder = tmp_path_factory.mktemp("small")
    rows = write_grid(folder, GRID)
    for path in rows:
        changed(path, environment={"git_commit": COMMIT})
    slow = next(path for path in rows if path.parent.name == "vim_mini-upper-s1")
    row = read_row(slow)
    changed(slow, time={"train": row.time.warmup + 4 * row.time.thread_cpu, "total": row.time.total * 5})
    assert report(folder, rows, claims=ROOT / GRID.claims) == 0
    return folder


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page((folder / "report.html").read_text())


def line_of(page: Page, start: str) -> str:
    return page.text[page.text.index(start) :]


def test_a_shared_machine_and_the_verdicts_are_named_before_the_results(page):
    top = page.text[: page.text.index("In the layout of Table 1")]
    assert "Not the official files" not in page.text
    assert "The machine was shared: steps took up to 4.00 times their CPU time (vim_mini upper; 1 of" in top
    assert re.search(r"Verdicts \d+ inconclusive Trainings", top)
    assert line_of(page, "In the layout of Table 1").index("Other work ran on the machine") < 1500


def test_files_that_are_not_official_are_named_before_the_results(tmp_path):
    grid = GRID.model_copy(update={"seeds": [0], "strategies": ["baseline", "upper"]})
    rows = write_grid(tmp_path, grid)
    for path in rows:
        changed(path, data={"official": False, "source": "a folder of mine"})
    assert report(tmp_path, rows, claims=ROOT / GRID.claims) == 0
    text = Page((tmp_path / "report.html").read_text()).text
    assert "Not the official files of cifar100 (a folder of mine)" in text[: text.index("In the layout of Table 1")]
    assert "The machine was shared" not in text


def test_claims_with_too_few_seeds_are_one_line(page, folder):
    shared = "n = 2, needs 3: the spread over seeds is not known"
    assert page.text.count(shared) == 1
    assert len(re.findall(r"\d+ claims inconclusive: " + shared, (folder / "report.md").read_text())) == 1


def test_two_seeds_have_no_interval(page, folder):
    summary = (folder / "tables" / "summary.md").read_text()
    assert "±" not in re.sub(r"(?s)\nTop-1:.*", "", summary)
    assert "95 % interval none of n = 2" in page.text


def test_a_difference_of_accuracies_is_told_in_images_and_with_the_test_sets_own_error(page, folder):
    top1 = {path.parent.name: read_row(path).metrics.last.top1 for path in folder.glob("cells/*/row.json")}
    apart = sum(top1[f"vim_mini-upper-s{seed}"] - top1[f"vim_mini-baseline-s{seed}"] for seed in (0, 1)) / 2
    assert f"{'−' if apart < 0 else '+'}{abs(apart):.2f} ({abs(apart) * 3.6:.0f} images)" in page.text
    assert re.search(rf"mean {apart:.2f} points test images {abs(apart) * 3.6:.0f} of 360 images", page.text)
    assert (
        "One of the 360 test images is 0.28 points. The choice of images alone leaves a top-1 uncertain by ±"
        in page.text
    )


def test_a_difference_in_images():
    assert [in_images(points, 360) for points in (1.3889, -0.7407, 10.0)] == ["5 images", "2.7 images", "36 images"]


def test_run_it_again_takes_the_crates_settings_and_the_rows_commit(page, folder):
    copy, again = "cifar100-small-again.yaml", "results/cifar100-small-again/cells/*/row.json"
    commands = [
        f"git checkout {COMMIT}",
        f"cp results/cifar100-small/workflow/experiment.yaml {copy}",
        f"snakemake --cores all --configfile {copy} --config experiment=cifar100-small-again",
        f"famba reproduce results/cifar100-small/cells/*/row.json --with {again}",
    ]
    (button,) = page.all("button", **{"aria-label": "Copy commands: how to run it again"})
    assert button["data-copy"].splitlines() == commands
    assert "\n".join(commands) in (folder / "report.md").read_text()
    assert f"All rows were made at commit {COMMIT}." in page.text


@pytest.mark.parametrize(
    ("commits", "dirty", "says"),
    [
        ((None, None), (None, None), "The rows do not say which commit made them: it was no git checkout."),
        (("a" * 40, "b" * 40), (False, False), "at several commits (aaaaaaaaaa, bbbbbbbbbb); each row has its own."),
        ((COMMIT, COMMIT), (False, True), f"commit {COMMIT}, 1 of them with uncommitted changes"),
        ((COMMIT, None), (False, None), "at several commits (0123456789, unknown)"),
    ],
)
def test_the_code_of_the_rows_is_told_as_far_as_it_is_known(commits, dirty, says):
    rows = [make_row(cell) for cell in GRID.cells()[:2]]
    rows = [
        row.model_copy(update={"environment": row.environment.model_copy(update={"git_commit": c, "git_dirty": d})})
        for row, c, d in zip(rows, commits, dirty, strict=True)
    ]
    assert says in provenance.revision(rows)
    assert any("git checkout" in line for line in provenance.commands(rows)) == (commits == (COMMIT, COMMIT))


def test_what_no_row_has_recorded_is_one_line(page):
    facts = line_of(page, "Environment device")
    assert facts.count("not recorded") == 1
    assert "not recorded device memory, driver, clocks, other processes on the device" in facts
