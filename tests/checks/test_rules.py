"""`famba check --rules`: the written rules, one by one."""

import os
from pathlib import Path

import pytest

from famba.checks import rules
from famba.cli import main
from famba.results.summary import read_rows
from tests.helpers.rows import changed, experiment, formal, make_row, write_grid


def broken(paths: list[Path]) -> set[tuple[str, str]]:
    return {(f.rule, f.row) for f in rules.apply(read_rows(paths)) if f.verdict == "broken"}


def test_rows_that_obey_every_rule(tmp_path, capsys):
    paths = formal(tmp_path)
    assert main(["check", "--rules", *map(str, paths)]) == 0
    assert "all 120 checks hold" in capsys.readouterr().out


def test_the_rules_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    text = capsys.readouterr().out
    for name, rule in rules.RULES.items():
        assert f"  {name} " in text
        assert " ".join(rule.__doc__.split()) in text


@pytest.mark.parametrize(
    ("rule", "part", "change", "detail"),
    [
        ("data", "data", {"official": False}, "is not the official cifar100"),
        ("exclusive", "environment", {"other_processes": 2}, "2 other processes used the GPU"),
        ("exclusive", "environment", {"other_processes": None}, "the driver did not report"),
        ("finite", "metrics", {"largest_weight": 1e300}, "beyond float32"),
        ("warm_up", "time", {"warmup": 0.0}, "warm-up 0 s"),
        ("warm_up", "time", {"images_per_s": 1.0}, "1 images/s, but"),
        ("clean_tree", "environment", {"git_dirty": True}, "made with changes on top of cccccccccccc"),
        ("clean_tree", "environment", {"git_commit": None}, "no commit is recorded"),
        ("container", "environment", {"container_sha256": None}, "no container_sha256"),
    ],
)
def test_a_broken_rule_names_rule_row_and_reason(tmp_path, capsys, rule, part, change, detail):
    paths = formal(tmp_path)
    changed(paths[4], **{part: change})
    assert broken(paths) == {(rule, "vim_tiny-upper-s0")}
    assert main(["check", "--rules", *map(str, paths)]) == 1
    said = capsys.readouterr()
    assert detail in said.out.splitlines()[2]
    assert f"1 of 120 checks failed: {rule} of vim_tiny-upper-s0" in said.err


@pytest.mark.parametrize(
    ("rule", "part", "change", "detail"),
    [
        ("scratch", "init", {"weights": "x.pt", "sha256": "f" * 64}, "started from x.pt"),
        ("float32", "arithmetic", {"tf32": True}, "TF32 was allowed"),
        ("float32", "arithmetic", {"float32_matmul": "high"}, "matmul precision high"),
    ],
)
def test_what_all_rows_share_can_break_a_rule(tmp_path, rule, part, change, detail):
    paths = formal(tmp_path)
    for path in paths:
        changed(path, **{part: change})
    findings = [f for f in rules.apply(read_rows(paths)) if f.verdict == "broken"]
    assert [(f.rule, f.row) for f in findings] == [(rule, path.parent.name) for path in paths]
    assert detail in findings[0].detail


def test_every_seed_has_its_baseline_and_every_strategy_its_seed(tmp_path):
    paths = write_grid(tmp_path, experiment(models={"vim_a": {"embed_dim": 8}}))
    without = [path for path in paths if path.parent.name != "vim_a-baseline-s1"]
    assert broken(without) == {("seed", f"vim_a-{s}-s1") for s in ("all", "interleaved", "lower", "upper")} | {
        found for found in broken(without) if found[0] == "warm_up"
    }
    without = [path for path in paths if path.parent.name != "vim_a-upper-s2"]
    assert ("seed", "vim_a-baseline-s2") in broken(without)


def test_a_trace_is_worked_out_anew(tmp_path):
    row = make_row(experiment().cells()[4])
    wrong = row.tokens.model_copy(update={"scheduled": (9, 9), "measured": (9, 9)})
    at = rules.Beside(tmp_path / "row.json", row.model_copy(update={"tokens": wrong}), {})
    assert "the schedule gives" in rules.trace(at)
    assert rules.trace(rules.Beside(tmp_path / "row.json", row, {})) is None


@pytest.mark.parametrize("text", [None, "epoch\n0\n", "cut"])
def test_a_curve_that_is_not_whole(tmp_path, text):
    paths = formal(tmp_path)
    csv = paths[0].with_name("epochs.csv")
    if text is None:
        os.unlink(csv)
    else:
        csv.write_text("\n".join(csv.read_text().splitlines()[:-1]) + "\n" if text == "cut" else text)
    assert broken(paths) == {("curve", "vim_tiny-baseline-s0")}


def test_smoke_rows_are_not_asked_for_what_is_the_papers(tmp_path):
    findings = rules.apply(read_rows(write_grid(tmp_path, experiment(seeds=[0]))))
    idle = {finding.rule for finding in findings if finding.verdict == "not applicable"}
    assert idle == {"data", "protocol", "scratch", "float32", "exclusive", "clean_tree", "container"}
