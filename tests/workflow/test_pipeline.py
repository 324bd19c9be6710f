"""The pipeline as a user runs it: real Snakemake, DVC and make in a copy of the checkout, with a grid of seconds."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from famba.figures.captions import CAPTIONS
from famba.figures.draw import FIGURES, TOKEN_FIGURES
from tests.helpers import warm
from tests.helpers.pipeline import copy_checkout, environment, planned, run, snakemake
from tests.helpers.warm import Warm

SMOKE = "config/smoke.yaml"
MICRO = {  # replaces the copy's smoke grid: two models, an epoch of six steps
    "experiment": "smoke",
    "protocol": "smoke",
    "dataset": "digits",
    "models": {
        "vim_a": {"embed_dim": 8, "depth": 2, "img_size": 16, "patch_size": 8},
        "vim_b": {"embed_dim": 16, "depth": 2, "img_size": 16, "patch_size": 8},
    },
    "strategies": ["upper"],
    "seeds": [0],
    "fusion": {"budget": "proportional"},
    "recipe": {
        "epochs": 1, "warmup_epochs": 0, "global_batch": 256, "mixup_batch": 256, "micro_batch": 256, "repeats": 1,
        "workers": 0, "augmentation": "tensor", "rand_augment": None, "random_erasing": 0, "eval_resize": None,
    },
    "device": "cpu",
    "threads": 1,  # several on cells as small as these only wait for each other, at full load
}  # fmt: skip
KEPT = ("row.json", "tokens.npz", "predictions.npz")  # outputs of a training, for Snakemake
GRID = {"dataset": 1, "train": 2, "judge": 1, "audit": 1, "figures": 1, "report": 1, "crate": 1, "all": 1}
AGAIN = {"judge": 1, "figures": 1, "report": 1, "crate": 1, "all": 1}


def lines(said: subprocess.CompletedProcess) -> list[str]:
    """What was said, less Snakemake's word about its profile."""
    return [line for line in said.stdout.splitlines() if line and not line.startswith("Using workflow specific")]


def change(folder: Path, **settings: object) -> None:
    """Change settings of the copy's experiment."""
    file = folder / SMOKE
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings))


def begun(copy: Path) -> tuple[Warm, Path, list[str]]:
    """Snakemake under way in one cell's training, which has a checkpoint; the cell's folder, the command."""
    change(copy, recipe=MICRO["recipe"] | {"epochs": 20})
    folder = copy / "results/smoke/cells/vim_a-upper-s0"
    command = [str((folder / "row.json").relative_to(copy)), "--cores", "all", "--configfile", SMOKE]
    started = Warm("snakemake", command, copy, environment(), new_session=True)
    wait_for(folder / "checkpoint.pt", started)
    return started, folder, command


def wait_for(path: Path, process: Warm | None = None) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_end(folder: Path) -> None:
    """Until no training holds the folder."""
    deadline = time.monotonic() + 120
    while (folder / ".lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def finished(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A checkout whose grid has run."""

    def finish(where: Path) -> None:
        folder = copy_checkout(where / "checkout")
        (folder / SMOKE).write_text(yaml.safe_dump(MICRO))
        assert planned(folder, "--configfile", SMOKE) == GRID
        said = snakemake(folder, "--cores", "all", "--configfile", SMOKE)
        assert said.returncode == 0, said.stdout

    return once("finished", finish) / "checkout"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished checkout, time stamps included, to spoil."""
    return shutil.copytree(finished, tmp_path / "copy")


@pytest.mark.parametrize("options", [[], ["--configfile", "config/paper.yaml"]])
def test_the_paper_is_the_default_and_has_thirty_cells(checkout: Path, options: list[str]) -> None:
    assert planned(checkout, *options) == GRID | {"train": 2 * 5 * 3}


def test_the_report_needs_what_it_shows(checkout: Path) -> None:
    graph = snakemake(checkout, "--rulegraph", "--configfile", SMOKE).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    edges = {(names[before], names[after]) for before, after in re.findall(r"(\d+) -> (\d+)", graph)}
    assert {before for before, after in edges if after == "report"} == {"train", "judge", "figures", "audit"}


def test_a_named_experiment_is_not_merged_with_the_papers(checkout: Path) -> None:
    models = yaml.safe_load((checkout / SMOKE).read_text())["models"]
    said = snakemake(checkout, "-n", "--configfile", SMOKE)
    assert set(re.findall(r"train (\w+),", said.stdout)) == set(models)


def test_an_unknown_key_is_one_line_with_the_nearest_known_one(checkout: Path) -> None:
    change(checkout, strategy=["upper"])
    said = snakemake(checkout, "-n", "--configfile", SMOKE)
    assert said.returncode == 2
    assert lines(said) == ["famba: error: config/smoke.yaml: strategy: unknown key; did you mean 'strategies'?"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": "config/nope.yaml"}, "smoke: claims: config/nope.yaml is not there; it is looked for from "),
        ({"claims": "config/smoke.yaml"}, "config/smoke.yaml: container: unknown key; known: sources, "),
        (
            {"protocol": "paper"},
            "config/smoke.yaml: dataset is digits, the protocol's cifar100 (paper): set it so, or ",
        ),
        ({"experiment": ".."}, "config/smoke.yaml: experiment: '..' is no such name: it has letters"),
    ],
)
def test_what_would_fail_late_is_refused_at_once(checkout: Path, changes: dict[str, str], message: str) -> None:
    change(checkout, **changes)
    said = snakemake(checkout, "--cores", "all", "--configfile", SMOKE)
    assert said.returncode == 2
    assert len(lines(said)) == 1
    assert lines(said)[0].startswith(f"famba: error: {message}")
    assert not (checkout / "data").exists()


def test_a_plan_is_a_line_per_job(checkout: Path) -> None:
    """No job lists the fifty files that it reads."""
    said = snakemake(checkout, "-n", "--configfile", SMOKE)
    assert "Job 0: complete results/smoke" in said.stdout
    assert max(map(len, lines(said))) < 120


def test_without_a_gpu_the_paper_is_refused_before_anything_is_done(checkout: Path, tmp_path: Path) -> None:
    no_gpu = tmp_path / "bin" / "nvidia-smi"  # what a broken driver's does, and so for machines with a GPU, too
    no_gpu.parent.mkdir()
    no_gpu.write_text("#!/bin/sh\nexit 9\n")
    no_gpu.chmod(0o755)
    # the pipeline puts its own Python first; the tool must stand before the system's
    said = snakemake(checkout, "--cores", "all", path=str(no_gpu.parent))
    assert said.returncode == 2
    assert lines(said)[-1].startswith("famba: error: no NVIDIA GPU here")
    assert "make demo" in lines(said)[-1]
    assert not (checkout / "data").exists()
    assert not (checkout / "results").exists()


@pytest.mark.parametrize(("apptainer", "options"), [(False, ["-n"]), (True, ["-n"]), (True, ["--cores", "all"])])
def test_without_apptainer_or_image_a_container_is_refused_with_what_to_do(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apptainer: bool, options: list[str]
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "which"):  # Snakemake starts with them
        (tools / name).symlink_to(str(shutil.which(name)))
    if apptainer:
        (tools / "apptainer").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tools))  # and, first, this Python's
    said = snakemake(checkout, *options, "--use-singularity", "--configfile", SMOKE)
    assert said.returncode == 2
    assert len(lines(said)) == 1
    what = "the image envs/famba-cpu.sif, and it is not there: envs/build.sh cpu makes it" if apptainer else "Apptainer"
    assert f"--use-singularity needs {what}" in lines(said)[0]
    assert not (checkout / "data").exists()


def test_lint_is_clean(checkout: Path) -> None:
    said = snakemake(checkout, "--lint")
    assert said.returncode == 0, said.stdout
    assert "good condition" in said.stdout


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do(copy: Path) -> None:
    rows = {path: path.stat().st_mtime_ns for path in copy.glob("results/smoke/cells/*/row.json")}
    assert len(rows) == 2
    assert "Nothing to be done" in snakemake(copy, "--cores", "all", "--configfile", SMOKE).stdout
    assert rows == {path: path.stat().st_mtime_ns for path in rows}


@pytest.mark.slow
def test_a_deleted_row_is_made_again_and_no_other(copy: Path) -> None:
    rows = {path: path.stat().st_mtime_ns for path in copy.glob("results/smoke/cells/*/row.json")}
    deleted = copy / "results/smoke/cells/vim_a-upper-s0/row.json"
    deleted.unlink()
    assert planned(copy, "--configfile", SMOKE) == {"train": 1} | AGAIN
    said = snakemake(copy, "--cores", "all", "--configfile", SMOKE, "--until", "train")  # the rest of the plan has run
    assert said.returncode == 0, said.stdout
    assert [path for path in rows if path.stat().st_mtime_ns != rows[path]] == [deleted]


@pytest.mark.slow
def test_a_forced_training_trains(copy: Path) -> None:
    """`famba train` leaves a finished cell alone; Snakemake has taken its outputs away by then."""
    row = copy / "results/smoke/cells/vim_a-upper-s0/row.json"
    before = json.loads(row.read_text())["finished"]
    said = snakemake(copy, "--cores", "all", "--configfile", SMOKE, "--force", str(row.relative_to(copy)))
    assert said.returncode == 0, said.stdout
    assert json.loads(row.read_text())["finished"] > before
    assert "epoch 1/1" in said.stdout


@pytest.mark.slow
def test_a_changed_setting_re_runs_the_cells_that_it_changes(copy: Path) -> None:
    models = MICRO["models"]
    change(copy, models=models | {"vim_b": models["vim_b"] | {"embed_dim": 24}})
    assert planned(copy, "--configfile", SMOKE) == {"train": 1} | AGAIN
    change(copy, models=models, strategies=["upper", "lower"])
    assert planned(copy, "--configfile", SMOKE) == {"train": 2} | AGAIN
    change(copy, strategies=["upper"], recipe=MICRO["recipe"] | {"epochs": 2})
    assert planned(copy, "--configfile", SMOKE) == {"train": 2} | AGAIN


@pytest.mark.slow
def test_what_is_no_setting_re_runs_nothing(copy: Path) -> None:
    config, code = copy / SMOKE, copy / "famba" / "training" / "train.py"
    config.write_text("# a comment\n" + config.read_text())
    code.write_text(code.read_text() + "\n# another\n")
    shutil.rmtree(copy / "data")
    assert planned(copy, "--configfile", SMOKE) == {}


@pytest.mark.slow
def test_an_interrupted_training_resumes(copy: Path) -> None:
    started, folder, command = begun(copy)
    os.killpg(started.pid, signal.SIGINT)  # as Ctrl-C does
    assert started.wait(timeout=60) != 0
    assert (folder / "checkpoint.pt").exists()
    assert not (folder / "row.json").exists()
    said = snakemake(copy, *command)
    assert said.returncode == 0, said.stdout
    assert "resuming after epoch" in said.stdout
    assert json.loads((folder / "row.json").read_text())["time"]["runs"] == 2


@pytest.mark.slow
def test_the_report_holds_figures_and_captions(copy: Path) -> None:
    report = copy / "report.html"
    said = snakemake(copy, "--configfile", SMOKE, "--report", report.name)
    assert said.returncode == 0, said.stdout
    page = report.read_text()
    for name in [*FIGURES, *TOKEN_FIGURES]:
        assert f"{name}.svg" in page
        assert CAPTIONS[name].text.split("'")[0] in " ".join(page.split())
    assert "SMOKE" in page
    assert not re.search(r"<(script|img|link)[^>]+(src|href)=[\"']https?://", page)


@pytest.mark.slow
def test_results_travel_through_dvc_and_nothing_is_run_again(copy: Path, tmp_path: Path) -> None:
    def git(*command: str, folder: Path = copy) -> None:
        said = run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", *command)
        assert said.returncode == 0, said.stdout

    git("init", "--quiet")
    for command in (
        ["dvc", "repro", "smoke"],
        ["dvc", "remote", "add", "--default", "store", str(tmp_path / "store")],
        ["dvc", "push", "smoke"],
    ):
        said = run(copy, *command)
        assert said.returncode == 0, said.stdout
    assert "didn't change" in run(copy, "dvc", "repro", "smoke").stdout
    git("add", "--all")
    git("commit", "--quiet", "--message", "results")
    clone = tmp_path / "clone"
    git("clone", "--quiet", str(copy), str(clone))
    assert not (clone / "results").exists()

    said = run(clone, "make", "--old-file", ".venv/installed", "pull")
    assert said.returncode == 0, said.stdout
    assert "results/smoke: up to date" in said.stdout
    assert "results/paper: not pulled" in said.stdout
    assert planned(clone, "--configfile", SMOKE) == {}
    assert run(clone, "dvc", "status", "--quiet", "smoke").returncode == 0
    kept = {p.name for p in (clone / "results/smoke").rglob("*.json")}
    judged = {"summary.json", "claims.json", "paired.json", "targets.json"}
    assert kept == judged | {"row.json", "audit.json", "ro-crate-metadata.json"}
    change(clone, recipe=MICRO["recipe"] | {"lr": 1.0e-3})
    assert planned(clone, "--configfile", SMOKE)["train"] == 2


@pytest.mark.slow
def test_after_a_kill_of_snakemake_itself_a_training_that_ran_on_is_kept(copy: Path) -> None:
    """As docs/cluster.md says: --unlock, --cleanup-metadata, and the same command."""
    started, folder, command = begun(copy)
    started.kill()
    started.wait()
    refused = snakemake(copy, *command).stdout  # by the lock, unless the training has ended by now
    assert "LockException" in refused or "IncompleteFilesException" in refused
    wait_for(folder / "row.json")  # by the training, which nobody has told
    wait_for_end(folder)
    before = (folder / "row.json").read_bytes()
    assert snakemake(copy, "--unlock", "--configfile", SMOKE).returncode == 0
    assert "IncompleteFilesException" in snakemake(copy, *command).stdout
    files = [str(folder.relative_to(copy) / name) for name in KEPT]
    assert snakemake(copy, "--cleanup-metadata", *files, "--configfile", SMOKE).returncode == 0
    assert "Nothing to be done" in snakemake(copy, *command).stdout
    assert (folder / "row.json").read_bytes() == before


@pytest.mark.slow
def test_a_cell_that_fails_beside_others_is_named_at_the_end_and_on_the_page(copy: Path) -> None:
    """Two cells diverge; the rows that are there can be judged and reported."""
    wrong = MICRO["models"]["vim_b"] | {"recipe": MICRO["recipe"] | {"lr": 1e4}}
    change(copy, models=MICRO["models"] | {"vim_b": wrong}, seeds=[0, 1])
    said = snakemake(copy, "--cores", "all", "--keep-going", "--configfile", SMOKE)
    assert said.returncode == 1
    end = said.stdout[said.stdout.index("famba: 2 cells of 4 without a row:") :]
    for seed in (0, 1):
        assert re.search(rf"^  vim_b-upper-s{seed}: failed, .* not finite", end, flags=re.MULTILINE)
    assert "vim_a" not in end.split("Exiting")[0]
    results = copy / "results/smoke"
    rows = [str(path.relative_to(copy)) for path in results.glob("cells/*/row.json")]
    assert len(rows) == 2
    for command in (
        ["judge", "--out", "results/smoke"],
        ["figures", "--out", "results/smoke/figures"],
        ["report", "--out", "results/smoke/report.html"],
    ):
        assert warm.run("famba", *command, *rows, folder=copy).returncode == 0
    for page in ("report.html", "report.md"):
        assert len(re.findall(r"vim_b-upper-s\d: failed, ", (results / page).read_text())) == 2
