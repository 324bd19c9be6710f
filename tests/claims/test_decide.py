"""Claims on grids whose truth is known: how often a verdict is wrong, how often it is reached at all; and on rows."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from famba.claims.decide import Samples, decide, grid_of
from famba.claims.entries import Claim, Hypothesis, TradeOff
from famba.claims.ledger import load, published_rows
from famba.claims.ledger import of_rows as ledger_of_rows
from famba.claims.noise import noise_floor
from famba.claims.verdicts import Verdict, judge
from famba.cli import main
from famba.config import Experiment
from famba.errors import InputError
from famba.results.row import Row, read_row, write_row
from tests.helpers import ROOT
from tests.helpers.rows import experiment, make_row, paper_experiment, write_grid

LEDGER = load(ROOT / "config" / "claims.yaml")
CLAIMS = {claim.id: claim for claim in LEDGER.judged}
TRADE_OFF = Claim(
    id="trade-off",
    quote="upper is better than each other strategy in top-1, time and memory",
    source="paper",
    trade_off=TradeOff(
        models=["vim_tiny", "vim_small"],
        strategy="upper",
        rivals=["all", "interleaved", "lower"],
        objectives=["top1", "hours", "memory"],
    ),
)
# all that are written out, one of the cells of Table 1 for each quantity, and a trade-off
SIMULATED = {claim.id: claim for claim in (*LEDGER.claims, TRADE_OFF)} | {
    name: CLAIMS[name] for name in (f"table1-vim_tiny-upper-{of}" for of in ("top1", "top5", "time", "memory"))
}
GRIDS = 2000
SHARED_SD = 0.3  # what a seed does to the top-1 of all cells alike, points
MODELS, STRATEGIES = ("vim_tiny", "vim_small"), ("baseline", "all", "interleaved", "lower", "upper")
# spreads that differ between cells: nothing may rest on their being equal
TOP1_SD = dict(zip(STRATEGIES, (0.2, 0.6, 0.35, 0.5, 0.25), strict=True))
LOG_SD = {"hours": 0.02, "memory": 0.001, "memory_mib": 0.001}
NEUTRAL = {"top1": 70.0, "top5": 90.0, "hours": 3.0, "memory": 1e10, "memory_mib": 1e4, "tokens_removed": 0.0}
MEASURED = {"top1_difference": "top1", "time_reduction": "hours", "memory_reduction": "memory"}


def single_sd(test: Hypothesis, strategy: str) -> float:
    """True standard deviation of one seed, on the scale of the test."""
    if test.quantity in ("top1", "top5"):
        return math.hypot(SHARED_SD, TOP1_SD[strategy])
    if test.quantity == "top1_difference":
        return math.hypot(TOP1_SD[strategy], TOP1_SD[test.against])
    if test.quantity in ("hours", "memory_mib"):
        return sum(LEDGER.reference(test)) / 2 * LOG_SD[test.quantity]  # at the published value
    return 0 if test.quantity == "tokens_removed" else math.sqrt(2) * LOG_SD[MEASURED[test.quantity]]


def placed(test: Hypothesis, strategy: str, depth: float) -> float:
    """A true mean `depth` standard deviations inside of the end of a claim's region (negative: outside)."""
    sd = single_sd(test, strategy)
    ends = LEDGER.reference(test)
    if test.quantity in ("time_reduction", "memory_reduction"):
        ends = tuple(-math.log1p(-end / 100) for end in ends)
    low, high = ends[0] - test.noise * sd, ends[1] + test.noise * sd
    if test.quantity == "tokens_removed":
        return high if depth > 0 else 0.0
    if test.relation in ("above", "at_least"):
        return low + depth * sd
    if test.relation == "equal" and depth > test.noise:
        return (low + high) / 2
    return high - depth * sd


def true_means(claim: Claim, depths: list[float]) -> dict[tuple[str, str], dict[str, float]]:
    """A world in which part i of the claim is true by `depths[i]` standard deviations of one seed.

    A trade-off has a depth for every model, rival and objective: by how much upper is the better one.
    """
    means = {(m, s): dict(NEUTRAL) for m in MODELS for s in STRATEGIES}
    if claim.trade_off:
        pairs = [(m, rival) for m in claim.trade_off.models for rival in claim.trade_off.rivals]
        for (model, rival), (top1, hours, memory) in zip(pairs, zip(*[iter(depths)] * 3, strict=True), strict=True):
            ours, theirs = means[model, "upper"], means[model, rival]
            theirs["top1"] = ours["top1"] - top1 * math.hypot(TOP1_SD["upper"], TOP1_SD[rival])
            theirs["hours"] = ours["hours"] * math.exp(hours * math.sqrt(2) * LOG_SD["hours"])
            theirs["memory"] = ours["memory"] * math.exp(memory * math.sqrt(2) * LOG_SD["memory"])
        return means
    parts = [(t, m, s) for t in claim.tests for m in t.models for s in t.strategies]
    for (test, model, strategy), depth in zip(parts, depths, strict=True):
        value, measured = placed(test, strategy, depth), MEASURED.get(test.quantity, test.quantity)
        against = means[model, test.against][measured] if test.against else 0
        reduction = test.quantity in ("time_reduction", "memory_reduction")
        means[model, strategy][measured] = against * math.exp(-value) if reduction else against + value
    return means


def simulated(claim: Claim, depths: list[float], n: int) -> dict[tuple[str, str], Samples]:
    """`GRIDS` grids of n seeds in that world: normal top-1 with a share common to the seed, log-normal time, memory.

    Absolute hours and memory, where a claim is about them, are normal.
    """
    rng = np.random.default_rng(0)
    shared = {model: rng.normal(0, SHARED_SD, (GRIDS, n)) for model in MODELS}
    grid = {}
    for (model, strategy), mean in true_means(claim, depths).items():
        of = {name: mean[name] * np.exp(rng.normal(0, sd, (GRIDS, n))) for name, sd in LOG_SD.items()}
        for name in ("top1", "top5"):
            of[name] = mean[name] + shared[model] + rng.normal(0, TOP1_SD[strategy], (GRIDS, n))
        for test in claim.tests:
            if test.quantity in ("hours", "memory_mib"):  # normal, as the test of a plain mean has it
                of[test.quantity] = mean[test.quantity] + rng.normal(0, single_sd(test, strategy), (GRIDS, n))
        of["tokens_removed"] = np.full((GRIDS, n), mean["tokens_removed"])
        grid[model, strategy] = Samples(tuple(range(n)), of)
    return grid


def rate(verdict: str, claim: Claim, depths: list[float], n: int) -> float:
    """Share of simulated grids in which the claim gets that verdict."""
    verdicts, _ = decide(claim, LEDGER, simulated(claim, depths, n))
    return float(np.mean(np.broadcast_to(verdicts, GRIDS) == verdict))


def worlds(claim: Claim, edge: float) -> dict[str, list[float]]:
    """The hardest true and false worlds, `edge` deviations from the border between them, and clear ones ten away.

    The hardest false one for a claim of every cell has one cell outside; for a claim of any cell all are outside.
    """
    if claim.trade_off:
        parts, deep = 3 * len(claim.trade_off.models) * len(claim.trade_off.rivals), 20.0
        only = [-edge] + [deep] * (parts - 1)
        return {"true": [edge] * parts, "false": only, "clearly true": [10.0] * parts, "clearly false": [-10.0] * parts}
    parts = sum(len(test.models) * len(test.strategies) for test in claim.tests)
    if claim.scope == "all":
        return {
            "true": [edge] * parts,
            "false": [-edge] + [20.0] * (parts - 1),
            "clearly true": [10.0] * parts,
            "clearly false": [-10.0] + [10.0] * (parts - 1),
        }
    return {
        "true": [edge] + [-20.0] * (parts - 1),
        "false": [-edge] * parts,
        "clearly true": [10.0] + [-10.0] * (parts - 1),
        "clearly false": [-10.0] * parts,
    }


@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize("n", [1, 3, 5])
def test_wrong_verdicts_are_rare(name, n):
    """On the border itself the level is met but for what 2,000 grids leave to chance (three standard errors)."""
    claim = SIMULATED[name]
    chance = 3 * math.sqrt(0.05 * 0.95 / GRIDS)
    for edge, allowed in ((1e-9, 0.05 + chance), (0.25, 0.05)):
        world = worlds(claim, edge)
        assert rate("reproduced", claim, world["false"], n) <= allowed
        assert rate("not reproduced", claim, world["true"], n) <= allowed


def test_a_trade_off_that_depends_on_the_weights_is_neither():
    """Rivals better in time and memory, upper in top-1 by next to nothing: nearly dominated, and yet not."""
    claim = TRADE_OFF
    for n in (3, 5):
        assert rate("not reproduced", claim, [0.25, -20.0, -20.0] * 6, n) <= 0.05
        assert rate("reproduced", claim, [20.0, -0.25, 20.0] * 6, n) <= 0.05
        assert rate("inconclusive", claim, [20.0, -20.0, -20.0] * 6, n) == 1


def test_power(capsys):
    """One seed decides nothing but what is not up to chance; with three, a clear truth is mostly seen; five, nearly
    always. The table is printed."""
    lines = [f"{'power over 2,000 grids':30} {'reproduced, n = 1, 3, 5':>26} {'not reproduced, n = 1, 3, 5':>29}"]
    for name, claim in SIMULATED.items():
        world = worlds(claim, 0)
        shown = [rate("reproduced", claim, world["clearly true"], n) for n in (1, 3, 5)]
        refuted = [rate("not reproduced", claim, world["clearly false"], n) for n in (1, 3, 5)]
        lines.append(
            f"{name:30} " + " ".join(f"{p:8.3f}" for p in shown) + "   " + " ".join(f"{p:8.3f}" for p in refuted)
        )
        if name == "equal-budgets":
            assert shown == refuted == [1, 1, 1]
            continue
        assert shown[0] == refuted[0] == 0, name
        assert shown[2] > 0.8, name
        assert refuted[2] > 0.6, name
        assert shown[2] >= shown[1], name
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def judged(rows: list[Row]) -> dict[str, Verdict]:
    return {verdict.id: verdict for verdict in judge(LEDGER, rows, noise_floor(rows)).verdicts}


def rows_of(**changes: object) -> list[Row]:
    return [make_row(cell) for cell in paper_experiment(**changes).cells()]


def with_top1(rows: list[Row], top1: dict[tuple[str, str], tuple[float, ...]]) -> list[Row]:
    """Rows with the best epoch's top-1 of some cells set, seed by seed."""
    changed = []
    for row in rows:
        values = top1.get((row.cell.model, row.cell.strategy))
        metrics = row.metrics
        if values:
            best = metrics.best.model_copy(update={"top1": values[row.cell.seed]})
            metrics = metrics.model_copy(update={"best": best})
        changed.append(row.model_copy(update={"metrics": metrics}))
    return changed


def test_every_claim_of_the_smoke_grid_is_not_tested():
    verdicts = judged([make_row(cell) for cell in experiment().cells()])
    assert verdicts.keys() == CLAIMS.keys()
    assert {verdict.verdict for verdict in verdicts.values()} == {"not tested"}
    assert all("smoke rows" in verdict.reason for verdict in verdicts.values())


def test_a_published_number_is_held_against_the_best_epoch():
    rows = with_top1(rows_of(), {("vim_small", "baseline"): (76.8, 77.1, 76.7)})
    verdict = judged(rows)["table1-vim_small-baseline-top1"]
    assert verdict.verdict == "reproduced"
    assert verdict.n == 3
    assert verdict.mean == pytest.approx(76.8667, abs=1e-3)
    assert verdict.high - verdict.mean == pytest.approx(4.302653 * np.std([76.8, 77.1, 76.7], ddof=1) / 3**0.5)
    assert verdict.effect_size == pytest.approx((76.8667 - 76.9) / 0.20817, abs=1e-3)
    # the last epoch's is elsewhere, and does not matter
    assert all(row.metrics.last.top1 > 80 for row in rows if row.id.startswith("vim_small-baseline"))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((70.0, 70.2, 69.9), "not reproduced"),
        ((75.0, 75.9, 76.8), "inconclusive"),  # three seeds this far apart place nothing
    ],
)
def test_a_number_that_is_off_and_one_that_cannot_be_told(values, verdict):
    verdicts = judged(with_top1(rows_of(), {("vim_small", "baseline"): values}))
    assert verdicts["table1-vim_small-baseline-top1"].verdict == verdict


def on_four(rows: list[Row]) -> list[Row]:
    """The same rows, of four GPUs."""
    four = rows[0].environment.model_copy(update={"world_size": 4})
    return [row.model_copy(update={"environment": four}) for row in rows]


def test_one_seed_is_inconclusive_and_says_so():
    verdicts = judged(on_four(rows_of(seeds=[0])))
    assert verdicts["equal-budgets"].verdict == "reproduced"  # nothing about it is up to chance
    del verdicts["equal-budgets"]
    assert {verdict.verdict for verdict in verdicts.values()} == {"inconclusive"}
    assert all("needs 3" in verdict.reason for verdict in verdicts.values())


@pytest.mark.parametrize(
    ("change", "claims", "reason"),
    [
        ({"dataset": "fashion-mnist"}, "all", "needs the official cifar100"),
        ({"recipe": {"epochs": 30}}, "all", "recipe.epochs is 30, the protocol's 300"),
        ({"recipe": {"workers": 2}}, "none", ""),
        ({"models": {"vim_tiny": {"embed_dim": 64}}}, "all", "models.vim_tiny.embed_dim is 64, the protocol's 192"),
        ({"device": "cpu"}, {"memory-drops", "table1-vim_tiny-interleaved-time"}, "needs a cuda device"),
        ({"strategies": ["baseline", "upper"]}, {"table1-vim_tiny-all-top5"}, "no rows of Vim-Ti all"),
        (
            {"recipe": {"micro_batch": 32}},
            {name for name in CLAIMS if name.endswith("-memory")},
            "needs 128 images per GPU in a backward pass; these rows have 32",
        ),
    ],
)
def test_rows_of_another_kind_are_not_evidence(change, claims, reason):
    for name, verdict in judged(on_four(rows_of(**change))).items():
        if claims == "none":
            assert verdict.verdict != "not tested"
        elif name in claims or (claims == "all" and any("vim_tiny" in test.models for test in CLAIMS[name].tests)):
            assert verdict.verdict == "not tested"
            assert reason in verdict.reason


def test_the_fast_protocol_is_not_the_papers():
    rows = rows_of()
    fast = [row.model_copy(update={"cell": row.cell.model_copy(update={"protocol": "fast"})}) for row in rows]
    assert {verdict.verdict for verdict in judged(fast).values()} == {"not tested"}


def test_an_absolute_time_counts_on_the_papers_machine_only():
    rows = [make_row(cell, device="NVIDIA H200") for cell in paper_experiment().cells()]
    grids = ((rows, "1 × NVIDIA H200"), (on_four(rows), "4 × NVIDIA H200"), (rows_of(), "1 × NVIDIA A100"))
    for other, machine in grids:
        verdicts = judged(other)
        assert verdicts["table1-vim_tiny-interleaved-time"].verdict == "not tested"
        assert f"4 × A100; these rows are of {machine}" in verdicts["table1-vim_tiny-interleaved-time"].reason
        assert "does not give the number of GPUs" in verdicts["table1-vim_tiny-interleaved-time"].interpretation
        assert verdicts["time-drops"].verdict == "reproduced"  # a ratio, to the baseline of the same device
    assert judged(on_four(rows_of()))["table1-vim_tiny-interleaved-time"].verdict == "not reproduced"


def test_a_claim_of_every_cell_is_not_reproduced_on_a_part_of_the_grid():
    verdicts = judged([row for row in rows_of() if row.id != "vim_small-lower-s2"])
    assert verdicts["time-drops"].verdict == "inconclusive"
    assert verdicts["time-drops"].reason.startswith("n = 2 for Vim-S lower and baseline, needs 3")


def test_seeds_are_paired():
    """Each pair differs by the published loss while the seeds themselves scatter by ten."""
    baseline = (70.0, 75.0, 80.0)
    top1 = {}
    for model, published in (("vim_tiny", 8.2), ("vim_small", 8.0)):
        top1[model, "baseline"] = baseline
        losses = (published - 0.1, published, published + 0.1)
        top1[model, "all"] = tuple(t - loss for t, loss in zip(baseline, losses, strict=True))
    verdict = judged(with_top1(rows_of(), top1))["all-layer-loses"]
    assert verdict.verdict == "reproduced"
    assert [part.mean for part in verdict.parts] == pytest.approx([-8.2, -8.0])
    assert verdict.effect_size == pytest.approx(0, abs=1e-9)


def test_reductions_are_told_in_per_cent():
    grid = grid_of(rows_of())
    part = next(p for p in judged(rows_of())["time-drops"].parts if (p.model, p.strategy) == ("vim_tiny", "lower"))
    hours = grid["vim_tiny", "lower"].of["hours"] / grid["vim_tiny", "baseline"].of["hours"]
    assert part.mean == pytest.approx(100 * (1 - math.exp(np.log(hours).mean())))
    assert part.low < part.mean < part.high


def test_a_ledger_of_ones_own_is_judged_on_custom_rows_and_on_no_others():
    """The statements asked of Fashion-MNIST: by the last epoch, activations without chance, not on the paper's rows."""
    ledger = load(ROOT / "config" / "fashion-mnist-claims.yaml")
    grid = yaml.safe_load((ROOT / "config" / "fashion-mnist.yaml").read_text())
    small = {name: {"embed_dim": width} for name, width in (("vim_tiny", 24), ("vim_small", 48))}
    rows = [make_row(cell) for cell in Experiment.from_config(grid | {"models": small}).cells()]
    verdicts = {verdict.id: verdict for verdict in judge(ledger, rows, noise_floor(rows)).verdicts}
    assert verdicts["memory-drops"].verdict == "reproduced"
    assert "not tested" not in {verdict.verdict for verdict in verdicts.values()}
    part = verdicts["upper-best-top1"].parts[0]
    last = {(row.cell.strategy, row.cell.seed): row.metrics.last.top1 for row in rows}
    assert part.mean == pytest.approx(np.mean([last["upper", seed] - last["lower", seed] for seed in range(3)]))
    assert {verdict.verdict for verdict in judge(ledger, rows_of(), []).verdicts} == {"not tested"}
    assert {verdict.verdict for verdict in judge(LEDGER, rows, []).verdicts} == {"not tested"}


def test_judge_writes_claims_and_tables(tmp_path, capsys):
    paths = write_grid(tmp_path, experiment())
    assert main(["judge", "--out", str(tmp_path), *map(str, paths)]) == 0
    assert f"{len(CLAIMS)} claims not tested" in capsys.readouterr().out
    written = json.loads((tmp_path / "claims.json").read_text())
    assert written["watermark"] == "SMOKE"
    assert [verdict["id"] for verdict in written["verdicts"]] == list(CLAIMS)
    markdown = (tmp_path / "tables" / "verdicts.md").read_text()
    assert "SMOKE: not evidence about the paper" in markdown
    assert markdown.count("not tested: these are smoke rows") == 1  # the reason that all of them share
    assert f"* {len(CLAIMS)} claims not tested: these are smoke rows" in markdown
    assert "| claim |" not in markdown
    latex = (tmp_path / "tables" / "verdicts.tex").read_text()
    assert latex.count("{") == latex.count("}")
    assert [line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")] == [6, 0]
    assert f"{len(CLAIMS)} claims not tested" in latex


def test_the_noise_floor_is_measured(tmp_path):
    """Seed spread pooled over strategies; repeats of the same seeds apart from it."""
    rows = write_grid(tmp_path, paper_experiment(strategies=["baseline", "upper"]))
    for path in rows[:3]:  # Vim-Ti baseline: the same seeds, each 0.2 points higher
        data = json.loads(path.read_text())
        data["metrics"]["best"]["top1"] += 0.2
        write_row(Row.model_validate(data), tmp_path / "again" / path.parent.name / "row.json")
    # rows behind the option stay rows
    assert main(["judge", "--out", str(tmp_path), "--repeats", str(tmp_path / "again"), *map(str, rows)]) == 0
    floor = {
        (noise["model"], noise["quantity"]): noise
        for noise in json.loads((tmp_path / "claims.json").read_text())["noise"]
    }
    best = floor["vim_tiny", "top1_best_points"]
    values = [[read_row(path).metrics.best.top1 for path in rows[i : i + 3]] for i in (0, 3)]
    assert best["seeds"]["sd"] == pytest.approx(math.sqrt(np.mean([np.var(v, ddof=1) for v in values])))
    assert best["seeds"]["df"] == 4
    assert best["repeats"] == {"sd": pytest.approx(0.2 / math.sqrt(2)), "df": 3}
    assert floor["vim_small", "top1_best_points"]["repeats"] == {"sd": None, "df": 0}


def test_a_repeat_of_other_settings_is_refused(tmp_path, capsys):
    rows = write_grid(tmp_path, experiment(seeds=[0]))
    other = write_grid(tmp_path / "other", experiment(seeds=[1]))
    assert main(["judge", "--out", str(tmp_path), "--repeats", str(tmp_path / "other"), *map(str, rows)]) == 2
    assert "repeats no cell of the rows given" in capsys.readouterr().err
    assert main(["judge", "--out", str(tmp_path), "--repeats", str(other[0]), *map(str, rows)]) == 2
    assert f"{other[0]}: no cells/*/row.json here; name the folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "ledger"),
    [
        (None, "config/claims.yaml"),  # no such file
        ("mine", "own.yaml"),
        ("another", "config/claims.yaml"),  # the file is of another experiment
    ],
)
def test_rows_are_judged_by_the_ledger_of_their_experiment(tmp_path, monkeypatch, capsys, named, ledger):
    """Without --claims, from a checkout in which config/mine.yaml names a ledger, or does not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    paper = yaml.safe_load((ROOT / "config" / "claims.yaml").read_text()) | {"table_cells": []}
    (tmp_path / "config" / "claims.yaml").write_text(yaml.safe_dump(paper | {"claims": paper["claims"][:1]}))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(paper | {"claims": paper["claims"][1:3]}))
    grid = experiment(experiment="mine", seeds=[0], strategies=["baseline", "upper"])
    rows = write_grid(tmp_path, grid)
    if named:
        settings = grid.model_dump(mode="json") | {"experiment": named, "claims": "own.yaml"}
        (tmp_path / "config" / "mine.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert ledger_of_rows(rows) == Path(ledger)
    assert main(["judge", "--out", "judged", *map(str, rows)]) == 0
    assert f"4 lines from 4 rows; {'2 claims' if ledger == 'own.yaml' else '1 claim'} not tested" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["claims"][0].update(sourc="x"), "claims.0.sourc: unknown key; did you mean 'source'?"),
        (lambda data: data["claims"][0].update(source="rumour"), "unknown source 'rumour'"),
        (lambda data: data["claims"][0]["tests"][0].update(published=["nothing"]), "which is no published number"),
        (
            lambda data: data["claims"][0]["tests"][0].update(published=["table1-vim_tiny-all-top1"]),
            "holds time_reduction against a top1",
        ),
        (lambda data: data["claims"][0]["tests"][0].update(quantity="top5"), "top5 takes no `against`"),
        (lambda data: data["claims"][0]["tests"][0].update(against=None), "time_reduction needs `against`"),
        (lambda data: data["table_cells"].append(4), "table_cells names table 4, which is not among the tables"),
        (lambda data: data["claims"].append(data["claims"][0]), "is there twice"),
        (lambda data: data["claims"][0].update(tests=[]), "needs either `tests` or a `trade_off`"),
    ],
)
def test_a_wrong_ledger_is_one_line(tmp_path, change, message):
    data = yaml.safe_load((ROOT / "config" / "claims.yaml").read_text())
    change(data)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=r"claims\.yaml: ") as caught:
        load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ledger_without_the_tables_that_it_refers_to_is_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((ROOT / "config" / "starting-layer-claims.yaml").read_text())
    with pytest.raises(InputError, match=rf"^{tmp_path}/claims.yaml: cannot read the claims"):
        load(path)


def test_the_ledger_covers_what_has_been_published():
    """Every published accuracy, time and saving is judged by a claim; the machine's are conditions, not claims."""
    ledgers = [load(ROOT / "config" / f"{name}claims.yaml") for name in ("", "starting-layer-", "tokens-per-layer-")]
    used = {name for ledger in ledgers for claim in ledger.judged for test in claim.tests for name in test.published}
    numbers = {
        n.id
        for n in LEDGER.numbers.values()
        if n.value is not None and n.quantity not in ("gpus", "batch_per_gpu", "time_limit")
    }
    assert used == numbers
    assert len(numbers) == 4 * len(published_rows(ROOT / "config" / "claims.yaml")) + 6
    assert Path(ROOT / "config/schema/claims.json").exists()
