"""Peak memory as a linear function of tokens, under every reading of the method: which one the tables support."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from famba.claims.audit.readings import READINGS, Placement, Reading, Training, design
from famba.config import Recipe
from famba.config.protocol import MODELS
from famba.config.validation import Strict
from famba.flops import cost

Array = NDArray[np.float64]
RESAMPLES = 2000
IMAGES_PER_GPU = 128  # the released scripts' batch on each GPU
_SEED = 0
_TIE = 1e-6  # of the squared error: two readings that fit alike
_MIB, _FLOAT = 2**20, 4


class MemoryReading(Strict):
    """A fit of peak memory under one reading of the method:

    peak = constant + per token * (tokens seen by the mixers) + per fusing token * (tokens that enter a layer that
    fuses). MiB; tokens are summed over the layers of one image, the numbers are for all images on a GPU.
    """

    placement: Placement
    start_shift: int
    lower_layers: int
    rms_mib: float
    constant_mib: float
    mib_per_token: float
    mib_per_fusing_token: float

    @property
    def reading(self) -> Reading:
        return Reading(self.placement, self.start_shift, self.lower_layers)


class Support(Strict):
    """How many refits without one training, and which share of bootstrap resamples, choose as the best reading does.

    Counted are refits that can tell: without the training `lower`, for example, 18 and 19 layers fit alike.
    """

    left_out: tuple[int, int]
    resampled: float


class Memory(Strict):
    """Peak memory of one model's distinct trainings, every reading of the method, best first."""

    trainings: int
    best: MemoryReading
    readings: list[MemoryReading]
    residuals_mib: dict[str, float]
    support: dict[str, Support]
    mib_per_token_interval: tuple[float, float]
    floats_per_channel: float
    floats_per_channel_released: float
    floats_per_channel_this_project: float


def memory_of(found: Sequence[Training], model: str) -> Memory:
    """All that the trainings of a model say about memory."""
    every = fits(found)
    best, dim = every[0], MODELS[model].embed_dim
    support, interval = uncertainty(found, best.reading)
    return Memory(
        trainings=len(found),
        best=best,
        readings=every,
        residuals_mib={one.name: float(r) for one, r in zip(found, peaks(found) - fitted(found, best), strict=True)},
        support=support,
        mib_per_token_interval=interval,
        # float32 values per token, layer and channel that the slope stands for
        floats_per_channel=best.mib_per_token * _MIB / _FLOAT / IMAGES_PER_GPU / dim,
        floats_per_channel_released=sum(released_block(model).values()) / dim,
        floats_per_channel_this_project=project_count(model) / dim,
    )


def peaks(found: Sequence[Training]) -> Array:
    """Measured peaks, MiB."""
    return np.array([one.row.memory_mib for one in found], dtype=np.float64)


def fits(found: Sequence[Training]) -> list[MemoryReading]:
    """Least squares on all trainings under each reading, the best first."""
    y, every = peaks(found), []
    for reading in READINGS:
        x = design(found, reading)
        b = np.linalg.lstsq(x, y, rcond=None)[0]
        constant, token, fusing = map(float, b)
        every.append(
            MemoryReading(
                **vars(reading), rms_mib=rms(y - x @ b),
                constant_mib=constant, mib_per_token=token, mib_per_fusing_token=fusing,
            )
        )  # fmt: skip
    return sorted(every, key=lambda one: one.rms_mib)


def fitted(found: Sequence[Training], fit: MemoryReading) -> Array:
    """Peaks that a fit gives, MiB."""
    b = fit.constant_mib, fit.mib_per_token, fit.mib_per_fusing_token
    return np.asarray(design(found, fit.reading) @ np.array(b))


def rms(residuals: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(residuals**2)))


def uncertainty(found: Sequence[Training], best: Reading) -> tuple[dict[str, Support], tuple[float, float]]:
    """Leave-one-out and bootstrap over the trainings: support by field of Reading, and the slope's 95 % interval."""
    n = len(found)
    drawn = np.random.default_rng(_SEED).integers(n, size=(RESAMPLES, n))
    counts = np.stack([np.bincount(draw, minlength=n) for draw in drawn]).astype(np.float64)
    weights = np.concatenate([np.ones((n, n)) - np.eye(n), counts])
    y = peaks(found)
    slopes, errors = zip(*(_weighted(design(found, reading), y, weights) for reading in READINGS), strict=True)
    support = {}
    for field in ("placement", "start_shift", "lower_layers"):
        same = np.array([getattr(reading, field) == getattr(best, field) for reading in READINGS])
        ours, others = np.stack(errors)[same].min(axis=0), np.stack(errors)[~same].min(axis=0)
        tells = np.abs(ours - others) > _TIE * np.maximum(ours, others)
        agrees = tells & (ours < others)
        support[field] = Support(
            left_out=(int(agrees[:n].sum()), int(tells[:n].sum())),
            resampled=float(agrees[n:].sum() / max(1, tells[n:].sum())),
        )
    low, high = np.quantile(slopes[READINGS.index(best)][n:], (0.025, 0.975))
    return support, (float(low), float(high))


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


def released_block(model: str) -> dict[str, int]:
    """Float32 values per token that the released block (hustvl/Vim at dd0358a) saves for the backward pass.

    One bidirectional mixer whose fused kernel recomputes convolution and delta; d is the embedding dimension.
    """
    architecture = MODELS[model]
    d, inner = architecture.embed_dim, architecture.expand * architecture.embed_dim
    rank = -(-d // 16)
    return {
        "residual stream": d,
        "normed input of the mixer": d,
        "x and z": 2 * inner,
        "their reversed copy": 2 * inner,
        "outputs of both directions": 2 * inner,
        "sum of the outputs": inner,
        "delta's low rank, B and C, both directions": 2 * (rank + 2 * architecture.d_state),
    }


def project_count(model: str) -> float:
    """Float32 values per token of one unfused layer, by this project's cost model with the mamba-ssm scan in fp32."""
    architecture = MODELS[model]
    layer = cost(architecture, (0,) * architecture.depth, Recipe(precision="fp32"), 100, "mamba_ssm").layers[0]
    return layer.saved / _FLOAT / layer.tokens
