"""audit.json: all findings of an audit. Its JSON schema is config/schema/audit.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from famba.claims.audit import epoch_time, memory, saved
from famba.claims.audit.readings import Reading, Training, trainings
from famba.claims.audit.statements import MODELS, claims
from famba.claims.published import PublishedRow
from famba.config.protocol import MODELS as ARCHITECTURES
from famba.config.validation import Strict

TOLD = Reading()  # the paper's text


class MemoryReading(Strict):
    """A fit of peak memory under one reading of the method. MiB; residuals are measured less fitted, by training."""

    placement: Literal["before", "after"]
    start_shift: int
    lower_layers: int
    rms_mib: float
    constant_mib: float
    mib_per_token: float
    mib_per_fusing_token: float


class Support(Strict):
    """How many refits without one training, and which share of bootstrap resamples, choose as the best reading does."""

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


class Split(Strict):
    """Seconds per epoch = fixed + token * (mean share of tokens) + fusing * (mean share that enters a fusion).

    Of every distinct training of a model, under the reading that its memory supports.
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
    with_fusing: Split


class ClaimFound(Strict):
    """A statement of the paper compared with its tables; `borne_out` is null where the paper makes no claim."""

    id: str
    statement: str
    where: str
    interpretation: str
    borne_out: bool | None
    exceptions: list[str]
    remarks: list[str]


class Document(Strict):
    """Everything that an audit finds. `memory` is Vim-Ti's 26 trainings; `memory_vim_small` has five only."""

    version: Literal[1] = 1
    source: str
    memory: Memory
    memory_vim_small: Memory
    time: dict[str, EpochTime]
    claims: list[ClaimFound]


def audit(rows: Sequence[PublishedRow], source: str) -> Document:
    """Every finding. Raises InputError if the rows are not the paper's three tables."""
    found = {model: trainings(rows, model) for model in MODELS}
    return Document(
        source=source,
        memory=_memory(found["vim_tiny"], "vim_tiny"),
        memory_vim_small=_memory(found["vim_small"], "vim_small"),
        time={model: _time(found[model], model) for model in MODELS},
        claims=[
            ClaimFound(
                id=one.id,
                statement=one.statement,
                where=one.where,
                interpretation=one.interpretation,
                borne_out=one.borne_out,
                exceptions=one.exceptions,
                remarks=list(one.remarks),
            )
            for one in claims(rows)
        ],
    )


def json_schema() -> dict[str, Any]:
    """JSON schema of audit.json."""
    return Document.model_json_schema(mode="serialization")


def _memory(found: Sequence[Training], model: str) -> Memory:
    fits = memory.fits(found)
    best = fits[0]
    doubt = memory.uncertainty(found, best.reading)
    dim = ARCHITECTURES[model].embed_dim
    return Memory(
        trainings=len(found),
        best=_reading(best),
        readings=[_reading(one) for one in fits],
        residuals_mib={one.name: float(r) for one, r in zip(found, best.residuals, strict=True)},
        support={name: Support(left_out=c.left_out, resampled=c.resampled) for name, c in doubt.choices.items()},
        mib_per_token_interval=doubt.interval,
        floats_per_channel=saved.floats_per_channel(best.per_token, dim),
        floats_per_channel_released=sum(saved.released_block(model).values()) / dim,
        floats_per_channel_this_project=saved.project_count(model) / dim,
    )


def _reading(fit: memory.Fit) -> MemoryReading:
    return MemoryReading(
        placement="before" if fit.reading.placement == "before mixer" else "after",
        start_shift=fit.reading.start_shift,
        lower_layers=fit.reading.lower_layers,
        rms_mib=fit.rms,
        constant_mib=fit.constant,
        mib_per_token=fit.per_token,
        mib_per_fusing_token=fit.per_entering,
    )


def _time(found: Sequence[Training], model: str) -> EpochTime:
    table1 = [one for one in found if one.row.table == 1]
    split = epoch_time.split(table1, TOLD)
    rate = epoch_time.IMAGES_PER_EPOCH / split.token
    one_gpu = epoch_time.PUBLISHED_INFERENCE[model] / epoch_time.FORWARDS_PER_STEP
    by_name = {one.row.strategy: i for i, one in enumerate(table1)}
    none, upper = by_name["baseline"], by_name["upper"]
    overlaps = epoch_time.overlaps(found, TOLD)
    return EpochTime(
        fixed_s_per_epoch=split.fixed,
        token_s_per_epoch=split.token,
        rms_s=split.rms,
        fixed_share=split.fixed / float(split.seconds[none]),
        images_per_s_if_fixed_is_loading=epoch_time.IMAGES_PER_EPOCH / split.fixed,
        images_per_s_of_the_token_part=rate,
        inference_images_per_s_one_a100=epoch_time.PUBLISHED_INFERENCE[model],
        gpus_implied=rate / one_gpu,
        upper_saves=float(1 - split.seconds[upper] / split.seconds[none]),
        upper_would_save_without_the_fixed_part=float(1 - split.shares[upper] / split.shares[none]),
        overlap_rms_s={f"{one.overlap:.2f}": one.rms for one in overlaps[::5]},
        with_fusing=_with_fusing(found),
    )


def _with_fusing(found: Sequence[Training]) -> Split:
    fit = epoch_time.split(found, memory.fits(found)[0].reading, fusing=True)
    assert fit.fusing is not None
    return Split(
        trainings=len(found),
        fixed_s_per_epoch=fit.fixed,
        token_s_per_epoch=fit.token,
        fusing_s_per_epoch=fit.fusing,
        rms_s=fit.rms,
    )
