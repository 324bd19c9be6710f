"""The committed evidence: its rows keep the rules, and what was made of them is what they give."""

import csv
import hashlib
import json
import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from famba.checks import gate
from famba.cli import main
from famba.config import Experiment
from famba.results.predictions import read_predictions
from famba.results.same_images import mcnemar
from famba.results.statistics import holm
from famba.results.summary import read_rows
from tests.helpers import ROOT, class_token_table, methods_table

EVIDENCE = ROOT / "results" / "evidence"
FOLDERS = sorted(cells.parent for cells in EVIDENCE.glob("*/cells"))
JUDGED = [folder for folder in FOLDERS if (folder / "claims.json").exists()]


def test_every_experiment_there_is_one_that_can_be_repeated():
    for folder in FOLDERS:
        assert Experiment.load(ROOT / "config" / f"{folder.name}.yaml").experiment == folder.name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_row_keeps_the_rules(folder):
    assert main(["check", "--rules", *map(str, folder.glob("cells/*/row.json"))]) == 0


@pytest.mark.parametrize("folder", JUDGED, ids=lambda folder: folder.name)
def test_the_rows_give_these_verdicts(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    rows = sorted(map(str, Path("cells").glob("*/row.json")))
    ledger = ROOT / Experiment.load(ROOT / "config" / f"{folder.name}.yaml").claims
    assert main(["judge", "--out", str(tmp_path), "--claims", str(ledger), *rows]) == 0
    tables = [f"tables/{name}.md" for name in ("summary", "verdicts", "paired", "targets")]
    for name in ("summary.csv", "paired.csv", "targets.csv", *tables):
        assert (tmp_path / name).read_text() == (folder / name).read_text(), name
    made, kept = (json.loads((where / "claims.json").read_text()) for where in (tmp_path, folder))
    assert [(v["id"], v["verdict"]) for v in made["verdicts"]] == [(v["id"], v["verdict"]) for v in kept["verdicts"]]
    assert made["verdicts"][0].get("mean") == pytest.approx(kept["verdicts"][0].get("mean"))
    assert made["digest"] == kept["digest"]  # of these rows and this ledger, and so are the figures
    assert all(f'data-digest="{kept["digest"]}"' in path.read_text() for path in Path("figures").glob("*.svg"))


def test_the_table_of_the_small_grid_is_of_its_files():
    """results/evidence/cifar100-small/README.md."""
    folder = EVIDENCE / "cifar100-small"
    text = (folder / "README.md").read_text()
    with (folder / "summary.csv").open(newline="") as file:
        lines = {line["strategy"]: line for line in csv.DictReader(file)}
    pairs = json.loads((folder / "paired.json").read_text())["pairs"]
    over = {pair["strategy"]: pair["over_seeds"] for pair in pairs if pair["against"] == "baseline"}
    shown = re.findall(r"^\| `(\w+)` " + r"\| ([^|]+) " * 5 + r"\|$", text, flags=re.MULTILINE)
    assert [name for name, *_ in shown] == list(lines)
    for name, *entries in shown:
        line = lines[name]
        found = "–"
        if name in over:
            d = over[name]
            found = f"{d['difference']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]".replace("-", "−")
            found += "" if d["p_holm"] > 0.05 else " ▲" if d["difference"] > 0 else " ▼"
        ratios = [f"{float(line[key]):.3f}" for key in ("step_ratio", "saved_activations_ratio")]
        assert entries == [
            f"{float(line['top1_last_percent']):.2f} ± {float(line['top1_last_percent_ci95']):.2f}",
            found,
            *(["1", "1"] if name == "baseline" else ratios),
            line["tokens_final"],
        ]
    assert f"{sum(pair['over_seeds']['p_holm'] <= 0.05 for pair in pairs)} of the {len(pairs)} pairs differ" in text
    claims = json.loads((folder / "claims.json").read_text())["verdicts"]
    (limit,) = next(claim for claim in claims if claim["id"] == "upper-over-interleaved")["parts"]
    (between,) = [p["over_seeds"] for p in pairs if (p["strategy"], p["against"]) == ("upper", "interleaved")]
    assert f"(p = {limit['p_outside']:.4f} over seeds; {between['p']:.2f} over seeds and images)" in text
    assert f"p = {limit['p_outside']:.4f}" in (ROOT / "README.md").read_text()
    errors = [_error(pair["over_seeds"]) for pair in pairs]
    needed = [_detectable(error, pair["over_seeds"]["df"]) for error, pair in zip(errors, pairs, strict=True)]
    assert f"({min(errors):.2f} to {max(errors):.2f} points), a difference of" in text
    assert f"{min(needed):.2f} to {max(needed):.2f} points is found in 80 %" in text


def test_the_table_of_the_methods_is_of_its_files():
    """results/evidence/cifar100-methods/README.md."""
    folder = EVIDENCE / "cifar100-methods"
    text = (folder / "README.md").read_text()
    assert methods_table.table() in text
    over = methods_table.differences()
    corrected = methods_table.corrections(over)
    assert (
        f"Strategies that differ from random pruning: {sum(p <= 0.05 for p in corrected.values())} of {len(corrected)}"
        in text
    )
    errors = [_error(one) for one in over.values()]
    needed = [_detectable(error, one["df"]) for error, one in zip(errors, over.values(), strict=True)]
    assert f"({min(errors):.2f} to {max(errors):.2f} points), a difference of" in text
    assert f"{min(needed):.2f} to {max(needed):.2f} points is found in 80 %" in text
    unreduced = over["baseline"]
    assert f"{unreduced['difference']:.2f} points above random pruning (p = {unreduced['p']:.4f})" in text
    best = max(over[name]["difference"] for name in corrected)
    assert f"{unreduced['difference'] - best:.2f} above\n  the best method" in text
    pairs = json.loads((folder / "paired.json").read_text())["pairs"]
    different = sum(pair["over_seeds"]["p_holm"] <= 0.05 for pair in pairs)
    assert f"Over all {len(pairs)} pairs {different} differ after Holm's correction" in text


def test_the_trainings_with_every_method_began_at_the_weights_that_are_there():
    folder = EVIDENCE / "cifar100-methods"
    for row in read_rows(sorted(folder.glob("cells/*/row.json"))).values():
        start = ROOT / row.cell.init
        assert start.name == row.init.weights
        assert hashlib.sha256(start.read_bytes()).hexdigest() == row.init.sha256
        with start.with_suffix(".csv").open(newline="") as file:
            (evaluated,) = csv.DictReader(file)
        assert evaluated["checkpoint_sha256"] == row.init.sha256
        assert f"{float(evaluated['top1']):.2f}" in (folder / "README.md").read_text()


def _error(over):
    """The standard error from the interval."""
    return (over["high"] - over["low"]) / 2 / stats.t.ppf(0.975, over["df"])


def _detectable(error, df):
    """The difference that a two-sided t-test at 5 % finds with a probability of 80 %."""
    bound = stats.t.ppf(0.975, df)
    power = lambda d: stats.nct.sf(bound, df, d / error) + stats.nct.cdf(-bound, df, d / error)  # noqa: E731
    return optimize.brentq(lambda d: power(d) - 0.8, 0, 4 * error)


def test_an_evaluation_says_what_its_predictions_do():
    for path in (*EVIDENCE.glob("training-free/*.csv"), *EVIDENCE.glob("cifar100-methods/start/*.csv")):
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
        for line in lines:
            with np.load(path.parent / line["predictions"]) as made:
                hits = made["top5"] == made["labels"][:, None]
                assert (str(made["test_digest"]), len(hits)) == (line["test_digest"], int(line["images"]))
            assert float(line["top1"]) == pytest.approx(100 * hits[:, 0].mean(), rel=1e-5)
            assert float(line["top5"]) == pytest.approx(100 * hits.any(axis=1).mean(), rel=1e-5)


def test_the_marks_of_the_evaluated_methods_are_mcnemars():
    """results/evidence/training-free/README.md: which methods differ from random pruning on the same images."""
    folder = EVIDENCE / "training-free"
    hits = {}
    with (folder / "cifar100-small.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            with np.load(folder / line["predictions"]) as made:
                name = f"{line['method']} {line['settings']}".strip()
                hits[line["strategy"], name] = made["top5"][:, 0] == made["labels"]
    compared = [key for key in hits if key[0] != "baseline" and key[1] != "random_prune"]
    only = [
        (int((hits[key] & ~other).sum()), int((other & ~hits[key]).sum()))
        for key in compared
        for other in [hits[key[0], "random_prune"]]
    ]
    p = holm(np.array([mcnemar(*pair) for pair in only]))
    worse = {key for key, (ours, theirs), one in zip(compared, only, p, strict=True) if one <= 0.05 and ours < theirs}
    better = {key for key, (ours, theirs), one in zip(compared, only, p, strict=True) if one <= 0.05 and ours > theirs}

    text = (folder / "README.md").read_text()
    strategies = ("all", "interleaved", "lower", "upper")
    shown = 0
    for method, *entries in re.findall(r"\| `([^`]+)` \|" + r" ([^|]+) \|" * 4, text):
        for key, entry in zip([(strategy, method) for strategy in strategies], entries, strict=True):
            if key not in hits:
                assert entry == "–"
                continue
            shown += 1
            number, _, mark = entry.partition(" ")
            assert abs(float(number) - 100 * hits[key].mean()) <= 0.05 + 1e-9, key
            assert mark == ("▼" if key in worse else "▲" if key in better else ""), key
    assert shown == len(compared) + len(strategies)
    assert f"over the {len(compared)} comparisons" in text


def test_how_often_mcnemar_tells_seeds_apart_is_what_the_docs_say():
    """docs/verdicts.md, about networks that differ only in their seed, and about a gate that would use the test."""
    text = " ".join((ROOT / "docs" / "verdicts.md").read_text().split())
    folder = EVIDENCE / "smoke"
    (tiny, _) = json.loads((folder / "paired.json").read_text())["same_strategy"]
    assert f"for {tiny['differ']} of {tiny['pairs']} pairs of `{tiny['model']}`" in text

    rows = read_rows(sorted(folder.glob("cells/*/row.json")))
    hits = {row.id: read_predictions(path.with_name("predictions.npz"), row).correct for path, row in rows.items()}
    cells = {f"{row.cell.model}-{row.cell.strategy}" for row in rows.values()}
    called = 0
    for now, frozen in permutations(range(3), 2):
        p = []
        for cell in cells:
            new, old = hits[f"{cell}-s{now}"], hits[f"{cell}-s{frozen}"]
            lost, won = int((old & ~new).sum()), int((new & ~old).sum())
            p.append(stats.binomtest(lost, lost + won, alternative="greater").pvalue)
        called += holm(np.array(p)).min() < gate.ALPHA
    assert f"in {called} of 6 cases at the gate's 1 %" in text


def test_the_frozen_baseline_is_of_these_rows(tmp_path):
    rows = sorted(map(str, (ROOT / "results" / "evidence" / "smoke").glob("cells/*/row.json")))
    assert main(["check", "--freeze", str(tmp_path / "smoke.json"), *rows]) == 0
    assert (tmp_path / "smoke.json").read_text() == (ROOT / "results" / "baselines" / "smoke.json").read_text()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_s_pairs_are_those_of_its_predictions(seed):
    with (EVIDENCE / "search" / f"seed{seed}.csv").open(newline="") as file:
        lines = {line["strategy"]: line for line in csv.DictReader(file)}
    right = {}
    for name, line in lines.items():
        with np.load(EVIDENCE / "search" / line["predictions"]) as made:
            right[name] = made["top5"][:, 0] == made["labels"]
        assert float(line["top1"]) == pytest.approx(100 * right[name].mean(), rel=1e-5)
    rivals = {name: line["rival"] for name, line in lines.items() if line["rival"]}
    assert len(rivals) == 4
    for name, rival in rivals.items():
        assert int(lines[name]["only_this"]) == (right[name] & ~right[rival]).sum()
        assert int(lines[name]["only_rival"]) == (right[rival] & ~right[name]).sum()
        assert float(lines[name]["predicted_cost"]) <= float(lines[rival]["predicted_cost"])


def test_the_page_of_the_class_token_is_of_its_cells():
    folder = EVIDENCE / "cifar100-class-token"
    text = " ".join((folder / "README.md").read_text().split())
    assert " ".join(class_token_table.table().split()) in text
    by_seed, over = class_token_table.compared()
    assert f"(p = {over.p:.1g})" in text
    points = [100 * difference for difference, _ in by_seed.values()]
    assert f"gives {min(points):.1f} to {max(points):.1f} points of top-1 more than at the head" in text
    (bound,) = re.findall(r"McNemar's test: p < (\S+) in each", text)
    assert all(p < float(bound) for _, p in by_seed.values())
    rows = {key: row for key, (row, _) in class_token_table.cells().items()}
    for seed in by_seed:
        head, middle = rows[class_token_table.HEAD, seed], rows[class_token_table.MIDDLE, seed]
        assert head.memory.saved_activations == middle.memory.saved_activations
        with (EVIDENCE / "cifar100-methods" / "start" / f"vim_mini-s{seed}.csv").open(newline="") as file:
            (start,) = [float(line["top1"]) for line in csv.DictReader(file) if line["strategy"] == "baseline"]
        assert start == pytest.approx(head.metrics.last.top1)  # of the committed weights, which are this model's
