"""`famba check`: defects planted in real trainings are caught, good runs pass; and the written rules, one by one."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from rows import experiment, make_row, paper_experiment, write_grid
from test_train import MICRO

from famba import fusion, measure, recipe
from famba.cli import main
from famba.config import Experiment
from famba.errors import CheckFailed, InputError
from famba.fusion import Match
from famba.judge import baseline, gate, rules
from famba.judge.summary import read_rows
from famba.record import Row, read_row, write_row
from famba.train import Training

Patch = pytest.MonkeyPatch
REAL = {"match": fusion.match, "merge": Match.merge, "places": Match._places, "lr": recipe.learning_rate}


def train(folder: Path, strategies: list[str], seeds: list[int]) -> list[Path]:
    """Real trainings of seconds: a Vision Mamba of four layers that fuses in each, on digits."""
    grid = Experiment.from_config({**MICRO, "strategies": strategies, "seeds": seeds})
    for cell in grid.cells():
        Training(cell, folder / cell.id, Path("data")).run()
    return [folder / cell.id / "row.json" for cell in grid.cells()]


def check(rows: list[Path], frozen: Path, *options: str) -> int:
    """The command, deaf to times: the machine may be busy."""
    return main(["check", "--against", str(frozen), "--time-margin", "1000", *options, *map(str, rows)])


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> list[Path]:
    return train(tmp_path_factory.mktemp("good"), ["baseline", "all"], [0, 1, 2])


@pytest.fixture(scope="module")
def frozen(good, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("frozen") / "micro.json"
    assert main(["check", "--freeze", str(path), *map(str, good)]) == 0
    return path


class _Unprotected(Match):
    """A match that lost sight of the class token; it goes where its group goes."""

    def protected_in(self, order: str) -> torch.Tensor:
        group = self._rows(order)[0].view(len(self.kept), self.tokens)
        first = torch.arange(len(group)) * self.kept.shape[1]
        return group.gather(1, self.cls[:, None])[:, 0] - first


def class_token_fused(patch: Patch) -> None:
    def match(hidden: torch.Tensor, r: int, protected: int | torch.Tensor) -> Match:
        found = REAL["match"](hidden, r, None)
        cls = torch.as_tensor(protected).expand(len(hidden))
        return _Unprotected(found.source, found.target, found.kept, found.tome, found.tokens, cls)

    patch.setattr("famba.model.match", match)


def residual_merge_dropped(patch: Patch) -> None:
    """The residual stream, which is merged second, is cut to length instead."""
    merged = set()

    def merge(self: Match, x: torch.Tensor, order: str = "sequence") -> torch.Tensor:
        if id(self) in merged:
            merged.remove(id(self))
            return x[:, : self.tokens - self.r]
        merged.add(id(self))
        return REAL["merge"](self, x, order)

    patch.setattr(Match, "merge", merge)


def order_scrambled(patch: Patch) -> None:
    def places(self: Match, order: str) -> torch.Tensor:
        kept = REAL["places"](self, order)
        return kept[:, torch.randperm(kept.shape[1], generator=torch.Generator().manual_seed(kept.shape[1]))]

    patch.setattr(Match, "_places", places)


def nothing_fused(patch: Patch) -> None:
    """As the released code does, and the trace that would tell is taken from the schedule."""
    patch.setattr("famba.model.match", lambda hidden, r, protected: REAL["match"](hidden, 0, protected))
    patch.setattr(measure, "checked_tokens", lambda model, device: model.scheduled_tokens)


def learning_rate_wrong(patch: Patch) -> None:
    patch.setattr(recipe, "learning_rate", lambda settings, epoch: REAL["lr"](settings, epoch) / 10)


@pytest.mark.slow
def test_a_good_run_passes_with_seeds_of_its_own(frozen, tmp_path, capsys):
    rows = train(tmp_path, ["baseline", "all"], [3, 4, 5])
    assert check(rows, frozen) == 0
    assert "checks hold" in capsys.readouterr().out
    assert check([path for path in rows if path.parent.name.endswith("s3")], frozen) == 0  # one seed
    assert main(["check", "--rules", *map(str, rows)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defect", "strategies", "caught_by"),
    [
        (class_token_fused, ["all"], {"top-1 (%)", "top-1 less baseline's (points)"}),
        (residual_merge_dropped, ["all"], {"top-1 (%)", "top-1 less baseline's (points)"}),
        (order_scrambled, ["all"], {"top-1 (%)", "top-1 less baseline's (points)"}),
        (learning_rate_wrong, ["baseline", "all"], {"top-1 (%)", "learning rate"}),
    ],
)
def test_a_planted_defect_is_caught(
    defect: Callable[[Patch], None], strategies, caught_by, good, frozen, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        defect(patch)
        rows = train(tmp_path, strategies, [0, 1, 2])
    # what fusion does leaves the unfused cells as they are, to the last bit
    rows += [path for path in good if "baseline" in path.parent.name and "baseline" not in strategies]
    assert check(rows, frozen) == 1
    assert "| regression |" in capsys.readouterr().out.splitlines()[2]
    lines = gate.compare(read_rows(rows), baseline.read(frozen), time_margin=1000)
    assert caught_by <= {line.check for line in lines if line.verdict == "regression"}
    one = {path: row for path, row in read_rows(rows).items() if row.cell.seed == 0}
    assert any(line.verdict == "regression" for line in gate.compare(one, baseline.read(frozen), time_margin=1000))


@pytest.mark.slow
def test_fusing_nothing_is_caught_three_times(good, frozen, tmp_path, monkeypatch):
    """By the training itself; with its check put out, by the saved activations; in settings, by the schedule."""
    unfused = [path for path in good if "baseline" in path.parent.name]
    with monkeypatch.context() as patch:
        nothing_fused(patch)
        rows = train(tmp_path / "silent", ["all"], [0])
    assert check(rows + unfused, frozen) == 1
    lines = gate.compare(read_rows(rows + unfused), baseline.read(frozen), time_margin=1000)
    assert [line.cell for line in lines if line.check.startswith("saved") and line.verdict == "regression"] == [
        "vim_micro-all"
    ]
    with monkeypatch.context() as patch:
        patch.setattr("famba.model.match", lambda hidden, r, protected: REAL["match"](hidden, 0, protected))
        with pytest.raises(CheckFailed, match="tokens per layer: the schedule says"):
            train(tmp_path / "trace", ["all"], [0])
    with monkeypatch.context() as patch:
        patch.setattr("famba.config.strategy", lambda name, depth, tokens: (0,) * depth)
        rows = train(tmp_path / "schedule", ["all"], [0])
    assert check(rows + unfused, frozen) == 2


@pytest.fixture
def grid(tmp_path) -> tuple[list[Path], Path]:
    """Made-up rows of the smoke grid, and the baseline frozen from them."""
    paths = write_grid(tmp_path, experiment())
    frozen = tmp_path / "baselines" / "smoke.json"
    assert main(["check", "--freeze", str(frozen), *map(str, paths)]) == 0
    return paths, frozen


def changed(path: Path, **of: dict) -> None:
    """Rewrite parts of a row."""
    data = json.loads(path.read_text())
    for part, values in of.items():
        for key, value in values.items():
            data[part][key] = data[part][key] | value if isinstance(value, dict) else value
    write_row(Row.model_validate(data), path)


def slower(path: Path, factor: float) -> None:
    """Rewrite the images per second of all epochs beside a row."""
    csv = path.with_name("epochs.csv")
    head, *lines = csv.read_text().splitlines()
    assert head.endswith("images_per_s")
    parts = [line.rpartition(",") for line in lines]
    csv.write_text("\n".join([head, *(f"{rest},{float(last) / factor}" for rest, _, last in parts)]) + "\n")


def regressions(paths: list[Path], frozen: Path) -> set[tuple[str, str]]:
    lines = gate.compare(read_rows(paths), baseline.read(frozen))
    return {(line.check, line.cell) for line in lines if line.verdict == "regression"}


def test_the_same_rows_pass(grid, capsys):
    paths, frozen = grid
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 0
    out = capsys.readouterr().out
    assert "all 56 checks hold" in out
    assert frozen.stat().st_size < 20_000
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1


def test_less_accuracy_is_a_regression_and_more_is_none(grid):
    paths, frozen = grid
    fused = [path for path in paths if "small_mini-lower" in path.parent.name]
    for path in fused:
        top1 = read_row(path).metrics.last.top1
        changed(path, metrics={"last": {"top1": top1 - 8}})
    expected = {("top-1 (%)", "vim_small_mini-lower"), ("top-1 less baseline's (points)", "vim_small_mini-lower")}
    assert regressions(paths, frozen) == expected
    assert regressions([path for path in paths if path.parent.name.endswith("s1")], frozen) == expected  # one seed
    for path in fused:
        changed(path, metrics={"last": {"top1": 99.0}})
    assert regressions(paths, frozen) == set()


def test_a_drop_within_the_seeds_scatter_is_none(grid):
    """Significant or not: less than one standard deviation of a seed stops nothing."""
    paths, frozen = grid
    for path in paths:
        if "small_mini-lower" in path.parent.name:
            changed(path, metrics={"last": {"top1": read_row(path).metrics.last.top1 - 0.3}})
    assert regressions(paths, frozen) == set()


def test_time_is_a_ratio_to_the_same_runs_baseline(grid):
    paths, frozen = grid
    for path in paths:
        slower(path, 3)  # another machine: everything takes three times as long
    assert regressions(paths, frozen) == set()
    one = [path for path in paths if path.parent.name.endswith("s0")]
    slower(next(path for path in one if "tiny_mini-upper" in path.parent.name), 1.3)
    assert regressions(one, frozen) == {("time ratio", "vim_tiny_mini-upper")}
    assert gate.compare(read_rows(one), baseline.read(frozen), time_margin=0.4)[-1].verdict == "ok"


@pytest.mark.parametrize(("more", "verdict"), [(1, "regression"), (-1, "better")])
def test_memory_is_compared_exactly(grid, more, verdict):
    paths, frozen = grid
    for path in paths[:3]:
        changed(path, memory={"saved_activations": read_row(path).memory.saved_activations + more})
    lines = gate.compare(read_rows(paths), baseline.read(frozen))
    assert next(line.verdict for line in lines if line.check.startswith("saved")) == verdict


def test_a_cell_that_is_gone_is_a_regression(grid):
    paths, frozen = grid
    assert regressions(paths[3:], frozen) == {("present", "vim_tiny_mini-baseline")}


def test_outputs_of_a_failed_gate(grid, tmp_path, capsys, monkeypatch):
    paths, frozen = grid
    changed(paths[0], memory={"saved_activations": 10**9})
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    junit = tmp_path / "gate.xml"
    assert main(["check", "--against", str(frozen), "--junit", str(junit), *map(str, paths)]) == 1
    said = capsys.readouterr()
    assert "1 of 56 checks failed: saved activations (bytes/image) of vim_tiny_mini-baseline" in said.err
    assert said.out.splitlines()[2].endswith("| regression |")  # failures come first
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("56", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "now 1,000,000,000" in failure.get("message", "")
    assert (tmp_path / "summary.md").read_text().startswith("### famba check: gate")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipe": {"lr": 1e-3}},
            f"differ in recipe.lr (0.001 and {experiment().recipe.lr}); if that is meant to be, freeze",
        ),
        ({"fusion": {"order": "tome", "budget": "proportional"}}, "differ in fusion"),
        (
            {"models": {"vim_tiny_mini": {"embed_dim": 16, "depth": 12, "img_size": 32, "patch_size": 4}}},
            "architecture",
        ),
    ],
)
def test_other_settings_are_no_regression_but_bad_input(grid, tmp_path, capsys, change, message):
    _, frozen = grid
    smoke = experiment().model_dump()
    paths = write_grid(tmp_path / "other", experiment(**{k: {**smoke[k], **v} for k, v in change.items()}))
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_baseline_needs_seeds_and_its_reference(grid, tmp_path):
    paths, _ = grid
    with pytest.raises(InputError, match="has 2 seeds; a baseline needs 3 of every cell"):
        baseline.freeze(read_rows(paths[:2]))
    with pytest.raises(InputError, match="seed 0 has no row of the baseline"):
        baseline.freeze(read_rows(paths[3:6]))


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', "[1"])
def test_a_damaged_baseline_is_one_line(grid, tmp_path, capsys, text):
    paths, frozen = grid
    frozen.write_text(text)
    assert main(["check", "--against", str(frozen), *map(str, paths)]) == 2
    error = capsys.readouterr().err
    assert f"{frozen}: not a frozen baseline" in error
    assert error.count("\n") == 1


def formal(tmp_path: Path, **environment: object) -> list[Path]:
    """Rows of the paper's grid that obey every rule."""
    paths = write_grid(tmp_path, paper_experiment(seeds=[0]))
    for path in paths:
        row = read_row(path)
        images = round((row.time.train - row.time.warmup) * row.time.images_per_s) + row.cell.recipe.global_batch
        changed(
            path,
            environment={
                "other_processes": 0, "git_commit": "c" * 40, "git_dirty": False, "container_sha256": "d" * 64,
                "lock_sha256": "e" * 64, **environment,
            },
            metrics={"images_seen": images},
        )  # fmt: skip
    return paths


def broken(paths: list[Path]) -> set[tuple[str, str]]:
    return {(f.rule, f.row) for f in rules.apply(read_rows(paths)) if f.verdict == "broken"}


def test_rows_that_obey_every_rule(tmp_path, capsys):
    paths = formal(tmp_path)
    assert main(["check", "--rules", *map(str, paths)]) == 0
    assert "all 100 checks hold" in capsys.readouterr().out


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
        ("exclusive", "environment", {"other_processes": None}, "the driver did not tell"),
        ("warm_up", "time", {"warmup": 0.0}, "warm-up 0 s"),
        ("warm_up", "time", {"images_per_s": 1.0}, "1 images/s, but"),
        ("evaluation", "metrics", {"last": {"epoch": 7}}, "the last evaluation is of epoch 7 of 300"),
        ("evaluation", "metrics", {"ema_best": {"top1": 1.0}}, "is not the best"),
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
    assert f"1 of 100 checks failed: {rule} of vim_tiny-upper-s0" in said.err


def test_the_recipe_is_the_protocols(tmp_path):
    cell = paper_experiment(recipe={"epochs": 299, "micro_batch": 64}).cells()[0]
    assert rules.recipe_deviation(cell) == "recipe.epochs is 299, the protocol's 300"
    fast = paper_experiment(protocol="fast", recipe={"precision": "bf16", "augmentation": "tensor"}).cells()[0]
    assert rules.recipe_deviation(fast) is None
    assert rules.recipe_deviation(fast.model_copy(update={"protocol": "paper"})) is not None
    own = paper_experiment(schedules={"upper": (1,) * 24}).cell("vim_tiny", "upper", 0)
    assert "not the published upper" in rules.recipe_deviation(own)


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
    assert idle == {"data", "protocol", "exclusive", "clean_tree", "container"}
