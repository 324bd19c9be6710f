"""`famba data`: what is loaded is what was published, and anything else is refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from famba import data
from famba.cli import main
from tests.helpers import ROOT


def _famba(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "famba", "data", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_verifies_and_writes_an_identity(tmp_path: Path) -> None:
    done = _famba("pull", "digits", "--identity", "made/digits.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    identity = json.loads((tmp_path / "made/digits.json").read_text())
    assert identity == data.verify("digits").written()
    done = _famba("verify", "digits", cwd=tmp_path)
    assert done.returncode == 0
    assert "1,437 train and 360 test images" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "cifar100"), "cifar-100-binary.tar.gz is missing: run `famba data fetch cifar100`"),
        (("verify", "cifar10"), "unknown data set 'cifar10'; did you mean 'cifar100'?"),
        (("fetch", "cifar100", "--url", "cs.toronto.edu"), "expected a URL that starts with http://"),
        (("fetch", "digits", "--url", "https://example.org"), "--url: digits come with scikit-learn"),
        (("fetch", "digits", "--kind", "python"), "--kind: digits has no archives to choose from"),
        (("fetch", "fashion-mnist", "--kind", "binary"), "--kind: fashion-mnist has no archives"),
        (("show", "digits", "--out", "/proc/x.png"), "/proc/x.png: cannot be written ("),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = _famba(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_altered_archive_is_a_failed_check_to_verify_and_bad_input_to_all_else(
    place: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place("binary")
    whole = path.read_bytes()
    for altered in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1]):
        path.write_bytes(altered)
        assert main(["data", "verify", "cifar100", "--root", str(path.parent)]) == 1
        error = capsys.readouterr().err
        assert "altered" in error
        assert "`famba data fetch cifar100` replaces it" in error
        assert error.count("\n") == 1
        assert main(["data", "show", "cifar100", "--root", str(path.parent), "--out", str(tmp_path / "x.png")]) == 2
        assert "altered" in capsys.readouterr().err
