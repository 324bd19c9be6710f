"""How the C++ kernels are built: once, and a reason where they cannot be."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from famba.ops import dispatch
from famba.ops.cpp import build

pytestmark = pytest.mark.usefixtures("cpp_kernels")


@pytest.fixture
def fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that takes its time, keeps a log and delivers the kernels that exist already. Returns the log."""
    built = build.library()._name
    log = tmp_path / "log"
    script = tmp_path / "slow-compiler"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo fake 1.0; exit; fi\n'
        f'echo built >> "{log}"; sleep 0.5\n'
        f'while [ "$1" != -o ]; do shift; done; cp "{built}" "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("FAMBA_CACHE", str(tmp_path / "cache"))
    return log


def test_processes_that_start_together_build_once(fake_compiler: Path) -> None:
    command = [sys.executable, "-c", "from famba.ops.cpp import build; build.library(); build.library()"]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    messages = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], messages
    assert fake_compiler.read_text() == "built\n"
    assert sum("building the C++ scan (once" in message for message in messages) == 1
    left = sorted(path.suffix for path in build.cache_dir().iterdir())
    assert left == [".lock", ".so"]


def test_no_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildError, match=r"needs a C\+\+ compiler .* install g\+\+"):
        build.library.__wrapped__()


@pytest.mark.usefixtures("fake_compiler")
def test_a_failing_compiler_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho 'scan.cpp:1: fatal error: no such header' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(build.BuildError, match=r"broken: .*fatal error: no such header"):
        build.library.__wrapped__()
    assert not list(build.cache_dir().glob("*.so"))


@pytest.mark.usefixtures("fake_compiler")
def test_a_cache_that_cannot_be_written_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FAMBA_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(build.BuildError, match=r"cannot save its kernels in .*set FAMBA_CACHE"):
        build.library.__wrapped__()


def test_without_kernels_auto_is_chunked_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def library() -> ctypes.CDLL:
        raise build.BuildError("needs a C++ compiler")

    monkeypatch.setattr(build, "library", library)
    dispatch._choose.cache_clear()
    try:
        choice = dispatch.choose("cpu")
    finally:
        dispatch._choose.cache_clear()
    assert choice.name == "chunked"
    assert "cpu needs a C++ compiler" in choice.reason
