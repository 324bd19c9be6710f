"""Time per epoch as a fixed part and a part in proportion to tokens, one after the other or at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from famba.claims.audit.readings import DEPTH, TOKENS, Reading, Training, design

Array = NDArray[np.float64]
EPOCHS = 300  # the paper's section 4
IMAGES_PER_EPOCH = 97 * 4 * 128  # steps of the released scripts: 4 GPUs, 128 images on each
# images/s of the forward pass on one A100, fp32, batch 128 (NVlabs/MambaVision, issue 13)
PUBLISHED_INFERENCE = {"vim_tiny": 1854, "vim_small": 782}
FORWARDS_PER_STEP = 3  # a backward pass costs about two forward passes
OVERLAPS = tuple(i / 20 for i in range(21))


@dataclass(frozen=True)
class Split:
    """Seconds per epoch = fixed + token * (mean share of tokens) + fusing * (mean share of tokens that enter a fusion).

    `fusing` is None where it is not fitted. `shares`: of tokens, one per training; `residuals`: measured less fitted.
    """

    fixed: float
    token: float
    fusing: float | None
    shares: Array
    seconds: Array
    residuals: Array

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2)))


@dataclass(frozen=True)
class Overlap:
    """seconds = longer + (1 - overlap) * shorter of the fixed part and the token part; 0 is a sum, 1 a maximum."""

    overlap: float
    fixed: float
    token: float
    rms: float


def shares(found: Sequence[Training], reading: Reading) -> Array:
    """Mean share of the 197 tokens over the 24 layers: seen by the mixers, and entering a fusion. Shape (n, 2)."""
    return design(found, reading)[:, 1:] / (DEPTH * TOKENS)


def seconds_per_epoch(found: Sequence[Training]) -> Array:
    """Printed time of the whole training, evaluation included, over 300 epochs."""
    return np.array([one.row.time_s for one in found], dtype=np.float64) / EPOCHS


def split(found: Sequence[Training], reading: Reading, fusing: bool = False) -> Split:
    """Least squares: a fixed part, a token part and, where asked for, a part for fusing."""
    share, y = shares(found, reading), seconds_per_epoch(found)
    x = np.column_stack([np.ones(len(y)), share if fusing else share[:, :1]])
    b = np.linalg.lstsq(x, y, rcond=None)[0]
    return Split(float(b[0]), float(b[1]), float(b[2]) if fusing else None, share[:, 0], y, y - x @ b)


def overlaps(found: Sequence[Training], reading: Reading) -> list[Overlap]:
    """The best fit for each degree of overlap, from a sum to a maximum."""
    share, y = shares(found, reading)[:, 0], seconds_per_epoch(found)
    return [min(_fits(overlap, share, y), key=lambda one: one.rms) for overlap in OVERLAPS]


def _fits(overlap: float, share: Array, y: Array) -> Iterator[Overlap]:
    """Candidates: the function is linear while the same trainings have the longer token part, and bends between.

    The best of them is the least-squares fit: it lies inside one linear piece, or where a training has equal parts.
    """
    rest = 1 - overlap
    for border in (np.inf, *np.unique(share)):  # trainings with this share or more have the longer token part
        longer = share >= border
        x = np.column_stack([np.where(longer, rest, 1.0), np.where(longer, 1.0, rest) * share])
        fixed, token = np.linalg.lstsq(x, y, rcond=None)[0]
        yield _overlap(overlap, float(fixed), float(token), share, y)
        if np.isfinite(border):  # equal parts at this very share
            x = np.maximum(border, share) + rest * np.minimum(border, share)
            token = float(x @ y / (x @ x))
            yield _overlap(overlap, token * float(border), token, share, y)


def _overlap(overlap: float, fixed: float, token: float, share: Array, y: Array) -> Overlap:
    work = token * share
    fitted = np.maximum(fixed, work) + (1 - overlap) * np.minimum(fixed, work)
    rms = float(np.sqrt(np.mean((y - fitted) ** 2))) if fixed >= 0 and token >= 0 else float("inf")
    return Overlap(overlap, fixed, token, rms)
