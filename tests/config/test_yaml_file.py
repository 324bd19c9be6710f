"""Every YAML file that famba reads: a key that stands twice, and whatever else is no settings, is one clear line."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from famba.claims import ledger
from famba.cli import main
from famba.config import Experiment, yaml_file
from famba.errors import InputError
from tests.helpers import ROOT, warm

SMOKE = (ROOT / "config" / "smoke.yaml").read_text()


def written(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("key", "line"),
    [("seeds: [7]", "'seeds' is there twice, in lines 15 and"), ("recipe: {epochs: 1, epochs: 2}", "'epochs'")],
)
def test_a_key_twice_is_an_error_that_names_both_lines(key, line, tmp_path):
    text = SMOKE + key + "\n" if key.startswith("seeds") else SMOKE[: SMOKE.index("recipe:")] + key + "\n"
    if key.startswith("seeds"):
        line = line.replace("15", str(SMOKE[: SMOKE.index("\nseeds:")].count("\n") + 2))
    with pytest.raises(InputError, match=line):
        Experiment.load(written(tmp_path, text))


def test_a_key_twice_in_a_ledger(tmp_path, capsys):
    text = (ROOT / "config" / "claims.yaml").read_text() + "\nclaims: []\n"
    with pytest.raises(InputError, match="'claims' is there twice"):
        ledger.load(written(tmp_path, text))
    assert main(["audit", "--claims", str(tmp_path / "x.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def snakemake(path: Path, *options: str) -> subprocess.CompletedProcess:
    """A dry run of an experiment."""
    return warm.run("snakemake", "-n", "--cores", "1", "--configfile", str(path), *options, folder=ROOT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seeds: [7]", "'seeds' is there twice"),
        ("threads: 1:30", "threads: Input should be a valid integer, found '1:30'"),  # 90 by Snakemake's own reader
        ("threads: !!int 4", "the tag !!int"),
    ],
)
def test_snakemake_refuses_what_famba_refuses(change, message, tmp_path):
    text = re.sub(r"^threads: .*$", "", SMOKE, flags=re.MULTILINE) if change.startswith("threads") else SMOKE
    done = snakemake(written(tmp_path, f"{text}\n{change}\n"))
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_snakemake_trains_what_famba_reads(tmp_path):
    """YAML 1.1 has `010` as 8. What --config gives is read in the same way, and overrides the file."""
    text = re.sub(r"^seeds: .*$", "seeds: [010]", SMOKE, flags=re.MULTILINE)
    path = written(tmp_path, text)
    assert Experiment.load(path).seeds == [10]
    config = ["strategies=[upper]", "recipe={lr: 5e-2, epochs: 3}", "threads=null"]
    done = snakemake(path, "--printshellcmds", "--config", *config)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"train \w+, \w+, seed \d+", done.stdout + done.stderr)) == {
        f"train {model}, upper, seed 10" for model in Experiment.load(path).models
    }
    for setting in ('"lr":0.05', '"epochs":3', '"threads":null'):
        assert setting in done.stdout + done.stderr


def test_a_key_twice_in_the_sources(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FAMBA_SOURCES", str(written(tmp_path, "a: {url: x}\na: {url: y}\n")))
    assert main(["data", "fetch", "cifar100"]) == 2
    assert "'a' is there twice, in lines 1 and 2" in capsys.readouterr().err


def test_a_merged_key_may_be_overridden(tmp_path):
    path = written(tmp_path, "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, x: 4}\n")
    assert yaml_file.read(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 4, "y": 3}}


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    """Each differs in YAML 1.1, which PyYAML reads."""
    written_as = {
        "010": 10, "0o17": 15, "0x1F": 31, "1:30": "1:30", "1_000": "1_000", "0b11": "0b11", "5e-4": 5e-4, "+12": 12,
        "-.5e3": -500.0, "1.": 1.0, ".inf": float("inf"), "yes": "yes", "Off": "Off", "true": True, "FALSE": False,
        "tRUE": "tRUE", "~": None, "Null": None, "": None, "=": "=", "2026-01-02": "2026-01-02",
        "2026-13-45": "2026-13-45", "'1'": "1", str(2**64 - 1): 2**64 - 1,
    }  # fmt: skip
    path = written(tmp_path, "".join(f"- {text}\n" for text in written_as))
    read = yaml_file.read(path)
    assert read == list(written_as.values())
    assert [type(value) for value in read] == [type(value) for value in written_as.values()]
    assert {text: yaml_file.scalar(text) for text in written_as if text != "'1'"} == {
        text: value for text, value in written_as.items() if text != "'1'"
    }


def test_the_files_here_are_the_same_in_yaml_1_1():
    """Editors and other tools may read them by it."""
    for path in (ROOT / "config").glob("*.yaml"):
        assert yaml_file.read(path) == yaml.safe_load(path.read_text())


BOMB = "a0: &a0 x\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: !!int x", "line 2: the tag !!int; leave it out"),
        ("a: !!str 5", "line 1: the tag !!str"),
        ("a: !!float x", "line 1: the tag !!float"),
        ("a: !!binary x", "line 1: the tag !!binary"),
        ("a: !!python/object:os.system {}", "line 1: the tag !!python/object:os.system"),
        ("a: !own x", "line 1: the tag !own"),
        ("[" * 3000, "line 1: nested more than 64 levels deep"),
        ("{a: " * 3000, "line 1: nested more than 64 levels deep"),
        ("- " * 65 + "x", "line 1: nested more than 64 levels deep"),
        (BOMB, "line 7: more than 1,048,576 values"),
        ("a: &a [*a]", "line 1: *a stands inside the value that it names"),
        ("a: " + "9" * 20_000, "line 1: an integer of more than 64 bits"),
        (f"\na: {2**64}", "line 2: an integer of more than 64 bits"),
        ("a: 0x1" + "0" * 16, "line 1: an integer of more than 64 bits"),
        ('a: "\\0"', "line 1: the control character '\\x00' in a text"),
        ('a: "\\ud800"', "line 1: the control character '\\ud800' in a text"),
        ('a: "\\UFFFFFFFF"', "a value that cannot be read"),
        ("? [a, b]\n: c", "line 1: a key that is a list or a mapping"),
        ("1: a\n0x1: b", "the key 1 is there twice, in lines 1 and 2"),
        ("a: [", "line 1: while parsing a flow node, expected the node content"),
        ("a: *b", "line 1: found undefined alias 'b'"),
        ("a: 1\n--- \nb: 2", "expected a single document"),
        ("x" * (2**20 + 1), "larger than 1,048,576 bytes"),
        ("2026-13-45", "expected a mapping of settings, found str"),
        ("experiment: 2026-13-45", "protocol: Field required"),
        ("models: [[vim_tiny]]", "models: unknown model ['vim_tiny']"),
        ("[{a: 1}]", "expected a mapping of settings, found list"),
    ],
)  # fmt: skip
def test_whatever_it_is_it_is_one_line(text, message, tmp_path):
    with pytest.raises(InputError) as caught:
        Experiment.load(written(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_64_levels_and_the_largest_file_are_read(tmp_path):
    assert yaml_file.read(written(tmp_path, "- " * 63 + "x"))
    assert yaml_file.read(written(tmp_path, "x" * 2**20))


def test_a_device_or_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(InputError, match="a device or pipe, not a regular file"):
            Experiment.load(path)


def test_a_shell_s_pipe_is_read_but_not_beyond_the_largest_file():
    """`famba train --config <(sed ...)`"""
    command = [sys.executable, "-c", "from famba.config import yaml_file; print(yaml_file.read('/dev/stdin'))"]
    done = subprocess.run(command, input="a: 0o17", capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "{'a': 15}\n"
    with Path("/dev/zero").open("rb") as endless, pytest.raises(InputError, match="larger than 1,048,576 bytes"):
        yaml_file.read(f"/dev/fd/{endless.fileno()}")


def test_mutated_experiments_are_read_or_refused(tmp_path):
    """Seeded: a few characters of an experiment file changed, removed or doubled."""
    generator = random.Random(0)
    messages: list[str] = []
    for _ in range(300):
        text = list(SMOKE)
        for _ in range(generator.randrange(1, 6)):
            at = generator.randrange(len(text))
            text[at] = generator.choice(["", text[at] * 2, *"[]{}:,-\n'\"&*!|>%@0"])
        try:
            Experiment.load(written(tmp_path, "".join(text)))
        except InputError as error:
            messages.append(str(error))
    assert 100 < len(messages) < 300
    assert not [message for message in messages if "\n" in message]
