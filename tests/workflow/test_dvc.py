"""DVC on results with made-up numbers: what its stages say, and what travels between revisions and machines.

That a stage really trains, and that Snakemake agrees, is tested in test_pipeline.py and at full length in .ci/dvc.sh.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from famba.cli import main
from famba.config import Experiment
from tests.helpers import ROOT
from tests.helpers import cifar_archive as cifar
from tests.helpers.http_server import Server
from tests.helpers.rows import write_grid

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
EXPERIMENTS = [name for name in STAGES if name != "cifar100"]


def run(folder: Path, *command: str) -> str:
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": tools, "DVC_NO_ANALYTICS": "1", "CI": "true"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(folder: Path, *command: str) -> str:
    return run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", *command)


def write_smoke(folder: Path) -> None:
    """The rows of config/smoke.yaml as it is, and their summary."""
    results = folder / "results" / "smoke"
    rows = write_grid(results, Experiment.load(folder / "config" / "smoke.yaml"))
    assert main(["judge", "--out", str(results), *map(str, rows)]) == 0


@pytest.fixture
def recorded(checkout: Path, server: Server) -> Path:
    """A repository in which every stage has been run, with an archive of its own in the place of CIFAR-100."""
    archive = cifar.write(server.folder / cifar.FILES["binary"], cifar.random_split(4, 1), cifar.random_split(2, 2))
    (checkout / "data").mkdir()
    (checkout / "data" / archive.name).write_bytes(archive.read_bytes())
    write_smoke(checkout)
    for name in EXPERIMENTS[1:]:  # of the others DVC needs no more
        (checkout / "results" / name).mkdir()
        (checkout / "results" / name / "summary.json").write_text("{}")
    git(checkout, "init", "--quiet")
    run(checkout, "dvc", "commit", "--force")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "results")
    return checkout


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_stage_is_its_experiments(name: str) -> None:
    stage, config = STAGES[name], f"config/{name}.yaml"
    assert Experiment.load(ROOT / config).experiment == name
    assert stage["params"] == [{config: None}]
    assert stage["outs"] == [{f"results/{name}": {"persist": True}}]
    assert f"results/{name}/summary.json" in yaml.safe_load((ROOT / "dvc.yaml").read_text())["metrics"]
    default = name == "paper"  # the Snakefile's own
    assert re.search(r"--configfile (\S+)", stage["cmd"] + " --configfile default")[1] == (
        "default" if default else config
    )


@pytest.mark.slow  # a dozen DVC commands
def test_another_machine_finds_nothing_to_do_and_revisions_can_be_compared(recorded: Path, tmp_path: Path) -> None:
    run(recorded, "dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    run(recorded, "dvc", "push")
    git(recorded, "commit", "--quiet", "--all", "--message", "a remote")
    clone = tmp_path / "clone"
    git(recorded, "clone", "--quiet", str(recorded), str(clone))
    run(clone, "dvc", "pull")
    assert "up to date" in run(clone, "dvc", "status")  # of all stages, data included

    smoke = clone / "config" / "smoke.yaml"
    smoke.write_text("# a comment changes nothing\n" + smoke.read_text())
    assert run(clone, "dvc", "params", "diff") == ""
    settings = yaml.safe_load(smoke.read_text())
    mine = {"strategies": [*settings["strategies"], "mine"], "schedules": {"mine": [0] * 9 + [3] * 3}}
    smoke.write_text(yaml.safe_dump(settings | mine))
    said = run(clone, "dvc", "params", "diff").splitlines()[1:]
    assert [line.split()[:2] for line in said] == [
        ["config/smoke.yaml", name] for name in ("schedules.mine", "strategies")
    ]
    assert "schedules" in run(clone, "dvc", "status", "smoke")

    write_smoke(clone)
    run(clone, "dvc", "commit", "--force", "smoke")
    git(clone, "commit", "--quiet", "--all", "--message", "a schedule of our own")
    said = run(clone, "dvc", "metrics", "diff", "HEAD~1", "HEAD")
    changed = {line.split()[1] for line in said.splitlines()[1:]}
    metrics = ("top1_last_percent", "train_s", "step_ratio", "saved_activations_ratio")
    assert changed == {f"{name}.vim_{size}_mini.mine" for name in metrics for size in ("tiny", "small")}


@pytest.mark.slow  # a dozen DVC commands
@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_outputs_are_replaced_and_the_cache_is_never_written(recorded: Path, link: str) -> None:
    """Where results are links into DVC's cache, writing in place would change the results of an older revision."""
    run(recorded, "dvc", "config", "cache.type", link)
    run(recorded, "dvc", "checkout", "--relink", "smoke")
    results, cache = recorded / "results" / "smoke", recorded / ".dvc" / "cache" / "files" / "md5"
    row = next(results.glob("cells/*/row.json"))
    assert row.is_symlink() if link == "symlink" else row.stat().st_nlink == 2
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    settings = yaml.safe_load((recorded / "config/smoke.yaml").read_text())
    other = Experiment.from_config(settings | {"recipe": settings["recipe"] | {"weight_decay": 0.2}})
    rows = write_grid(results, other)
    for command in (["judge", "--out", str(results)], ["figures", "--out", str(results / "figures")]):
        assert main([*command, *map(str, rows)]) == 0
    assert not row.is_symlink()
    assert row.stat().st_nlink == 1
    assert {path: path.read_bytes() for path in before} == before
    assert "modified" in run(recorded, "dvc", "status", "smoke")


def test_dvc_sees_no_half_written_file_and_no_lock(checkout: Path) -> None:
    git(checkout, "init", "--quiet")
    cell = "results/smoke/cells/vim-upper-s0"
    unseen = [f"{cell}/.checkpoint.pt.77.part", f"{cell}/.lock", f"{cell}/status.json", f"{cell}/checkpoint.pt",
              "results/smoke/.summary.csv.77.part", f"{cell}/train.log"]  # fmt: skip
    said = subprocess.run(
        [sys.executable, "-m", "dvc", "check-ignore", *unseen, f"{cell}/row.json"],
        cwd=checkout, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert said.stdout.splitlines() == unseen, said.stderr
