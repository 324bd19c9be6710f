"""A method by its name: what there is, files and packages of one's own, and one line for whatever is wrong."""

import importlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from famba.cli import main
from famba.config import methods
from famba.config.methods import PLACEMENTS
from famba.errors import InputError
from famba.methods import Method
from famba.methods.famba_v import FambaV
from famba.methods.names import METHODS, build, method_class
from famba.model import VisionMamba

GOOD = """\
from typing import Annotated, Literal
from pydantic import Field
from famba.methods import Method, drop

class Mine(Method):
    \"\"\"Drops the first patches. And more.\"\"\"
    def __init__(self, share: float = 0.5, best: bool = False, kind: Literal["a", "b"] = "a",
                 shape: tuple[int, int] = (1, 2), most: Annotated[int, Field(ge=1)] = 3, odd: "Unknown" = None):
        super().__init__()
        self.given = (share, best, kind, shape, most)

    def reduce(self, seen):
        return drop(seen, seen.patches[:, :seen.r])

class Other:
    pass
"""


@pytest.fixture
def write(tmp_path: Path):
    def into(text: str, name: str = "mine.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return into


def test_every_name_has_its_class() -> None:
    for name, where in METHODS.items():
        module, _, cls = where.partition(":")
        assert method_class(name) is getattr(importlib.import_module(module), cls)
        made = build(name, {})
        assert isinstance(made, Method)
        assert made.placement == PLACEMENTS[name]  # what an experiment takes it to be, without importing it
    assert list(METHODS) == list(PLACEMENTS)


def test_every_method_is_listed_with_its_settings(capsys) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    told = dict(zip(METHODS, lines, strict=True))
    assert told["utr"].split()[1] == "after"
    assert told["utr"].endswith("most similar one of the other half. [q=0.5]")
    assert told["rmeeto"].endswith("[feature='X', prune=False, threshold=None]")
    assert told["random_prune"].endswith("r random patches are dropped. [no settings]")


def test_a_file_s_method(write) -> None:
    file = write(GOOD.replace('odd: "Unknown" = None', "**rest"))
    method = build(f"{file}:Mine", {"share": 1, "best": True, "kind": "b", "shape": [3, 4]})
    assert method.given == (1.0, True, "b", (3, 4), 3)


def test_a_file_is_run_once_until_it_changes(write) -> None:
    file = write(GOOD)
    first = method_class(f"{file}:Mine")
    assert method_class(f"{file}:Mine") is first
    model = VisionMamba(16, 2, 4, 32, 8, method=f"{file}:Mine", fusion=(1, 1))
    assert {type(block.method) for block in model.blocks} == {first}
    write(GOOD.replace("Drops", "Throws out"))
    assert method_class(f"{file}:Mine").__doc__ == "Throws out the first patches. And more."


def test_files_of_one_name_in_two_folders_are_two(write) -> None:
    a, b = write(GOOD, "a/mine.py"), write(GOOD, "b/mine.py")
    first, second = method_class(f"{a}:Mine"), method_class(f"{b}:Mine")
    assert first.__module__ != second.__module__
    assert sys.modules[first.__module__].Mine is first


WRONG_FILES = {
    "missing": (None, "Mine", "no such file, seen from"),
    "syntax": ("def broken(:\n    pass\n", "Mine", "it cannot be imported (SyntaxError: "),
    "import": ("import no_such_package\n", "Mine", "it cannot be imported (ModuleNotFoundError: No module named"),
    "error": ("raise ValueError('two\\nlines')\n", "Mine", "it cannot be imported (ValueError: two lines)"),
    "exit": ("import sys\nsys.exit(0)\n", "Mine", "it cannot be imported (SystemExit: 0)"),
    "class": (GOOD, "Mien", "has no class 'Mien'; did you mean 'Mine'?"),
    "no class": (GOOD, "", "has no class ''"),
    "not a method": (GOOD, "Other", "is not a class that extends famba.methods.Method"),
    "a function": (GOOD, "drop", "is not a class that extends famba.methods.Method"),
    "no reduce": ("from famba.methods import Method\nclass Mine(Method): pass\n", "Mine", "the class has no `reduce`"),
    "init": (GOOD.replace("super().__init__()", "pass"), "Mine", "its __init__ does not call super().__init__()"),
    "made": (GOOD.replace("super().__init__()", "1 / 0"), "Mine", "cannot be made with {} (ZeroDivisionError: "),
    "required": (GOOD.replace("share: float = 0.5", "share: float"), "Mine", "setting 'share' is missing"),
    "placement": (
        GOOD.replace("self.given", "self.placement = 'befor'; self.given"),
        "Mine",
        "placement 'befor' is none",
    ),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_what_is_wrong_with_a_file_is_one_line(what: str, write, tmp_path: Path, capsys) -> None:
    text, cls, said = WRONG_FILES[what]
    file = str(tmp_path / "mine.py") if text is None else write(text)
    loaded = set(sys.modules)
    assert main(["methods", "test", f"{file}:{cls}"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"famba: error: method {file}")
    assert said in told.err
    assert told.err.count("\n") == 1
    if what in ("syntax", "import", "error", "exit"):
        assert not {name for name in set(sys.modules) - loaded if name.startswith("famba_method_")}


def test_a_file_that_is_no_text(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.py").write_bytes(b"\x00\xff\xfe")
    assert main(["methods", "test", f"{tmp_path}/mine.py:Mine"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["methods", "test", f"{tmp_path}:Mine"]) == 2
    assert "unknown method" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shaer": 1}, "unknown setting 'shaer'; did you mean 'share'?"),
        ({"nothing": 1}, "unknown setting 'nothing'; its settings are share, best, kind"),
        ({"share": "0.5"}, "share: Input should be a valid number, found '0.5'"),
        ({"share": True}, "share: Input should be a valid number, found True"),
        ({"best": 1}, "best: Input should be a valid boolean, found 1"),
        ({"kind": "c"}, "kind: Input should be 'a' or 'b', found 'c'"),
        ({"most": 0}, "most: Input should be greater than or equal to 1, found 0"),
        ({"most": 1.5}, "most: Input should be a valid integer, found 1.5"),
        ({"shape": 3}, "shape: Input should be a valid tuple, found 3"),
    ],
)
def test_a_wrong_setting_is_one_line(settings: dict, said: str, write) -> None:
    with pytest.raises(InputError) as wrong:
        build(f"{write(GOOD.replace('Unknown', 'int'))}:Mine", settings)
    assert said in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("famba-v", {}, "unknown method 'famba-v'; did you mean 'famba_v'?"),
        ("xyz", {}, "unknown method 'xyz'; known: famba_v, random_merge"),
        ("my_method.py", {}, "unknown method 'my_method.py'; name the class, too: FILE.py:CLASS"),
        ("two\nlines", {}, "unknown method"),
        ("random_prune", {"q": 1}, "unknown setting 'q'; it has none"),
        ("utr", {"q": 2}, "method utr: q: Input should be less than or equal to 1, found 2"),
        ("utr", {"q": float("nan")}, "method utr: q: Input should be"),
        ("mtr", {"targets": 0}, "targets: Input should be greater than 0"),
        ("rmeeto", {"feature": "Y"}, "feature: Input should be 'X', 'B', 'C' or 'delta', found 'Y'"),
        ("hsa", {"align": "yes"}, "align: Input should be a valid boolean"),
        ("famba_v", {"order": "sequense"}, "order: Input should be 'sequence' or 'tome', found 'sequense'"),
    ],
)
def test_built_in_methods_take_what_they_say(name: str, settings: dict, said: str) -> None:
    with pytest.raises(InputError) as wrong:
        build(name, settings)
    assert said in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_a_file_without_its_suffix_is_suggested(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"unknown method 'mine:Mine'; did you mean 'mine.py:Mine'\?"):
        build("mine:Mine", {})


def test_an_installed_package_s_method(monkeypatch, capsys) -> None:
    points = [
        EntryPoint("theirs", "famba.methods.random_controls:RandomPrune", methods.GROUP),
        EntryPoint("broken", "no_such_package:Method", methods.GROUP),
        EntryPoint("famba_v", "famba.methods.random_controls:RandomPrune", methods.GROUP),
    ]
    monkeypatch.setattr(methods, "entry_points", lambda group: points if group == methods.GROUP else [])
    assert build("theirs", {}).placement == "before"
    assert method_class("famba_v") is FambaV  # nobody replaces a built-in method unseen
    with pytest.raises(InputError, match=r"method broken: no_such_package:Method cannot be imported \(ModuleNotFound"):
        build("broken", {})
    assert methods.code_of("theirs") == "famba.methods.random_controls:RandomPrune"
    assert [methods.code_of(name) for name in METHODS] == [None] * len(METHODS)
    with pytest.raises(InputError, match="did you mean 'theirs'"):
        build("their", {})
    assert main(["methods"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == [*METHODS, "theirs", "broken"]
    assert "cannot be used: method broken: no_such_package:Method cannot be imported" in told[-1]


def test_settings_of_the_command_line(capsys) -> None:
    assert main(["methods", "test", "rmeeto", "--set", "feature=B", "--set", "prune=true"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "rmeeto: acts on a block's input; feature='B', prune=True"
    assert told[-1].startswith("rmeeto keeps its contract: ")
    assert ("  --  no CUDA device here: not tested on one" in told) != torch.cuda.is_available()
    assert sum(line.startswith("  ok  cpu, float32 ") for line in told) == 10
    assert sum(line.startswith("  ok  cpu, bfloat16 ") for line in told) == 10


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("q", "--set q: write KEY=VALUE"),
        ("=1", "--set =1: write KEY=VALUE"),
        ("q=[1", "--set q=[1: not valid YAML (line 1: while parsing"),
        ("q=half", "method utr: q: Input should be a valid number, found 'half'"),
        ("q=", "method utr: q: Input should be a valid number, found None"),
    ],
)
def test_a_wrong_setting_of_the_command_line(given: str, said: str, capsys) -> None:
    assert main(["methods", "test", "utr", "--set", given]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
