"""A copy of the checkout, and the pipeline run in it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT, warm

MAX_SECONDS = "MAX_SECONDS = 60.0"


def copy_checkout(folder: Path) -> Path:
    """Copy what the pipeline consists of into a new folder; its rows take their step ratio as those of conftest.py."""
    folder.mkdir()
    for name in ("Snakefile", "Makefile", "dvc.yaml", "dvc.lock", ".dvcignore", ".gitignore", "CITATION.cff"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("rules", "config", "profiles", "docs", "envs", "famba", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local", "*.sif")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    paired = folder / "famba" / "training" / "paired.py"
    code = paired.read_text()
    assert MAX_SECONDS in code
    paired.write_text(code.replace(MAX_SECONDS, "MAX_SECONDS = 0.0"))
    return folder


def environment(path: str = "") -> dict[str, str]:
    """For a command in a checkout: this very Python and its tools come first on PATH, after `path`."""
    tools = os.pathsep.join(filter(None, [path, str(Path(sys.executable).parent), os.environ["PATH"]]))
    return os.environ | {"PATH": tools, "DVC_NO_ANALYTICS": "1", "PYTHONWARNINGS": ""}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command in a checkout, its output in `stdout`."""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=folder, env=environment(), text=True, timeout=300, check=False, **output)


def snakemake(folder: Path, *options: str, path: str = "") -> subprocess.CompletedProcess:
    """Run Snakemake in a checkout, its output in `stdout`."""
    return warm.run("snakemake", *options, folder=folder, env=environment(path), together=True)


def planned(folder: Path, *options: str) -> dict[str, int]:
    """Jobs per rule that a dry run announces; empty if there is nothing to do."""
    said = snakemake(folder, "-n", *options)
    assert said.returncode == 0, said.stdout
    return jobs(said.stdout)


def jobs(said: str) -> dict[str, int]:
    """Jobs per rule in what Snakemake said."""
    if "Nothing to be done" in said:
        return {}
    table = said.split("Job stats:", 1)[1].split("total", 1)[0]
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}
