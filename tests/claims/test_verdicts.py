"""Verdicts on rows: which rows are evidence, and for which claims."""

import math

import numpy as np
import pytest
import yaml
from scipy import stats

from famba.claims.decide import decide, grid_of
from famba.claims.entries import Claim
from famba.claims.ledger import Ledger, load
from famba.claims.noise import noise_floor
from famba.claims.verdicts import Verdict, judge
from famba.config import Experiment
from famba.results.row import Row
from tests.helpers import ROOT
from tests.helpers.rows import experiment, make_row, paper_experiment, thresholded

LEDGER = load(ROOT / "config" / "claims.yaml")
CLAIMS = {claim.id: claim for claim in LEDGER.judged}


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
    assert verdicts["time-drops"].reason.startswith("n = 2, needs 3: the spread over seeds is not known")


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
    hours = grid["vim_tiny", "lower"].quantities["hours"] / grid["vim_tiny", "baseline"].quantities["hours"]
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


def own_claim(**claim: object) -> Claim:
    """A claim on Vim-Ti, judged on the rows of the paper's grid."""
    return Claim.model_validate({"id": "own", "quote": "as it says", "source": "paper", **claim})


def verdict_of(claim: Claim, rows: list[Row]) -> Verdict:
    ledger = Ledger.model_validate(LEDGER.model_dump() | {"claims": [claim.model_dump()], "table_cells": []})
    (verdict,) = judge(ledger, rows, []).verdicts
    return verdict


def test_one_seed_shows_nothing_that_chance_decides_whatever_a_ledger_asks_for():
    tested = {"models": ["vim_tiny"], "strategies": ["upper"], "relation": "above"}
    trade_off = {"models": ["vim_tiny"], "strategy": "upper", "rivals": ["lower"], "objectives": ["top1", "hours"]}
    for of in ({"tests": [{"quantity": "top1", **tested}]}, {"trade_off": trade_off}):
        verdict = verdict_of(own_claim(needs={"minimum_n": 1}, **of), rows_of(seeds=[0]))
        assert (verdict.verdict, verdict.reason) == (
            "inconclusive",
            "n = 1, needs 2: the spread over seeds is not known",
        )
    tested["quantity"] = "tokens_removed"
    assert verdict_of(own_claim(needs={"minimum_n": 1}, tests=[tested]), rows_of(seeds=[0])).verdict == "reproduced"


def test_a_strict_end_is_written_as_the_number_that_it_excludes():
    """In claims.json, too, where the next number above 0 would be 5e-324."""
    tested = {"models": ["vim_tiny"], "strategies": ["upper"], "against": "baseline"}
    for quantity in ("top1_difference", "time_reduction"):
        for relation, expected in (("above", (0.0, None)), ("below", (None, 0.0))):
            claim = own_claim(tests=[{"quantity": quantity, "relation": relation, **tested}])
            (part,) = verdict_of(claim, rows_of()).parts
            assert part.expected == expected


def test_tokens_that_a_threshold_removes_are_a_mean_over_seeds():
    """They differ between seeds, and none of these stands for all."""
    rows = [row for row in rows_of() if row.cell.line == ("vim_tiny", "upper")]
    for seed, last in enumerate((40, 20, 24)):
        measured = (*rows[seed].tokens.measured[:-1], last)
        rows[seed] = rows[seed].model_copy(
            update={"tokens": rows[seed].tokens.model_copy(update={"measured": measured})}
        )
    tested = {"quantity": "tokens_removed", "models": ["vim_tiny"], "strategies": ["upper"], "relation": "at_most"}
    claim = own_claim(tests=[{**tested, "published": ["lower-tokens"]}])
    ((_, evidence),) = decide(claim, LEDGER, grid_of(rows))[1]
    removed = np.array([157, 177, 173])
    limit = LEDGER.numbers["lower-tokens"].point
    assert evidence.p_inside == pytest.approx(stats.ttest_1samp(removed, limit, alternative="less").pvalue)


def test_what_a_threshold_leaves_to_the_weights_needs_their_spread():
    """Tokens and activations are exact by a schedule, and not where a threshold decides, in one of the cells."""
    pruned = {"pruned": {"like": "upper", "settings": {"threshold": 0.9}}}
    names = ["baseline", "upper", "pruned"]
    grid = paper_experiment("custom", models=["vim_tiny"], strategies=names, schedules=pruned)
    rows = [make_row(cell) for cell in grid.cells()]
    rows = [thresholded(row) if row.cell.strategy == "pruned" else row for row in rows]
    first = [row for row in rows if row.cell.seed == 0]
    for quantity, against in (("tokens_removed", None), ("activations_reduction", "baseline")):
        tested = {"quantity": quantity, "models": ["vim_tiny"], "relation": "above", "against": against}
        needs = {"minimum_n": 1, "protocols": ["custom"]}
        of = {name: own_claim(needs=needs, tests=[{**tested, "strategies": [name]}]) for name in ("upper", "pruned")}
        assert verdict_of(of["upper"], first).verdict == "reproduced"
        alone = verdict_of(of["pruned"], first)
        assert (alone.verdict, alone.parts[0].p_inside) == ("inconclusive", 1)
        assert alone.reason == "n = 1, needs 2: the spread over seeds is not known"
        assert verdict_of(of["pruned"], rows).verdict == "reproduced"


def test_equal_seeds_are_told_as_they_are_tested():
    """No effect size of a rounding error's standard deviation; of accuracies the spread of an image."""
    right = {"baseline": 254, "upper": 258}
    top1 = {("vim_tiny", name): (100 * hits / 360,) * 3 for name, hits in right.items()}
    rows = with_top1(rows_of(strategies=[*right]), top1)
    tested = {"models": ["vim_tiny"], "strategies": ["upper"], "against": "baseline", "relation": "above"}
    image = 100 / 360
    (part,) = verdict_of(own_claim(tests=[{"quantity": "top1_difference", **tested}]), rows).parts
    assert part.high - part.mean == pytest.approx(4.302653 * image / 12**0.5 / 3**0.5, rel=1e-6)
    assert part.effect_size == pytest.approx(4 * 12**0.5)
    (part,) = verdict_of(own_claim(tests=[{"quantity": "activations_reduction", **tested}]), rows).parts
    assert (part.low, part.high, part.effect_size) == (part.mean, part.mean, None)


def test_a_p_value_of_one_part_among_several_is_holms():
    """Where one of the parts decides, the test is as strict as the reason says."""
    rows = rows_of()
    drop = {"quantity": "top1_difference", "against": "baseline", "relation": "above"}
    tests = [{**drop, "models": ["vim_tiny"], "strategies": ["all", "interleaved", "lower", "upper"]}]
    for scope, decides in (("all", "p_outside"), ("any", "p_inside")):
        tests[0]["relation"] = "above" if scope == "all" else "below"
        verdict = verdict_of(own_claim(tests=tests, scope=scope), rows)
        assert verdict.verdict == ("not reproduced" if scope == "all" else "reproduced")
        p = 4 * min(getattr(part, decides) for part in verdict.parts)
        assert f"p = {p:.2g} after Holm; the decisive one of 4 parts)" in verdict.reason
    tests[0]["relation"] = "below"
    verdict = verdict_of(own_claim(tests=tests), rows)
    assert verdict.verdict == "reproduced"  # every one of them: no correction
    p = max(part.p_inside for part in verdict.parts)
    assert f"(test that it does: p = {p:.2g}; the decisive one of 4 parts)" in verdict.reason
