"""The tests behind verdicts and gate: against scipy, against published numbers, and their levels by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from famba.results.statistics import (
    ALPHA,
    Region,
    Spread,
    accuracy_error,
    dominates,
    every,
    holm,
    interval,
    mann_whitney_greater,
    mean_in,
    pooled_spread,
    some,
    standard_deviation,
    welch_less,
)

RNG_GRIDS = 4000


def drawn(mean: float, n: int, sd: float = 1.0) -> np.ndarray:
    return np.random.default_rng(n).normal(mean, sd, (RNG_GRIDS, n))


@pytest.mark.parametrize("values", [[70.1, 71.3, 69.8], [3.0, 3.2, 2.9, 3.4, 3.05]])
def test_without_noise_the_tests_are_students(values):
    evidence = mean_in(np.array(values), Region(low=3.0))
    for p, alternative in ((evidence.p_inside, "greater"), (evidence.p_outside, "less")):
        assert p == pytest.approx(stats.ttest_1samp(values, 3.0, alternative=alternative).pvalue, rel=1e-9)


def test_equivalence_is_two_one_sided_tests():
    values = np.array([0.1, -0.05, 0.02, 0.08])
    ends = [stats.ttest_1samp(values, end, alternative=side).pvalue for end, side in ((-0.2, "greater"), (0.2, "less"))]
    assert mean_in(values, Region(-0.2, 0.2)).p_inside == pytest.approx(max(ends))


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("noise", [0.0, 1.96])
@pytest.mark.parametrize("sd", [0.1, 7.0])
def test_levels_at_the_ends_of_a_region(n, noise, sd):
    """Known truth: the mean stands at an end, where it is hardest to tell. Each error is made in 5 % of the cases."""
    region = Region(low=60.0, noise=noise)
    evidence = mean_in(drawn(60.0 - noise * sd, n, sd), region)
    for p in (evidence.p_inside, evidence.p_outside):
        assert np.mean(p <= ALPHA) == pytest.approx(0.05, abs=0.011)  # three standard errors of 4,000


def test_a_region_of_two_ends_is_not_left_too_easily():
    evidence = mean_in(drawn(0.0, 5), Region(0.0, 0.0))
    assert np.mean(evidence.p_outside <= ALPHA) == pytest.approx(0.05, abs=0.011)
    assert not np.any(evidence.p_inside <= ALPHA)  # nothing lies within a point


def test_wide_regions_hold_what_narrow_ones_cannot():
    values = drawn(0.0, 3)
    assert np.mean(mean_in(values, Region(0, 0, noise=1.96)).p_inside <= ALPHA) > 0.7
    assert np.mean(mean_in(values, Region(0, 0, noise=0.5)).p_inside <= ALPHA) < 0.3


def test_values_without_spread_are_compared_as_they_are():
    same = np.full(3, 0.7)
    for region, inside in ((Region(high=0.8), True), (Region(high=0.7), True), (Region(low=0.8), False)):
        evidence = mean_in(same, region)
        assert (evidence.p_inside, evidence.p_outside) == ((0, 1) if inside else (1, 0))
    evidence = mean_in(np.array([5.0]), Region(5, 5))
    assert (evidence.p_inside, evidence.p_outside) == (0, 1)


def test_equal_values_of_a_quantity_that_is_counted_are_known_to_a_step_only():
    same, step = np.full(3, 0.7), 0.1
    t = 0.1 / (step / 12**0.5 / 3**0.5)
    assert mean_in(same, Region(low=0.6), step).p_inside == pytest.approx(stats.t.sf(t, 2), rel=1e-6)
    tied = mean_in(same, Region(low=0.7), step)
    assert (tied.p_inside, tied.p_outside) == (0.5, 0.5)  # mean_in(same, Region(low=0.7)).p_inside is 0
    almost = same + np.array([0, 1.2e-16, 0])  # what rounding leaves of equal differences
    assert mean_in(almost, Region(low=0.6), step).p_inside == pytest.approx(stats.t.sf(t, 2), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3])
def test_levels_hold_on_a_test_set_of_few_images(n):
    """Counts that often tie: the mean lies at the end, and is called inside in 5 % of the cases at most."""
    counts = np.random.default_rng(n).normal(0, 0.8, (RNG_GRIDS, n)).round()
    assert np.mean(mean_in(counts, Region(low=0.0), 1.0).p_inside <= ALPHA) < 0.061
    assert np.mean(mean_in(counts, Region(low=0.0)).p_inside <= ALPHA) > 0.1  # without the step


def test_a_tie_in_accuracy_is_not_shown_to_be_no_loss():
    tie = np.stack([np.zeros(4), np.full(4, 0.2)])
    assert dominates(tie)[0] == 0
    assert dominates(tie, np.array([0.01, 0.0]))[0] == 0.5


def test_interval_of_known_values():
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert interval([1.0]) is None


def test_equal_values_have_no_spread_whatever_rounding_leaves():
    """np.std of three equal accuracies is above zero for every seventh number of right images of 10,000."""
    equal = 100 * np.repeat(np.arange(10_000)[:, None], 3, axis=1) / 10_000
    assert np.count_nonzero(equal.std(axis=1, ddof=1)) > 1000
    assert not standard_deviation(equal).any()
    assert all(pooled_spread([values]).sd == 0 for values in equal[np.flatnonzero(equal.std(axis=1))[:50]].tolist())


def test_equal_accuracies_have_the_interval_that_their_test_is_of():
    half = interval([20.0, 20.0, 20.0], 0.01)
    assert half == pytest.approx(4.302653 * 0.01 / 12**0.5 / 3**0.5, rel=1e-6)
    at_its_end = mean_in(np.full(3, 20.0), Region(low=20.0 - half), 0.01)
    assert at_its_end.p_inside == pytest.approx(0.025, rel=1e-5)
    assert interval([20.0, 20.0, 20.0]) == 0  # of a quantity that is not counted
    assert interval([20.0, 20.1, 20.2], 0.01) == interval([20.0, 20.1, 20.2])


@pytest.mark.parametrize(("hits", "images"), [(320, 360), (0, 360), (360, 360), (2864, 10_000)])
def test_the_test_sets_own_error_is_wilsons_interval(hits, images):
    ends = stats.binomtest(hits, images).proportion_ci(method="wilson")
    assert accuracy_error(100 * hits / images, images) == pytest.approx(50 * (ends.high - ends.low), rel=1e-9)


def test_two_values_have_no_interval():
    """It would be ± 6.4 times their distance: wide enough to say nothing, and read as a result."""
    assert stats.t.ppf(0.975, 1) / 2 == pytest.approx(6.353, abs=1e-3)
    assert interval([70.0, 71.0]) is None


def test_holms_textbook_example():
    """Holm (1979) on four p-values, worked out by hand."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni(p):
    p = np.array(p)
    adjusted = holm(p)
    assert np.all(adjusted >= p)
    assert np.all(adjusted <= np.minimum(p * len(p), 1) + 1e-12)
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0)


@pytest.mark.parametrize("combined", [every, some])
def test_errors_of_combined_claims(combined):
    """Eight independent parts, all on the border: the family's error stays at 5 % on both sides."""
    rng = np.random.default_rng(1)
    parts = [mean_in(rng.normal(0, 1, (RNG_GRIDS, 5)), Region(low=0)) for _ in range(8)]
    together = combined(parts)
    for p in (together.p_inside, together.p_outside):
        assert np.mean(p <= ALPHA) <= 0.05 + 0.011


def test_dominance_needs_every_objective():
    better = np.array([[1.0, 1.1, 0.9, 1.05], [2.0, 2.2, 1.9, 2.1]])
    p, share = dominates(better)
    assert p < 0.001
    assert share == pytest.approx(1)
    worse_in_one = better * np.array([[1.0], [-1.0]])
    assert dominates(worse_in_one)[0] > 0.99
    assert dominates(worse_in_one)[1] == 0
    tie = np.stack([better[0], np.zeros(4)])  # an exact tie is not worse
    assert dominates(tie)[0] < 0.001
    assert dominates(np.zeros((2, 4)))[1] == 0  # a tie in everything dominates nothing


@pytest.mark.parametrize("n", [3, 6, 9])
def test_the_bootstraps_share_is_that_of_drawing(n):
    """Listed resamples (to n = 6) and drawn ones give what a plain bootstrap gives."""
    rng = np.random.default_rng(5)
    values = rng.normal(0.3, 1, (2, n))
    means = values[:, rng.integers(n, size=(40_000, n))].mean(axis=2)
    assert dominates(values)[1] == pytest.approx(np.mean((means >= 0).all(axis=0)), abs=0.02)


def test_three_seeds_agree_by_chance():
    """Why the bootstrap alone does not decide: no difference at all, and an eighth of the grids is unanimous."""
    _, share = dominates(drawn(0.0, 3)[:, None, :])
    assert np.mean(np.isclose(share, 1)) == pytest.approx(1 / 8, abs=0.02)


def test_pooled_spread():
    assert pooled_spread([[1.0, 3.0], [10.0, 10.0, 13.0]]) == (pytest.approx(math.sqrt((2 + 6) / 3)), 3)
    assert pooled_spread([[1.0], [2.0]]).df == 0
    assert pooled_spread([]).df == 0


@pytest.mark.parametrize(("new", "old"), [([1.0, 2.0, 4.0], [3.0, 3.5, 5.0, 4.0]), ([9.0, 9.5], [1.0, 8.0, 2.0])])
def test_welch_is_scipys(new, old):
    expected = stats.ttest_ind(new, old, equal_var=False, alternative="less").pvalue
    assert welch_less(new, old, pooled_spread([new]), pooled_spread([old])) == pytest.approx(expected)


def test_welch_without_spread():
    none = Spread(0.0, 2)
    assert welch_less([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], none, none) == 0
    assert welch_less([2.0, 2.0, 2.0], [2.0, 2.0, 2.0], none, none) == 1


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_unchanged_program_is_called_worse_at_the_level(seeds):
    """Ten cells of which none changed, the frozen ones with three seeds: at 1 %, Holm's correction for all of them."""
    rng = np.random.default_rng(seeds)
    alarms = 0
    for _ in range(2000):
        old, new = rng.normal(90, 0.7, (10, 3)).tolist(), rng.normal(90, 0.7, (10, seeds)).tolist()
        spreads = pooled_spread(new), pooled_spread(old)
        p = [welch_less(now, then, *spreads) for now, then in zip(new, old, strict=True)]
        alarms += holm(np.array(p)).min() < 0.01
    assert alarms / 2000 <= 0.01 + 0.007  # three standard errors


def test_mann_whitney_by_hand():
    """All three above all three: one arrangement of twenty."""
    assert mann_whitney_greater([4.0, 5.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(1 / 20)
