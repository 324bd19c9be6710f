"""The command line's promises: help that is quick, exit codes, one line for bad input."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from famba import cli
from famba.errors import CheckFailed, InputError
from tests.helpers import ROOT


def famba(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "famba", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_names_every_command_and_imports_no_torch():
    code = "import sys; from famba.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    said = " ".join(done.stdout.split())  # argparse breaks long lines
    for name, line in cli.COMMANDS.items():
        assert f"{name} {line}" in said


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: famba {name}")


@pytest.mark.parametrize("words", [[], ["data"]])
def test_without_a_command_there_is_help(words, capsys):
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: famba", *words]))


@pytest.mark.parametrize(
    ("words", "prog", "message"),
    [
        (["trian"], "famba", "invalid choice: 'trian'"),
        (["--versoin"], "famba", "--versoin"),
        (["train"], "famba train", "required: --cell"),
        (["train", "--cell", "x", "--agian"], "famba", "unrecognized arguments: --agian"),
        (["data", "fetsh"], "famba data", "invalid choice: 'fetsh'"),
        (["data", "fetch"], "famba data fetch", "required: NAME"),
        (["check", "--rules", "--freeze", "x", "row.json"], "famba check", "not allowed with"),
        (["check", "row.json"], "famba check", "one of the arguments --against"),
        (
            ["check", "--against", "b.json", "--time-margin", "nan", "row.json"],
            "famba check",
            "'nan' is no finite number",
        ),
        (["check", "--against", "b.json", "--time-margin", "inf", "row.json"], "famba check", "is no finite number"),
        (
            ["check", "--against", "b.json", "--time-margin", "-1", "row.json"],
            "famba check",
            "'-1' is no finite number",
        ),
        (["check", "--against", "b.json", "--time-margin", "x", "row.json"], "famba check", "is no finite number"),
        (["bench", "--batch", "0"], "famba bench", "invalid positive integer value: '0'"),
    ],
)
def test_a_wrong_command_line_is_one_line(words, prog, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{prog}: error: ")
    assert message in said.err
    assert said.err.endswith(f"; see {prog} --help\n")
    assert said.err.count("\n") == 1


def test_an_example_in_a_help_can_be_copied(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "--help"])
    assert "results/smoke/cells/vim_tiny_mini-upper-s0/row.json" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (CheckFailed, 1), (KeyboardInterrupt, 130)])
def test_errors_become_one_line_and_an_exit_code(error, code, monkeypatch, capsys):
    def fail(_: object) -> int:
        raise error("what, where, what to do")

    monkeypatch.setattr("famba.commands.data.main", fail)
    assert cli.main(["data"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m famba data --help | true; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_the_package_is_found_from_the_folder_above_the_checkout(tmp_path):
    """There the checkout itself looks like an empty package of this name."""
    checkout, site = tmp_path / "famba", tmp_path / "site"
    (checkout / "famba").mkdir(parents=True)
    (checkout / "famba" / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    site.mkdir()
    build = f"from setuptools import build_meta; print(build_meta.build_editable({str(site)!r}))"
    built = subprocess.run([sys.executable, "-c", build], cwd=checkout, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(site / built.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    look = "import site, sys; site.addsitedir(sys.argv[1]); sys.path.insert(0, ''); import famba; print(famba.__file__)"
    command = [sys.executable, "-I", "-S", "-c", look, str(site)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == checkout / "famba" / "__init__.py"
