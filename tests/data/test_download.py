"""Fetching against a real HTTP server that misbehaves, and the same archive through DVC."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import pty
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from famba import data
from famba.data import fashion_mnist
from famba.data.download import Patience, open_part
from famba.errors import InputError
from tests.helpers import ROOT
from tests.helpers import cifar_archive as cifar
from tests.helpers.http_server import Server

ARCHIVE = cifar.FILES["binary"]
IMPATIENT = Patience(attempts=3, timeout=5.0, pause=0.0)


@pytest.fixture
def served(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The bytes of a small archive that `server` has and FAMBA_SOURCES expects."""
    path = cifar.write(server.folder / ARCHIVE, cifar.random_split(20, 1), cifar.random_split(10, 2))
    listed = cifar.write_sources(tmp_path / "sources.yaml", path, 20, 10, server.url)
    monkeypatch.setenv("FAMBA_SOURCES", str(listed))
    return path.read_bytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def fetch(root: Path) -> Path:
    return data.fetch("cifar100", root, patience=IMPATIENT)


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def test_a_download_is_verified_and_named(server: Server, served: bytes, root: Path) -> None:
    path = fetch(root)
    assert path == root / ARCHIVE
    assert path.read_bytes() == served
    assert files(root) == [ARCHIVE]
    assert data.verify("cifar100", root).train == 20
    assert fetch(root) == path  # there and right: nothing is asked for
    assert server.asked == [None]


def test_the_python_archive_can_be_chosen(server: Server, tmp_path: Path, root: Path, monkeypatch) -> None:
    path = cifar.write(server.folder / cifar.FILES["python"], cifar.random_split(3, 1), cifar.random_split(2, 2))
    monkeypatch.setenv("FAMBA_SOURCES", str(cifar.write_sources(tmp_path / "s.yaml", path, 3, 2, server.url)))
    assert data.fetch("cifar100", root, kind="python").read_bytes() == path.read_bytes()
    assert data.load("cifar100", root).test_images.shape == (2, 32, 32, 3)


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, served: bytes, root: Path) -> None:
    server.cut = [1000, 500]
    assert fetch(root).read_bytes() == served
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]


def test_a_server_without_ranges_starts_again(server: Server, served: bytes, root: Path) -> None:
    server.cut, server.ranges = [1000], False
    assert fetch(root).read_bytes() == served
    assert server.asked == [None, "bytes=1000-"]


def test_what_was_received_is_kept_for_the_next_call(server: Server, served: bytes, root: Path) -> None:
    server.cut = [1000, 10, 10]
    with pytest.raises(InputError) as caught:
        fetch(root)
    assert f"the connection closed after 1,020 of {len(served):,} bytes, 3 attempts" in str(caught.value)
    assert f"{root / ARCHIVE}.part keeps 1,020 bytes, run the command again to go on" in str(caught.value)
    assert "FAMBA_SOURCES" in str(caught.value)
    assert files(root) == [f"{ARCHIVE}.part"]
    assert fetch(root).read_bytes() == served
    assert server.asked[-1] == "bytes=1020-"
    assert files(root) == [ARCHIVE]


def test_a_server_that_does_not_tell_the_length(server: Server, served: bytes, root: Path) -> None:
    server.cut, server.length = [1000], False
    assert fetch(root).read_bytes() == served
    assert server.asked == [None, "bytes=1000-"]


def test_a_server_that_sends_too_much_is_cut_off(server: Server, served: bytes, root: Path) -> None:
    server.length = False
    (server.folder / ARCHIVE).write_bytes(served + b"more")
    with pytest.raises(InputError, match=f"sends more than the {len(served):,} bytes expected"):
        fetch(root)
    assert files(root) == []


def test_busy_servers_are_tried_again(server: Server, served: bytes, root: Path) -> None:
    server.statuses = [503, 429]
    assert fetch(root).read_bytes() == served


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, 3)])
def test_refusals_are_one_line(server: Server, served: bytes, root: Path, status: int, requests: int) -> None:
    server.statuses = [status] * requests
    with pytest.raises(InputError, match=rf"{server.url}{ARCHIVE}: HTTP {status} .*place the file at {root / ARCHIVE}"):
        fetch(root)
    assert len(server.asked) == requests
    assert files(root) == []


def test_another_file_of_the_same_size_is_refused_and_deleted(server: Server, served: bytes, root: Path) -> None:
    (server.folder / ARCHIVE).write_bytes(bytes(len(served)))
    with pytest.raises(InputError, match=r"the download is refused and deleted: .*\.part: sha256 .*, expected "):
        fetch(root)
    assert files(root) == []


def test_a_file_of_another_size_is_refused_before_the_transfer(server: Server, served: bytes, root: Path) -> None:
    (server.folder / ARCHIVE).write_bytes(b"<html>please log in</html>")
    with pytest.raises(InputError, match=f"the server offers 26 bytes, expected {len(served):,}"):
        fetch(root)
    assert files(root) == []


@pytest.mark.parametrize("stale", [bytes(1000), bytes(10_000_000)], ids=["short", "long"])
def test_a_stale_part_is_replaced(server: Server, served: bytes, root: Path, stale: bytes) -> None:
    root.mkdir()
    (root / f"{ARCHIVE}.part").write_bytes(stale)
    assert fetch(root).read_bytes() == served
    assert files(root) == [ARCHIVE]


def test_a_wrong_file_stays_until_the_right_one_is_there(
    server: Server, served: bytes, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root.mkdir()
    (root / ARCHIVE).write_bytes(b"wrong")
    server.cut = [10, 10, 10]
    with pytest.raises(InputError, match="connection closed"):
        fetch(root)
    assert (root / ARCHIVE).read_bytes() == b"wrong"
    assert fetch(root).read_bytes() == served
    assert f"{root / ARCHIVE}: 5 bytes, expected {len(served):,}" in capsys.readouterr().err


def test_two_fetches_do_not_mix(served: bytes, root: Path) -> None:
    root.mkdir()
    with open(root / f"{ARCHIVE}.part", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is being written by another fetch"):
            fetch(root)


def test_a_host_that_does_not_answer(served: bytes, root: Path) -> None:
    with socket.socket() as bound:  # a port that is taken and not listening
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/{ARCHIVE}"
        with pytest.raises(InputError, match=rf"{url}: .*refused; place the file at .* yourself, or name a mirror"):
            data.fetch("cifar100", root, url=url)
    assert files(root) == []


def test_a_server_that_falls_silent(served: bytes, root: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/{ARCHIVE}"
        with pytest.raises(InputError, match=r"timed out, 2 attempts"):
            data.fetch("cifar100", root, url=url, patience=Patience(attempts=2, timeout=0.1, pause=0.0))


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may write anywhere; for a moment, be a user who may not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_without_permission(root: Path) -> None:
    root.mkdir()
    root.chmod(0o555)
    message = r"x\.part: cannot be written: Permission denied; choose a writable folder with --root"
    with _as_nobody(), pytest.raises(InputError, match=message), open_part(root / "x.part"):
        pass


def test_a_file_in_the_place_of_the_folder(served: bytes, root: Path) -> None:
    root.write_text("")
    with pytest.raises(InputError, match=rf"{root / ARCHIVE}.part: cannot be written: .*; choose a writable folder"):
        fetch(root)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk(served: bytes, root: Path) -> None:
    root.mkdir()
    (root / f"{ARCHIVE}.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"\.part: cannot be written: No space left on device; free some space"):
        fetch(root)


def test_fashion_mnist_comes_as_four_files(
    server: Server, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.folder.mkdir()
    rows = {}
    for name in fashion_mnist.FILES:
        shape = (4, 28, 28) if "images" in name else (4,)
        content = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + bytes(int(np.prod(shape)))
        (server.folder / name).write_bytes(gzip.compress(content))
        split = "train" if "train" in name else "test"
        digest = hashlib.sha256(content).hexdigest()
        rows[name] = {"sha256": digest, "bytes": len(content), "records": {split: 4}}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(rows))
    monkeypatch.setenv("FAMBA_SOURCES", str(tmp_path / "sources.yaml"))
    server.cut = [30]
    assert data.fetch("fashion-mnist", root, url=server.url, patience=IMPATIENT) == root / "fashion-mnist"
    assert server.asked == [None, "bytes=30-", None, None, None]
    assert data.verify("fashion-mnist", root).train == 4


def test_the_progress_line_is_for_terminals_only(
    server: Server, served: bytes, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(root)
    assert capsys.readouterr().err == ""
    (root / ARCHIVE).unlink()
    leader, follower = pty.openpty()
    with open(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        fetch(root)
        monkeypatch.undo()
    line = os.read(leader, 10_000).decode()
    os.close(leader)
    assert line.startswith(f"\r{ARCHIVE}  0.1 of 0.1 MB")
    assert line.count("\n") == 1


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this repository's data stage and package, in a git repository of its own."""
    copy = tmp_path / "repository"
    shutil.copytree(ROOT / "famba", copy / "famba", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / ".dvc").mkdir()
    for name in ("dvc.yaml", "dvc.lock", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, copy / name)
    stages = yaml.safe_load((copy / "dvc.yaml").read_text())["stages"]
    (copy / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"cifar100": stages["cifar100"]}}))
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    _run("git", "init", "--quiet")
    return copy


def _run(*command: str, fails: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def pinned(repository: Path, served: bytes) -> bytes:
    """The copy's dvc.lock pins the served archive, as ours pins the published one."""
    lock = yaml.safe_load((repository / "dvc.lock").read_text())
    (row,) = yaml.safe_load(Path(os.environ["FAMBA_SOURCES"]).read_text()).values()
    lock["stages"]["cifar100"]["outs"][0].update(md5=row["md5"], size=row["bytes"])
    (repository / "dvc.lock").write_text(yaml.safe_dump(lock))
    return served


CLEAN = "Data and pipelines are up to date."


@pytest.mark.slow
def test_dvc_repro_downloads_and_dvc_pull_restores(repository: Path, pinned: bytes, server: Server) -> None:
    archive, lock = repository / "data" / ARCHIVE, yaml.safe_load((repository / "dvc.lock").read_text())
    _run("dvc", "repro", "cifar100")
    assert archive.read_bytes() == pinned
    assert yaml.safe_load((repository / "dvc.lock").read_text()) == lock
    assert CLEAN in _run("dvc", "status")
    assert server.asked == [None]

    _run("dvc", "remote", "add", "--default", "store", str(repository.parent / "store"))
    _run("dvc", "push")
    for restore in (["dvc", "pull", "cifar100"], [sys.executable, "-m", "famba", "data", "pull", "cifar100"]):
        shutil.rmtree(repository / "data")
        shutil.rmtree(repository / ".dvc/cache")
        _run(*restore)
        assert archive.read_bytes() == pinned
        assert CLEAN in _run("dvc", "status")
    assert server.asked == [None]  # the store had it
    assert "?? data/" not in _run("git", "status", "--short", "--untracked-files=all")  # nor a .gitignore in there


def test_pull_runs_the_stage_where_there_is_no_remote(repository: Path, pinned: bytes, server: Server) -> None:
    archive, pull = repository / "data" / ARCHIVE, (sys.executable, "-m", "famba", "data", "pull", "cifar100")
    assert "is there and verified" in _run(*pull)
    assert archive.read_bytes() == pinned
    assert CLEAN in _run("dvc", "status")
    _run(*pull)
    assert server.asked == [None]  # the second found it

    archive.write_bytes(b"truncated")
    _run(*pull)
    assert archive.read_bytes() == pinned
    assert CLEAN in _run("dvc", "status")


def test_an_archive_placed_by_hand_is_taken_over_by_dvc(repository: Path, pinned: bytes, server: Server) -> None:
    (repository / "data").mkdir()
    (repository / "data" / ARCHIVE).write_bytes(pinned)
    _run("dvc", "repro", "cifar100")
    assert server.asked == []
    assert CLEAN in _run("dvc", "status")


def test_a_failing_stage_leaves_no_archive(repository: Path, pinned: bytes, server: Server) -> None:
    server.statuses = [404]
    said = _run(sys.executable, "-m", "famba", "data", "pull", "cifar100", fails=True)
    assert "HTTP 404" in said
    assert "Traceback" not in said
    assert files(repository / "data") == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://[::1/x", "Invalid IPv6 URL"),
        (f"http://{'a' * 70}.example/x", "label (empty or )?too long"),
        ("http://127.0.0.1:x/x", "it, or the URL that it leads to, is not one"),
        ("http://127.0.0.1:9/a b", "it, or the URL that it leads to, is not one"),
        ("file:///dev/zero", r"cannot be read \(a device or pipe, not a regular file\)"),
        ("http://", "no host given"),
    ],
)
def test_a_url_that_is_none_is_one_line_at_once(url: str, message: str, root: Path, capsys) -> None:
    with pytest.raises(InputError, match=message):
        data.fetch("cifar100", root, url=url)
    assert capsys.readouterr().err == ""  # no second attempt
    assert files(root) == []


def test_a_redirect_to_no_url_is_one_line(server: Server, served: bytes, root: Path) -> None:
    server.location = "http://[bad/x"
    with pytest.raises(InputError, match="it, or the URL that it leads to, is not one"):
        fetch(root)


def test_a_server_that_is_silent_is_named_while_it_is(server: Server, served: bytes, root: Path, monkeypatch, capsys):
    monkeypatch.setattr("famba.data.download.QUIET_S", 0.02)
    server.silent = 0.2
    assert fetch(root).read_bytes() == served
    lines = capsys.readouterr().err.splitlines()
    assert set(lines) == {f"waiting for {server.url}{ARCHIVE}: 0 bytes so far"}


def test_another_attempt_is_announced_with_its_reason(server: Server, served: bytes, root: Path, capsys) -> None:
    server.cut = [1000]
    fetch(root)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"the connection closed after 1,000 of {len(served):,} bytes; attempt 2 of 3")


def test_without_a_size_no_more_is_taken_than_the_images_need(server: Server, tmp_path: Path, root: Path, monkeypatch):
    (server.folder).mkdir(exist_ok=True)
    (server.folder / ARCHIVE).write_bytes(bytes(1 << 25))
    row = {"url": f"{server.url}{ARCHIVE}", "sha256": "a" * 64, "records": {"train": 3, "test": 2}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({ARCHIVE: row}))
    monkeypatch.setenv("FAMBA_SOURCES", str(tmp_path / "s.yaml"))
    with pytest.raises(InputError, match="offers 33,554,432 bytes, and 16,797,696 are taken at most"):
        fetch(root)
