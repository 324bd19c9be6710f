"""Every YAML file that famba reads: a key that stands twice, and whatever else is no settings, is one clear line."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from famba.cli import main
from famba.config import Experiment, yaml_file
from famba.errors import InputError
from famba.judge import ledger

ROOT = Path(__file__).parent.parent
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


def test_a_key_twice_in_a_snakemake_run(tmp_path):
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--configfile"]
    path = written(tmp_path, SMOKE + "seeds: [7]\n")
    done = subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "'seeds' is there twice" in done.stderr


def test_a_key_twice_in_the_sources(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FAMBA_SOURCES", str(written(tmp_path, "a: {url: x}\na: {url: y}\n")))
    assert main(["data", "fetch", "cifar100"]) == 2
    assert "'a' is there twice, in lines 1 and 2" in capsys.readouterr().err


def test_a_merged_key_may_be_overridden(tmp_path):
    path = written(tmp_path, "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, x: 4}\n")
    assert yaml_file.read(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 4, "y": 3}}


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int x", "[" * 3000, "{a: " * 3000, "a: " + "9" * 20_000, "a: !!python/object:os.system {}", "a: [",
        "- " * 60 + "x", "x" * (2**20 + 1), "2026-13-45", "experiment: 2026-13-45", "a: !!binary x", "? [a, b]\n: c",
        "models: [[vim_tiny]]", "[{a: 1}]", "a: !!float x",
    ],
)  # fmt: skip
def test_whatever_it_is_it_is_one_line(text, tmp_path):
    with pytest.raises(InputError) as caught:
        Experiment.load(written(tmp_path, text))
    assert "\n" not in str(caught.value)


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
