"""Peak memory as a linear function of tokens, under every reading of the method: which one the tables support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from famba.claims.audit.readings import READINGS, Reading, Training, design

Array = NDArray[np.float64]
RESAMPLES = 2000
_SEED = 0
_TIE = 1e-6  # of the squared error: two readings that fit alike


@dataclass(frozen=True)
class Fit:
    """peak = constant + per_token * (tokens seen by the mixers) + per_entering * (tokens entering fusing layers).

    MiB; tokens are summed over the layers of one image, the numbers are for all images on a GPU. `residuals`: measured
    less fitted, one per training.
    """

    reading: Reading
    constant: float
    per_token: float
    per_entering: float
    residuals: Array

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2)))


@dataclass(frozen=True)
class Choice:
    """How often refits choose as the fit on all trainings does, of those that can tell: without the training `lower`,
    for example, 18 and 19 layers fit alike.

    left_out: refits without one training that agree, and that can tell. resampled: share of the bootstrap resamples.
    """

    left_out: tuple[int, int]
    resampled: float


@dataclass(frozen=True)
class Uncertainty:
    """How far the best reading and its slope depend on single trainings.

    choices: by field of Reading. left_out: least and largest slope per token without one training. interval: 95 %
    bootstrap interval of the slope.
    """

    choices: Mapping[str, Choice]
    left_out: tuple[float, float]
    interval: tuple[float, float]


def peaks(found: Sequence[Training]) -> Array:
    """Measured peaks, MiB."""
    return np.array([one.row.memory_mib for one in found], dtype=np.float64)


def fit(found: Sequence[Training], reading: Reading) -> Fit:
    """Least squares on all trainings under one reading."""
    x, y = design(found, reading), peaks(found)
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    constant, per_token, per_entering = map(float, coefficients)
    return Fit(reading, constant, per_token, per_entering, residuals=y - x @ coefficients)


def fits(found: Sequence[Training], readings: Sequence[Reading] = READINGS) -> list[Fit]:
    """A fit per reading, the best first."""
    return sorted((fit(found, reading) for reading in readings), key=lambda one: one.rms)


def uncertainty(found: Sequence[Training], best: Reading, readings: Sequence[Reading] = READINGS) -> Uncertainty:
    """Leave-one-out and bootstrap over the trainings."""
    n = len(found)
    drawn = np.random.default_rng(_SEED).integers(n, size=(RESAMPLES, n))
    counts = np.stack([np.bincount(draw, minlength=n) for draw in drawn]).astype(np.float64)
    weights = np.concatenate([np.ones((n, n)) - np.eye(n), counts])
    y = peaks(found)
    slopes, errors = zip(*(_weighted(design(found, reading), y, weights) for reading in readings), strict=True)
    slope = slopes[list(readings).index(best)]
    choices = {}
    for field in ("placement", "start_shift", "lower_layers"):
        same = np.array([getattr(reading, field) == getattr(best, field) for reading in readings])
        ours, others = np.stack(errors)[same].min(axis=0), np.stack(errors)[~same].min(axis=0)
        tells = np.abs(ours - others) > _TIE * np.maximum(ours, others)
        agrees = tells & (ours < others)
        choices[field] = Choice(
            (int(agrees[:n].sum()), int(tells[:n].sum())), float(agrees[n:].sum() / max(1, tells[n:].sum()))
        )
    low, high = np.quantile(slope[n:], (0.025, 0.975))
    return Uncertainty(choices, (float(slope[:n].min()), float(slope[:n].max())), (float(low), float(high)))


def _weighted(x: Array, y: Array, weights: Array) -> tuple[Array, Array]:
    """Slope per token and squared error of a weighted fit, for each line of weights (m, n)."""
    scale = np.abs(x).max(axis=0)
    scaled = x / scale  # of the same size, so that the normal equations are well conditioned
    normal = np.einsum("mn,ni,nj->mij", weights, scaled, scaled)
    right = np.einsum("mn,ni,n->mi", weights, scaled, y)
    # a resample may hold too few distinct trainings for three coefficients: least squares of least norm then
    coefficients = np.einsum("mij,mj->mi", np.linalg.pinv(normal, hermitian=True), right)
    residuals = y - coefficients @ scaled.T
    return coefficients[:, 1] / scale[1], (weights * residuals**2).sum(axis=1)
