"""The statistics of networks that were tested on the same images: McNemar's test, and intervals of differences.

Two sources of error are kept apart. `mcnemar` and `difference_interval` compare two trained networks, whose difference
is known as far as the test images are a sample of such images. Strategies differ in the networks that they would give,
so that seeds are a sample as well: `over_seeds_and_images` carries both.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from famba.results.statistics import Spread

_Z = float(stats.norm.ppf(0.975))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of the exact McNemar test (1947): binomial, on the images that one network alone gets right.

    The hypothesis: on images of this kind, both networks have the same accuracy.
    """
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def difference_interval(only_first: int, only_second: int, images: int) -> tuple[float, float]:
    """The 95 % interval of the first accuracy less the second, both of the same images, as shares.

    Wald's, with half an image added to each of the four counts (Agresti and Min 2005, Stat. Med. 24, 729-740): it
    keeps its level also where few images or none are discordant.
    """
    n = images + 2
    centre = (only_first - only_second) / n
    half = _Z * math.sqrt((only_first + only_second + 1) / n - centre**2) / math.sqrt(n)
    return max(centre - half, -1.0), min(centre + half, 1.0)


def interaction_spread(accuracies: Mapping[tuple[str, int], float]) -> Spread:
    """How far one training of a strategy and seed scatters, once what the strategy and the seed do are taken out.

    Of accuracies by strategy and seed; cells may be missing. All strategies are taken to scatter alike.
    """
    rows, columns = (sorted({key[i] for key in accuracies}, key=str) for i in (0, 1))
    design = np.zeros((len(accuracies), len(rows) + len(columns)))
    for line, (strategy, seed) in zip(design, accuracies, strict=True):
        line[[rows.index(strategy), len(rows) + columns.index(seed)]] = 1
    values = np.array(list(accuracies.values()))
    fitted, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    df = len(values) - int(rank)
    if not df:
        return Spread(math.nan, 0)
    return Spread(float(np.linalg.norm(values - design @ fitted)) / math.sqrt(df), df)


class Crossed(NamedTuple):
    """A mean difference with its 95 % interval and two-sided p-value; the two parts of its standard error."""

    mean: float
    low: float
    high: float
    p: float
    se_seeds: float
    se_images: float
    df: float


def over_seeds_and_images(differences: NDArray[np.float64], cells: Spread) -> Crossed:
    """The mean of differences (seeds, images) of which both are samples, crossed.

    The analysis of multi-reader multi-case studies, seeds as readers and images as cases (Dorfman, Berbaum and Metz
    1992; Obuchowski and Rockette 1995), with the degrees of freedom of Hillis (2007, Stat. Med. 26, 596-619). A part of
    the variance that is estimated to be negative is taken as zero.

    Args:
        differences: correctness of one strategy less that of the other, in -1, 0, 1; two seeds or more.
        cells: what one training scatters by (`interaction_spread`), as a share, from all strategies of the model.
    """
    seeds, images = differences.shape
    by_seed, by_image, mean = differences.mean(axis=1), differences.mean(axis=0), float(differences.mean())
    rest = differences - by_seed[:, None] - by_image + mean
    unexplained = float((rest**2).sum()) / ((seeds - 1) * (images - 1)) / (seeds * images)
    of_images = max(float(by_image.var(ddof=1)) / images - unexplained, 0.0)
    # two trainings that scatter; never less than the sampling of images alone explains
    of_seeds = max(2 * cells.sd**2 / seeds, unexplained)
    se = math.sqrt(of_seeds + of_images)
    if se == 0:  # the same for every seed and image
        return Crossed(mean, mean, mean, float(mean == 0), 0.0, 0.0, math.inf)
    # without any part of seeds it is a normal mean over images
    df = cells.df * ((of_seeds + of_images) / of_seeds) ** 2 if of_seeds else math.inf
    half = float(stats.t.ppf(0.975, df)) * se
    p = 2 * float(stats.t.sf(abs(mean) / se, df))
    return Crossed(mean, mean - half, mean + half, p, math.sqrt(of_seeds), math.sqrt(of_images), df)
