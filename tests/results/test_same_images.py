"""McNemar's test and the intervals of differences on the same images: against loops and textbook formulas."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from famba.results.same_images import (
    difference_interval,
    interaction_spread,
    mcnemar,
    over_seeds_and_images,
)
from famba.results.statistics import Spread


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (3, 9), (12, 12), (848, 729)])
def test_mcnemar_counts_the_arrangements_that_are_as_uneven(only_first, only_second):
    n = only_first + only_second
    as_uneven = [k for k in range(n + 1) if abs(2 * k - n) >= abs(only_first - only_second)]
    expected = sum(math.comb(n, k) for k in as_uneven) / 2**n
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("both", "first", "second", "neither"), [(53, 16, 8, 23), (20, 0, 0, 20), (0, 30, 0, 0)])
def test_the_interval_is_walds_with_half_an_image_more_of_each_kind(both, first, second, neither):
    table = np.array([both, first, second, neither]) + 0.5
    p = table / table.sum()
    one, other = p[0] + p[1], p[0] + p[2]
    covariance = p[0] * p[3] - p[1] * p[2]
    se = math.sqrt((one * (1 - one) + other * (1 - other) - 2 * covariance) / table.sum())
    low, high = (max(-1, min(1, one - other + z * se)) for z in (-1.959964, 1.959964))
    assert difference_interval(first, second, both + first + second + neither) == pytest.approx((low, high), rel=1e-6)


@pytest.mark.parametrize(("p_first", "p_second"), [(0.02, 0.02), (0.1, 0.05), (0.3, 0.3), (0.4, 0.1)])
def test_the_interval_covers_the_difference(p_first, p_second):
    """Every outcome of 60 images, with its probability."""
    n, covered = 60, 0.0
    law = stats.multinomial(n, [p_first, p_second, 1 - p_first - p_second])
    for first, second in product(range(n + 1), repeat=2):
        if first + second <= n:
            low, high = difference_interval(first, second, n)
            covered += (low <= p_first - p_second <= high) * law.pmf([first, second, n - first - second])
    assert 0.94 < covered < 0.998


def test_the_scatter_is_that_of_a_two_way_table():
    values = np.array([[70.0, 71.5, 70.4], [69.0, 69.1, 71.0], [72.0, 70.0, 74.0], [70.0, 70.0, 70.0]])
    table = {(f"s{i}", seed): values[i, seed] for i in range(4) for seed in range(3)}
    rest = 0.0
    for i, seed in product(range(4), range(3)):
        rest += (values[i, seed] - values[i].mean() - values[:, seed].mean() + values.mean()) ** 2
    assert interaction_spread(table) == (pytest.approx(math.sqrt(rest / 6)), 6)


def test_the_scatter_of_a_table_with_holes():
    """What strategy and seed do is taken out, wherever cells are missing; what is left has as many fewer degrees."""
    additive = {(f"s{i}", seed): 70.0 + i + 3 * seed for i in range(4) for seed in range(3) if (i, seed) != (3, 2)}
    assert interaction_spread(additive) == (pytest.approx(0, abs=1e-9), 5)
    assert interaction_spread({("a", 0): 1.0, ("b", 0): 2.0}).df == 0


def correctness(rng: np.random.Generator, strategies: int, seeds: int, images: int, seed_sd: float) -> np.ndarray:
    """(strategies, seeds, images) bool: images of unlike difficulty, trainings of unlike skill, no better strategy."""
    skill = rng.normal(0, seed_sd, (strategies, seeds, 1))
    difficulty = rng.normal(0, 1.5, (1, 1, images)) + rng.normal(0, 0.5, (strategies, 1, images))
    return rng.random((strategies, seeds, images)) < 1 / (1 + np.exp(-skill - difficulty))


def test_two_strategies_are_a_multi_reader_study_of_two_modalities():
    """Mean squares by loops, then F and its degrees of freedom as in Hillis (2007): the square of our t."""
    hits = correctness(np.random.default_rng(3), 2, 4, 150, 0.6).astype(float)
    strategies, seeds, images = hits.shape
    mean = hits.mean()
    ms_t = ms_ts = ms_ti = ms_rest = 0.0
    for t in range(strategies):
        ms_t += seeds * images * (hits[t].mean() - mean) ** 2
        for s in range(seeds):
            ms_ts += images * (hits[t, s].mean() - hits[t].mean() - hits[:, s].mean() + mean) ** 2
        for i in range(images):
            ms_ti += seeds * (hits[t, :, i].mean() - hits[t].mean() - hits[:, :, i].mean() + mean) ** 2
        for s, i in product(range(seeds), range(images)):
            ms_rest += (
                hits[t, s, i] - hits[t, s].mean() - hits[t, :, i].mean() - hits[:, s, i].mean()
                + hits[t].mean() + hits[:, s].mean() + hits[:, :, i].mean() - mean
            ) ** 2  # fmt: skip
    ms_ts, ms_ti, ms_rest = ms_ts / (seeds - 1), ms_ti / (images - 1), ms_rest / ((seeds - 1) * (images - 1))
    assert ms_ts > ms_rest  # so that no part is cut off at zero
    error = ms_ts + max(ms_ti - ms_rest, 0)
    df = error**2 / (ms_ts**2 / (seeds - 1))

    table = {(str(t), s): hits[t, s].mean() for t in range(strategies) for s in range(seeds)}
    found = over_seeds_and_images(hits[1] - hits[0], interaction_spread(table))
    assert found.df == pytest.approx(df)
    assert found.p == pytest.approx(stats.f.sf(ms_t / error, 1, df))
    half = stats.t.ppf(0.975, df) * math.sqrt(2 * error / (seeds * images))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


def test_a_lucky_scatter_is_no_less_than_the_sampling_of_images():
    """Seeds that agree by chance to the last image make no interval of width zero."""
    hits = correctness(np.random.default_rng(0), 2, 2, 200, 0.0).astype(float)
    found = over_seeds_and_images(hits[1] - hits[0], Spread(0.0, 8))
    assert found.high - found.low > 0.05
    every_seed = np.tile(np.repeat([1.0, -1.0, 0.0], [12, 8, 44]), (3, 1))  # networks that no seed changes
    found = over_seeds_and_images(every_seed, Spread(0.0, 8))
    se = every_seed[0].std(ddof=1) / math.sqrt(64)
    assert (found.se_seeds, found.se_images, found.df) == (0, pytest.approx(se), math.inf)
    assert (found.low, found.high) == pytest.approx((0.0625 - 1.959964 * se, 0.0625 + 1.959964 * se))
    assert found.p == pytest.approx(2 * stats.norm.sf(0.0625 / se))
    same = over_seeds_and_images(np.zeros((2, 50)), Spread(0.0, 8))
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(("strategies", "seeds"), [(5, 2), (2, 3)])
def test_seeds_are_the_error_that_mcnemar_does_not_see(strategies, seeds):
    """Strategies that are alike, trainings that scatter: with both sources of error 5 % hold, with images alone not."""
    rng = np.random.default_rng(1)
    crossed, images_alone, grids = 0, 0, 400
    for _ in range(grids):
        hits = correctness(rng, strategies, seeds, 400, 0.25)
        table = {(str(t), s): hits[t, s].mean() for t in range(strategies) for s in range(seeds)}
        crossed += over_seeds_and_images(hits[1].astype(float) - hits[0], interaction_spread(table)).p <= 0.05
        images_alone += mcnemar(int((hits[1, 0] & ~hits[0, 0]).sum()), int((hits[0, 0] & ~hits[1, 0]).sum())) <= 0.05
    assert crossed / grids <= 0.05 + 0.033  # three standard errors of 400
    assert images_alone / grids > 0.2
