"""The command line's promises: help that is quick, exit codes, one line for bad input."""

import subprocess
import sys
from pathlib import Path

import pytest

from famba import cli
from famba.errors import CheckFailed, InputError

ROOT = Path(__file__).parent.parent


def famba(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "famba", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_names_every_command_and_imports_no_torch():
    code = "import sys; from famba.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    said = " ".join(done.stdout.split())  # argparse breaks long lines
    for name, (_, line) in cli.COMMANDS.items():
        assert f"{name} {line}" in said


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: famba {name}")


def test_an_unknown_command_is_bad_input():
    done = famba("trian")
    assert done.returncode == 2
    assert "invalid choice: 'trian'" in done.stderr


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (CheckFailed, 1), (KeyboardInterrupt, 130)])
def test_errors_become_one_line_and_an_exit_code(error, code, monkeypatch, capsys):
    def fail(_: object) -> int:
        raise error("what, where, what to do")

    def add_parser(commands) -> None:
        commands.add_parser("data").set_defaults(func=fail)

    monkeypatch.setattr("famba.data.add_parser", add_parser)
    assert cli.main(["data"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m famba data --help | true; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
