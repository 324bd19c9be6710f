"""Fixtures that several test modules share."""

import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: other tests run on the other cores
pytest.register_assert_rewrite("tests.helpers")  # before the first import from there

from tests.helpers import cifar_archive as cifar  # noqa: E402
from tests.helpers.http_server import Server  # noqa: E402
from tests.helpers.pipeline import copy_checkout  # noqa: E402

REAL_DATA = os.environ.pop("FAMBA_DATA", None)  # only the test of the real images uses what the developer has


@pytest.fixture
def real_data() -> Path | None:
    """The developer's own folder of images, if there is one."""
    return Path(REAL_DATA) if REAL_DATA else None


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


@pytest.fixture(scope="session", autouse=True)
def short_step_ratios() -> Iterator[None]:
    """Rows take their step ratio from three pairs of steps, as on a slow machine: the others take longer than an epoch.

    In this process only. What a ratio is, test_paired.py tests on all pairs.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("famba.training.paired.MAX_SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder that takes long to fill and is only read: filled by the first worker of the run that asks for it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # the workers' own are in the run's

    def filled(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = base / name, base / f"{name}.done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def cpp_kernels() -> None:
    """Skips the test where the C++ kernels cannot be built. They are built when the first test asks, not before."""
    import torch  # noqa: PLC0415

    from famba.ops.cpp import backend  # noqa: PLC0415

    if reason := backend.unavailable(torch.device("cpu"), torch.float32):
        pytest.skip(f"the cpu backend {reason}")
