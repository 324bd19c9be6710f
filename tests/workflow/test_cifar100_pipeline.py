"""CIFAR-100's way from a server to a result row, with a generated archive in the exact format: nothing else is small.

Vim-Ti at 224 pixels under the paper's recipe, one optimiser step: HTTP -> DVC -> verification -> training -> row.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from famba.results.row import read_row
from tests.helpers import cifar_archive as cifar

TRAIN, TEST = 8, 4
ONE_STEP = {
    "experiment": "one_step",
    "protocol": "custom",
    "dataset": "cifar100",
    "models": ["vim_tiny"],
    "strategies": ["upper"],
    "seeds": [0],
    "device": "cpu",
    "threads": 1,
    "recipe": {
        "epochs": 1, "warmup_epochs": 0, "global_batch": 8, "mixup_batch": 8, "micro_batch": 4, "eval_batch": 4,
        "min_lr": 0, "workers": 1,
    },
}  # fmt: skip
ROW = "results/one_step/cells/vim_tiny-upper-s0/row.json"


def run(folder: Path, sources: Path, *command: str) -> str:
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": tools, "FAMBA_SOURCES": str(sources), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "python"])
def test_from_the_server_to_the_row(kind, server, checkout, tmp_path):
    train, test = cifar.random_split(TRAIN, 1), cifar.random_split(TEST, 2)
    archive = cifar.write(server.folder / cifar.FILES[kind], train, test)
    sources = cifar.write_sources(tmp_path / "sources.yaml", archive, TRAIN, TEST, server.url)
    lock = yaml.safe_load((checkout / "dvc.lock").read_text())
    (pin,) = yaml.safe_load(sources.read_text()).values()
    lock["stages"]["cifar100"]["outs"][0].update(md5=pin["md5"], size=pin["bytes"])  # as ours pins the published one
    (checkout / "dvc.lock").write_text(yaml.safe_dump(lock))
    stages = yaml.safe_load((checkout / "dvc.yaml").read_text())["stages"]
    stage = stages["cifar100"]
    if kind == "python":
        (checkout / "dvc.lock").unlink()
        stage = {"cmd": f"{stage['cmd']} --kind python", "outs": [f"data/{archive.name}"]}
    (checkout / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"cifar100": stage}}))
    (checkout / "config" / "one_step.yaml").write_text(yaml.safe_dump(ONE_STEP))
    run(checkout, sources, "git", "init", "--quiet")

    if kind == "binary":  # the whole pipeline, whose data rule goes through DVC
        run(checkout, sources, "snakemake", ROW, "--cores", "all", "--configfile", "config/one_step.yaml")
    else:
        run(checkout, sources, "dvc", "repro", "cifar100")
        cell = ["--config", "config/one_step.yaml", "--cell", "vim_tiny-upper-s0"]
        run(checkout, sources, sys.executable, "-m", "famba", "train", *cell)

    assert "up to date" in run(checkout, sources, "dvc", "status", "cifar100")
    assert server.asked == [None]  # one download
    row = read_row(checkout / ROW)
    assert row.data.source == archive.name
    assert (row.data.train, row.data.test, row.data.official) == (TRAIN, TEST, False)
    assert row.tokens.measured == (*[197] * 5, *range(188, 25, -9), 26)
    assert row.cost.parameters == 6_974_308
    assert row.metrics.images_seen == TRAIN
    assert row.watermark is None
    assert row.cell.recipe.rand_augment == "rand-m9-mstd0.5-inc1"
