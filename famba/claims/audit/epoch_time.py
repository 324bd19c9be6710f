"""Time per epoch as a fixed part and a part in proportion to tokens, one after the other or at the same time."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from famba.claims.audit.memory import fits, rms
from famba.claims.audit.readings import AS_PRINTED, DEPTH, TOKENS, Reading, Training, design
from famba.config.validation import Strict

Array = NDArray[np.float64]
EPOCHS = 300  # the paper's section 4
IMAGES_PER_EPOCH = 97 * 4 * 128  # steps of the released scripts: 4 GPUs, 128 images on each
# images/s of the forward pass on one A100, fp32, batch 128 (NVlabs/MambaVision, issue 13)
PUBLISHED_INFERENCE = {"vim_tiny": 1854, "vim_small": 782}
FORWARDS_PER_STEP = 3  # a backward pass costs about two forward passes
OVERLAPS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Split(Strict):
    """Seconds per epoch = fixed + token * (mean share of tokens) + fusing * (mean share of tokens that enter a fusion).

    `fusing` is 0 where it is not fitted.
    """

    trainings: int
    fixed_s_per_epoch: float
    token_s_per_epoch: float
    fusing_s_per_epoch: float
    rms_s: float


class EpochTime(Strict):
    """Seconds per epoch of Table 1 = fixed + token * (mean share of tokens), under the text's reading."""

    fixed_s_per_epoch: float
    token_s_per_epoch: float
    rms_s: float
    fixed_share: float
    images_per_s_if_fixed_is_loading: float
    images_per_s_of_the_token_part: float
    inference_images_per_s_one_a100: int
    gpus_implied: float
    upper_saves: float
    upper_would_save_without_the_fixed_part: float
    overlap_rms_s: dict[str, float]
    with_fusing: Split  # of every distinct training of a model, under the reading that its memory supports


def time_of(found: Sequence[Training], model: str) -> EpochTime:
    """All that the trainings of a model say about time."""
    table1 = [one for one in found if one.row.table == 1]
    text = split(table1, AS_PRINTED)
    rate, inference = IMAGES_PER_EPOCH / text.token_s_per_epoch, PUBLISHED_INFERENCE[model]
    by_name = {one.row.strategy: i for i, one in enumerate(table1)}
    none, upper = by_name["baseline"], by_name["upper"]
    seconds, share = seconds_per_epoch(table1), shares(table1, AS_PRINTED)[:, 0]
    return EpochTime(
        fixed_s_per_epoch=text.fixed_s_per_epoch,
        token_s_per_epoch=text.token_s_per_epoch,
        rms_s=text.rms_s,
        fixed_share=text.fixed_s_per_epoch / float(seconds[none]),
        images_per_s_if_fixed_is_loading=IMAGES_PER_EPOCH / text.fixed_s_per_epoch,
        images_per_s_of_the_token_part=rate,
        inference_images_per_s_one_a100=inference,
        gpus_implied=rate / (inference / FORWARDS_PER_STEP),
        upper_saves=float(1 - seconds[upper] / seconds[none]),
        upper_would_save_without_the_fixed_part=float(1 - share[upper] / share[none]),
        overlap_rms_s={f"{overlap:.2f}": overlap_rms(found, overlap) for overlap in OVERLAPS},
        with_fusing=split(found, fits(found)[0].reading, fusing=True),
    )


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
    return Split(
        trainings=len(found),
        fixed_s_per_epoch=float(b[0]),
        token_s_per_epoch=float(b[1]),
        fusing_s_per_epoch=float(b[2]) if fusing else 0.0,
        rms_s=rms(y - x @ b),
    )


def overlap_rms(found: Sequence[Training], overlap: float) -> float:
    """rms of the best fit of seconds = longer + (1 - overlap) * shorter of the fixed part and the token part.

    Overlap 0 is their sum, 1 their maximum. The function is linear while the same trainings have the longer token part,
    and bends between: the least-squares fit lies inside one linear piece, or where a training has equal parts.
    """
    share, y = shares(found, AS_PRINTED)[:, 0], seconds_per_epoch(found)

    def misfit(fixed: float, token: float) -> float:
        work = token * share
        fitted = np.maximum(fixed, work) + (1 - overlap) * np.minimum(fixed, work)
        return rms(y - fitted) if fixed >= 0 and token >= 0 else float("inf")

    return min(misfit(fixed, token) for fixed, token in _candidates(overlap, share, y))


def _candidates(overlap: float, share: Array, y: Array) -> Iterator[tuple[float, float]]:
    """Fixed part and token part of the best fit in each linear piece, and at each bend."""
    rest = 1 - overlap
    for border in (np.inf, *np.unique(share)):  # trainings with this share or more have the longer token part
        longer = share >= border
        x = np.column_stack([np.where(longer, rest, 1.0), np.where(longer, 1.0, rest) * share])
        fixed, token = np.linalg.lstsq(x, y, rcond=None)[0]
        yield float(fixed), float(token)
        if np.isfinite(border):  # equal parts at this very share
            x = np.maximum(border, share) + rest * np.minimum(border, share)
            token = float(x @ y / (x @ x))
            yield token * float(border), token
