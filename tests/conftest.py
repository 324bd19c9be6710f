"""Fixtures that several test modules share."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Server

ROOT = Path(__file__).parent.parent


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "served") as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the pipeline consists of."""
    return copy_checkout(tmp_path / "checkout")


def copy_checkout(folder: Path) -> Path:
    """Copy what the pipeline consists of into a new folder."""
    folder.mkdir()
    for name in ("Snakefile", "Makefile", "dvc.yaml", "dvc.lock", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("rules", "config", "profiles", "famba", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder
