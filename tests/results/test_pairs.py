"""Strategies paired on the same test images: counted by loops, and never paired where the images are not the same."""

import sys
from pathlib import Path

import numpy as np
import pytest

from famba.results import predictions
from famba.results.pairs import Pair, Paired, compare
from famba.results.pairs_table import networks_table, strategies_table, tables
from famba.results.predictions import Predictions
from famba.results.row import read_row
from famba.results.same_images import mcnemar
from famba.results.statistics import holm
from famba.results.summary import read_rows
from tests.helpers.rows import changed, experiment, write_grid, write_predictions

MODEL = {"vim_a": {"embed_dim": 192}}
N = 300
LABELS = np.arange(N) % 10
NAMES = ("baseline", "lower", "upper")


def hits(strategy: str, seed: int) -> np.ndarray:
    """Which images a network gets right: easy ones, and hard ones by chance."""
    rng = np.random.default_rng([NAMES.index(strategy), seed])
    return rng.random(N) < np.where(np.arange(N) < 200, 0.9, 0.4 - 0.05 * NAMES.index(strategy))


def grid(folder: Path, seeds: int = 2, strategies: tuple[str, ...] = NAMES) -> list[Path]:
    paths = write_grid(folder, experiment(strategies=list(strategies), seeds=list(range(seeds)), models=MODEL))
    for path in paths:
        cell = read_row(path).cell
        write_predictions(path, hits(cell.strategy, cell.seed), LABELS)
    return paths


def paired(paths: list[Path]) -> Paired:
    return compare(read_rows(paths), "d" * 64)


def rewrite(path: Path, top5: np.ndarray, labels: np.ndarray) -> None:
    predictions.write_predictions(Predictions(top5, labels), read_row(path).data, path.with_name(predictions.NAME))


def stored(path: Path) -> tuple[np.ndarray, np.ndarray]:
    found = predictions.read_predictions(path.with_name(predictions.NAME), read_row(path))
    return found.top5.astype(int), found.labels.astype(int)


def of(found: Paired, strategy: str, against: str) -> Pair:
    (pair,) = [pair for pair in found.pairs if (pair.strategy, pair.against) == (strategy, against)]
    return pair


def test_every_pair_of_every_seed_is_counted(tmp_path):
    found = paired(grid(tmp_path))
    assert (found.images, found.left_out) == (N, [])
    pairs = [("lower", "baseline"), ("upper", "baseline"), ("upper", "lower")]
    assert [(pair.strategy, pair.against) for pair in found.pairs] == pairs
    for seed in range(2):
        p = []
        for strategy, against in pairs:
            only = [0, 0]
            for ours, theirs in zip(hits(strategy, seed), hits(against, seed), strict=True):
                only[0] += bool(ours) and not theirs
                only[1] += bool(theirs) and not ours
            one = of(found, strategy, against).networks[seed]
            assert (one.seed, one.only_strategy, one.only_against) == (seed, *only)
            assert one.difference == pytest.approx(100 * (only[0] - only[1]) / N, rel=1e-5)
            assert one.low < one.difference < one.high
            assert one.p == pytest.approx(mcnemar(*only), rel=1e-5)
            p.append(one.p)
        assert [pair.networks[seed].p_holm for pair in found.pairs] == pytest.approx(holm(np.array(p)), rel=1e-4)


def test_over_seeds_the_mean_has_an_interval_and_holm_the_family_of_strategies(tmp_path):
    found = paired(grid(tmp_path))
    for pair in found.pairs:
        over = pair.over_seeds
        assert over.difference == pytest.approx(np.mean([one.difference for one in pair.networks]), abs=1e-3)
        assert over.low < over.difference < over.high
        assert over.df >= 2  # (3 strategies - 1) (2 seeds - 1), more as far as images are the error
    expected = holm(np.array([pair.over_seeds.p for pair in found.pairs]))
    assert [pair.over_seeds.p_holm for pair in found.pairs] == pytest.approx(expected, rel=1e-4)


def test_the_control_is_networks_of_one_strategy(tmp_path):
    found = paired(grid(tmp_path, seeds=3))
    p = [
        mcnemar(int((one & ~other).sum()), int((other & ~one).sum()))
        for name in NAMES
        for one, other in ((hits(name, a), hits(name, b)) for a, b in ((0, 1), (0, 2), (1, 2)))
    ]
    (same,) = found.same_strategy
    assert (same.model, same.pairs, same.differ) == ("vim_a", 9, sum(value <= 0.05 for value in p))
    assert f"of 9 pairs of networks that differ only in their seed, McNemar's test calls {same.differ} different" in (
        tables(found, "")[0].markdown_page
    )


def test_one_image_has_no_interval_over_images(tmp_path, monkeypatch):
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "N", 1)
    monkeypatch.setattr(module, "LABELS", LABELS[:1])
    found = paired(grid(tmp_path))
    assert found.images == 1
    assert {(pair.over_seeds, pair.unknown) for pair in found.pairs} == {(None, "one test image")}


@pytest.mark.parametrize(
    ("seeds", "strategies", "why"), [(1, NAMES, "one seed"), (2, NAMES[:2], "two strategies with two seeds each")]
)
def test_too_few_trainings_have_no_interval_over_seeds(tmp_path, seeds, strategies, why):
    found = paired(grid(tmp_path, seeds, strategies))
    for pair in found.pairs:
        assert pair.over_seeds is None
        assert pair.unknown.startswith(why)
        assert len(pair.networks) == seeds
    table = strategies_table(found, "")
    assert bool(table.lines) == (seeds > 1)
    assert (f"* No interval: {why}" in table.markdown_page) == (seeds > 1)
    assert len(networks_table(found, "").lines) == seeds * len(found.pairs)


def test_another_order_of_the_images_is_never_paired(tmp_path):
    paths = grid(tmp_path)
    odd = paths[0]
    changed(odd, data={"order_digest": "b" * 64})
    shuffled = np.random.default_rng(0).permutation(N)
    top5, labels = hits_and_labels(odd)
    rewrite(odd, top5[shuffled], labels[shuffled])
    found = paired(paths)
    (line,) = found.left_out
    assert line.startswith("2 pairs left out: their test images are in another order (vim_a lower s0 and baseline s0, ")
    assert [one.seed for one in of(found, "lower", "baseline").networks] == [1]
    assert [one.seed for one in of(found, "upper", "lower").networks] == [0, 1]
    assert of(found, "lower", "baseline").unknown == "one seed"
    assert of(found, "upper", "lower").over_seeds is not None


def hits_and_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What `write_predictions` wrote, though the row beside it has changed since."""
    with np.load(path.with_name(predictions.NAME)) as found:
        return found["top5"].astype(int), found["labels"].astype(int)


def test_seeds_whose_images_are_in_another_order_are_not_averaged(tmp_path):
    paths = grid(tmp_path)
    for path in paths:
        if read_row(path).cell.seed:
            top5, labels = stored(path)
            changed(path, data={"order_digest": "b" * 64})
            rewrite(path, top5[::-1], labels[::-1])
    found = paired(paths)
    assert found.left_out == []
    assert {pair.unknown for pair in found.pairs} == {"the order of the images differs between seeds"}
    assert found.same_strategy == []


def swapped(top5: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.roll(top5, 1, axis=0), np.roll(labels, 1)


def wrong_labels(top5: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong ones exchange their labels two by two: the accuracy stays the same."""
    labels = labels.copy()
    right = np.flatnonzero((top5[:, 0] == 3) & (labels == 3))[0]
    labels[right], top5[right] = 4, (top5[right] + 1) % 10
    return top5, labels


@pytest.mark.parametrize("defect", [swapped, wrong_labels])
def test_a_damage_that_keeps_the_accuracy_is_found_by_the_labels(tmp_path, defect):
    paths = grid(tmp_path)
    rewrite(paths[0], *defect(*stored(paths[0])))
    stored(paths[0])  # accuracy and digests are the row's
    found = paired(paths)
    (line,) = found.left_out
    assert line.startswith("2 pairs left out: the labels in their predictions.npz differ; train the wrong one again (")
    assert [one.seed for one in of(found, "upper", "baseline").networks] == [1]


def damaged(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-40])
    return "1 row left out: cannot read the predictions ("


def deleted(path: Path) -> str:
    path.unlink()
    return "1 row left out: predictions.npz is not beside the row ("


def of_another_row(path: Path) -> str:
    other = path.parent.with_name("vim_a-upper-s1") / path.name
    path.write_bytes(other.read_bytes())
    return "1 row left out: its top-1 of "


@pytest.mark.parametrize("defect", [damaged, deleted, of_another_row])
def test_predictions_that_are_not_there_leave_their_pairs_out(tmp_path, defect):
    paths = grid(tmp_path)
    said = defect(paths[0].with_name(predictions.NAME))
    found = paired(paths)
    (line,) = found.left_out
    assert line.startswith(said)
    assert line.endswith("(vim_a-baseline-s0)")
    assert str(tmp_path) not in line
    assert [len(pair.networks) for pair in found.pairs] == [1, 1, 2]
    assert tables(found, "")[0].sentences[-1] == f"{line}."


def test_without_any_predictions_there_is_one_line(tmp_path):
    paths = write_grid(tmp_path, experiment(strategies=list(NAMES), models=MODEL))
    found = paired(paths)
    assert found.pairs == []
    first = "vim_a-baseline-s0, vim_a-baseline-s1, vim_a-baseline-s2, vim_a-lower-s0"
    assert found.left_out == [f"9 rows left out: predictions.npz is not beside the row ({first} and 5 more)"]
