"""Fixtures that several test modules share."""

import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cifar_archive as cifar
import pytest
from http_server import Server

ROOT = Path(__file__).parent.parent
REAL_DATA = os.environ.pop("FAMBA_DATA", None)  # only the test of the real images uses what the developer has


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "served") as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put an archive of the given members (or the regular one) where `load` looks and declare it; returns its path."""

    def put(kind: str, members: dict[str, bytes | tarfile.TarInfo] | None = None) -> Path:
        path = tmp_path / "data" / cifar.FILES[kind]
        if members is None:
            cifar.write(path, cifar.TRAIN, cifar.TEST)
        else:
            cifar.write_tar(path, {f"cifar-100-{kind}/{name}": item for name, item in members.items()})
        listed = cifar.write_sources(tmp_path / "sources.yaml", path, len(cifar.TRAIN.fine), len(cifar.TEST.fine))
        monkeypatch.setenv("FAMBA_SOURCES", str(listed))
        return path

    return put


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the pipeline consists of."""
    return copy_checkout(tmp_path / "checkout")


def copy_checkout(folder: Path) -> Path:
    """Copy what the pipeline consists of into a new folder."""
    folder.mkdir()
    for name in ("Snakefile", "Makefile", "dvc.yaml", "dvc.lock", ".dvcignore", ".gitignore", "CITATION.cff"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("rules", "config", "profiles", "docs", "envs", "famba", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local", "*.sif")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder
