"""The statistics behind verdicts and the regression gate. Values have the seeds on their last axis, (..., n).

A claim says that a mean lies in a region. Two one-sided tests, each at level `ALPHA`, decide (Schuirmann 1987; Wellek,
Testing Statistical Hypotheses of Equivalence and Noninferiority, 2nd ed. 2010, §5): shown to lie inside, shown to lie
outside, or neither. A difference that is not significant is never taken for agreement.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
ALPHA = 0.05
MIN_INTERVAL = 3  # an interval of two values is 12.7 times as wide as they lie apart
MIN_BOOTSTRAP = 10_000  # resamples where they are too many to list


@dataclass(frozen=True)
class Region:
    """Means from `low` to `high`, both ends moved outwards by `noise` standard deviations of a single seed.

    With `noise` the width is known as well as the spread is, so the tests are those of a standardised margin: the
    statistic is noncentral t at the region's ends (Wellek 2010, §5.3).
    """

    low: float = -math.inf
    high: float = math.inf
    noise: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """p-values, (...): a small `p_inside` shows the mean to lie in the region, a small `p_outside` shows it not to."""

    p_inside: Array
    p_outside: Array


def standard_deviation(values: Array, step: float | Array = 0.0) -> Array:
    """Standard deviation (...) of a single value, from values (..., n): 0 of equal ones, and of one alone.

    `step` (...): the distance between neighbouring values of a quantity that is counted, such as one image of an
    accuracy. Its values can be equal by chance: their standard deviation is at least that of rounding, step / sqrt(12).
    """
    n = values.shape[-1]
    # equal values have no spread: computed, it would be a rounding error's
    found = np.where(np.ptp(values, axis=-1) == 0, 0, values.std(axis=-1, ddof=min(n - 1, 1)))
    return np.maximum(found, np.divide(step, math.sqrt(12)))


def mean_in(values: Array, region: Region, step: float | Array = 0.0) -> Evidence:
    """Test on which side of a region's ends the mean of values (..., n) lies. `step`: see `standard_deviation`.

    Equal values of a quantity without a step are taken to be free of chance; a single one must be.
    """
    n = values.shape[-1]
    constant = np.ptp(values, axis=-1) == 0
    mean = np.where(constant, values[..., 0], values.mean(axis=-1))
    spread = standard_deviation(values, step)
    df, shift = max(n - 1, 1), region.noise * math.sqrt(n)

    def beyond(distance: Array) -> tuple[Array, Array]:
        """p-values for the inner and for the outer side of an end, the mean so far inside of it."""
        scale = np.where(spread > 0, spread, 1) / math.sqrt(n)
        t = np.where(spread > 0, distance / scale, np.where(distance >= 0, np.inf, -np.inf))
        finite = np.clip(t, -1e6, 1e6)
        # by symmetry P(T >= t | -shift) = P(T <= -t | shift)
        return (
            np.where(np.isinf(t), t < 0, stats.nct.cdf(-finite, df, shift)),
            np.where(np.isinf(t), t > 0, stats.nct.sf(-finite, df, shift)),
        )

    ends = []
    if region.low > -math.inf:
        ends.append(beyond(mean - region.low))
    if region.high < math.inf:
        ends.append(beyond(region.high - mean))
    inside = np.max([inner for inner, _ in ends], axis=0)
    outside = np.minimum(len(ends) * np.min([outer for _, outer in ends], axis=0), 1)
    return Evidence(inside, outside)


def interval(values: Sequence[float], step: float = 0.0) -> float | None:
    """Half-width of the 95 % interval of the mean (Student t); None for fewer than `MIN_INTERVAL` values.

    `step`: see `standard_deviation`.
    """
    n = len(values)
    if n < MIN_INTERVAL:
        return None
    return float(stats.t.ppf(0.975, n - 1) * standard_deviation(np.array(values), step)) / n**0.5


def accuracy_error(percent: float, images: int) -> float:
    """Half-width in points of the 95 % interval of an accuracy on so many images (Wilson 1927).

    It is the chance of which images are in the test set, and no number of seeds makes it smaller.
    """
    z, p = float(stats.norm.ppf(0.975)), percent / 100
    return 100 * z / (1 + z**2 / images) * math.sqrt(p * (1 - p) / images + (z / (2 * images)) ** 2)


def every(parts: Sequence[Evidence]) -> Evidence:
    """All parts inside: an intersection-union test (Berger 1982), so no correction. Any outside: Holm's first step."""
    inside, outside = (np.stack([getattr(part, side) for part in parts], axis=-1) for side in ("p_inside", "p_outside"))
    return Evidence(inside.max(axis=-1), holm(outside).min(axis=-1))


def some(parts: Sequence[Evidence]) -> Evidence:
    """At least one part inside: the reverse of `every`."""
    reverse = every([Evidence(part.p_outside, part.p_inside) for part in parts])
    return Evidence(reverse.p_outside, reverse.p_inside)


def holm(p: Array) -> Array:
    """Holm's (1979) adjusted p-values over the last axis: the family's error rate holds without independence."""
    m = p.shape[-1]
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(m, 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(steps, axis=-1), 1)
    out = np.empty_like(adjusted)
    np.put_along_axis(out, order, adjusted, axis=-1)
    return out


def dominates(advantages: Array, steps: float | Array = 0.0) -> tuple[Array, Array]:
    """Pareto dominance of one cell over another.

    Args:
        advantages: (..., objectives, n), paired by seed, positive where the first is better.
        steps: (objectives,) as `standard_deviation` takes them.

    Returns:
        p-value (...) that it is better in every objective (intersection-union of paired t tests; an exact tie of a
        quantity without a step counts as not worse), and the share (...) of bootstrap resamples of the seeds in which
        its means dominate. With few seeds the bootstrap alone would decide too easily (with three, all resamples agree
        by chance in one case of eight), so that a verdict needs both.
    """
    p = mean_in(advantages, Region(low=0.0), steps).p_inside.max(axis=-1)
    weights, probability = _resamples(advantages.shape[-1])
    means = advantages @ weights.T  # (..., objectives, resamples)
    dominant = (means >= 0).all(axis=-2) & (means > 0).any(axis=-2)
    return p, dominant @ probability


def _resamples(n: int) -> tuple[Array, Array]:
    """Weights (R, n) of the seeds in the bootstrap's resamples, and their probabilities: all there are up to n = 6."""
    if n > 6:
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=MIN_BOOTSTRAP)
        return drawn / n, np.full(len(drawn), 1 / len(drawn))
    counts = np.array([np.bincount(draw, minlength=n) for draw in combinations_with_replacement(range(n), n)])
    ways = np.array([math.factorial(n) / math.prod(map(math.factorial, count)) for count in counts.tolist()])
    return counts / n, ways / n**n


class Spread(NamedTuple):
    """A standard deviation and the degrees of freedom that it is known with; NaN and 0 where it is not."""

    sd: float
    df: int


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread:
    """Spread within groups, pooled over them."""
    groups = [group for group in groups if len(group) > 1]
    df = sum(len(group) - 1 for group in groups)
    if not df:
        return Spread(math.nan, 0)
    squares = (float(standard_deviation(np.array(group))) ** 2 * (len(group) - 1) for group in groups)
    return Spread(math.sqrt(sum(squares) / df), df)


def welch_less(new: Sequence[float], old: Sequence[float], of_new: Spread, of_old: Spread) -> float:
    """One-sided p-value that the mean of `new` is below that of `old` (Welch 1947).

    With the spreads of the samples themselves this is Welch's test. Spreads pooled over more groups, where they may be
    taken to be alike, give it more degrees of freedom. With an unknown spread of the new values (one seed) it is the
    test that they lie below what the old ones predict (Hahn 1969): the old spread holds for both.
    """
    difference = float(np.mean(new) - np.mean(old))
    if of_new.df:
        variances = [(of_new.sd**2 / len(new), of_new.df), (of_old.sd**2 / len(old), of_old.df)]
    else:
        variances = [(of_old.sd**2 * (1 / len(new) + 1 / len(old)), of_old.df)]
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return 0.0 if difference < 0 else 1.0
    df = total**2 / sum(variance**2 / df for variance, df in variances)
    return float(stats.t.cdf(difference / math.sqrt(total), df))


def mann_whitney_greater(new: Sequence[float], old: Sequence[float]) -> float:
    """One-sided p-value that `new` tends to be larger than `old` (Mann and Whitney 1947): times are skewed."""
    return float(stats.mannwhitneyu(new, old, alternative="greater").pvalue)
