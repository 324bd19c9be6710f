"""The result row: one self-contained JSON file per cell, with everything needed to judge it or run it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from famba.config import Cell
from famba.config.validation import Strict, read_json
from famba.errors import InputError
from famba.files import write_text
from famba.results import consistency

T = TypeVar("T")
K = TypeVar("K")
VERSION: Literal[2] = 2  # of the row's format

Percent = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(ge=0)]
Spent = Annotated[float, Field(gt=0)]  # seconds or milliseconds of something that has happened
Bytes = Annotated[int, Field(ge=0)]
Peak = Annotated[int, Field(gt=0)]  # bytes
Count = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Accuracy(Strict):
    """Top-1 and top-5 on the test set, in percent, after epoch `epoch` (0-based)."""

    epoch: Annotated[int, Field(ge=0)]
    top1: Percent
    top5: Percent


class Metrics(Strict):
    """Accuracies of the trained weights and of their moving average (EMA).

    `best` is chosen on the test set, as the paper's number is; `last` is free of that choice. `largest_weight` is the
    largest magnitude of a parameter: a training whose weights are not finite has no row.
    """

    last: Accuracy
    best: Accuracy
    ema_last: Accuracy
    ema_best: Accuracy
    train_loss: float
    largest_weight: Annotated[float, Field(gt=0)]
    images_seen: Count


class Time(Strict):
    """Seconds of the whole training, summed over resumed runs: wall clock, and CPU time of all threads and processes.

    `total` = `train` + `evaluation` + `ema_evaluation` + the rest (checkpoints, logs). `data_wait` is the part of
    `train` spent waiting for images. `warmup` is the first step of each run (compilation, allocation): a part of
    `train` that `images_per_s` and all CPU times but `loop_cpu` leave out. `step_ms` is the median optimiser step, data
    included.

    `cpu` is the CPU time of `train`, loading processes included; `step_cpu_ms` that of the median step in the first
    process, null on a GPU; `thread_cpu` that of its main thread in `train`, which falls behind the wall clock only
    where the thread waits or the processor is taken from it. `loop_cpu` is the CPU time of `judged_seconds`.

    `step_ratio` is the CPU time of a step relative to one of the same model without fusion, measured in pairs after the
    training (`famba.training.paired`); null on a GPU, of several processes, and in rows from before it was measured.
    """

    total: Spent
    train: Spent
    evaluation: Spent
    ema_evaluation: Spent
    data_wait: Seconds
    warmup: Seconds
    cpu: Spent
    thread_cpu: Spent
    loop_cpu: Spent
    images_per_s: Spent
    step_ms: Spent
    step_cpu_ms: Spent | None
    step_ratio: Spent | None = None
    runs: Count

    @property
    def judged_seconds(self) -> float:
        """Wall-clock seconds of what the released training loop does: it keeps no moving average to evaluate."""
        return self.total - self.ema_evaluation

    @property
    def compared_step_ms(self) -> float:
        """What a step is compared by: on a CPU its CPU time, which a neighbour hardly changes, else the wall clock."""
        return self.step_ms if self.step_cpu_ms is None else self.step_cpu_ms

    @property
    def compared_train_s(self) -> float:
        """What trainings are compared by, the first step of each run left out; see `compared_step_ms`."""
        return self.train - self.warmup if self.step_cpu_ms is None else self.cpu


class Memory(Strict):
    """Bytes. `device_peak`: largest allocation of the GPU (null on a CPU); `host_peak`: resident set of the process;
    `saved_activations`: what the forward pass keeps for the backward one, per image."""

    device_peak: Peak | None
    host_peak: Peak
    saved_activations: Peak

    @property
    def peak(self) -> int:
        """Of the device, on a CPU of the host."""
        return self.host_peak if self.device_peak is None else self.device_peak


class Tokens(Strict):
    """Tokens seen by each layer's mixer, then the final count: by the schedule, and measured in a forward pass.

    Where a threshold decides how many go, the schedule has the fewest that can be left, `measured` is the mean over
    the test images after the training, and `range` has the fewest and the most of an image.
    """

    scheduled: tuple[Count, ...]
    measured: tuple[Annotated[int | float, Field(ge=1)], ...]
    range: Annotated[tuple[tuple[Count, Count], ...] | None, Field(exclude_if=lambda ends: ends is None)] = None


class Cost(Strict):
    """Size of the model and work of one image: multiply-adds count as two, forward pass only."""

    parameters: Count
    forward_flops: Count
    # of the whole device while training; null where the device does not report it
    energy_joules: Annotated[float, Field(ge=0)] | None


class Data(Strict):
    """Which data, by content.

    `sha256` and `bytes` are of the file or files read. `train_digest` and `test_digest` are over the sorted records
    of each split (`famba.data.content`): rows with equal ones are of the same data, whatever form it came in.
    `order_digest` is over the order of the records, on which the bits of a training depend. Of an image folder the
    digests are over its files (`famba.data.manifest`), `sha256` is the manifest's, `size` is null where images keep
    their own, and `decoder` says what made pixels of the files.
    """

    name: str
    source: str
    official: bool
    sha256: Sha256
    bytes: Count
    train: Count
    test: Count
    classes: Count
    channels: Count
    size: Count | None
    train_digest: Sha256
    test_digest: Sha256
    order_digest: Sha256
    decoder: Annotated[str | None, Field(exclude_if=lambda decoder: decoder is None)] = None


class Scan(Strict):
    """The selective-scan backend and why it was chosen."""

    backend: str
    reason: str


class Initial(Strict):
    """The weights that the training started from: `scratch`, or the name and sha256 of a checkpoint's file."""

    weights: str
    sha256: Sha256 | None  # null from scratch


class Arithmetic(Strict):
    """How float32 matrices are multiplied: torch's matmul precision, and whether TF32 may stand in on a GPU.

    The precision under autocast is the recipe's `precision`.
    """

    float32_matmul: Literal["highest", "high", "medium"]
    tf32: bool  # in cuBLAS or cuDNN


class Environment(Strict):
    """Where and with what the row was made."""

    device: str
    device_kind: Literal["cpu", "cuda"]
    device_memory: Peak | None
    clocks_mhz: dict[str, int] | None
    other_processes: Annotated[int, Field(ge=0)] | None  # on the GPU besides this one; null where it is unknown
    driver: str | None
    cpu: str
    threads: Count
    world_size: Count
    python: str
    packages: dict[str, str | None]
    lock_sha256: Sha256 | None
    container_sha256: Sha256 | None
    git_commit: str | None
    git_dirty: bool | None


class Row(Strict):
    """The result of one cell."""

    version: Literal[2] = VERSION
    id: str
    watermark: Literal["SMOKE"] | None
    cell: Cell
    init: Initial
    arithmetic: Arithmetic
    metrics: Metrics
    time: Time
    memory: Memory
    tokens: Tokens
    cost: Cost
    data: Data
    scan: Scan
    environment: Environment
    started: str  # UTC, ISO 8601
    finished: str

    @model_validator(mode="before")
    @classmethod
    def _before_methods(cls, data: Any) -> Any:
        """Rows from before a method could be chosen call it by a name of its own, always famba-v."""
        if isinstance(data, Mapping) and data.get("method") == "famba-v":
            return {key: value for key, value in data.items() if key != "method"}
        return data

    @property
    def training(self) -> tuple[str, str, float]:
        """Equal for two rows of one training, wherever they lie, and for no others: no clock gives such times twice."""
        return self.id, self.started, self.time.train

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if problem := consistency.problem(self):
            raise ValueError(problem)
        return self


def write_row(row: Row, path: Path) -> None:
    """Write a row so that the file is there whole or not at all."""
    write_text(path, row.model_dump_json(indent=1) + "\n")


def read_row(path: Path) -> Row:
    """Read and validate a row. Raises InputError, one line naming file and field, and what to do."""
    return read_json(Row, path, "row", invalid="; delete it and run again, which trains its cell anew")


def rows_of(folder: Path) -> list[Path]:
    """The rows in a folder of results, as the pipeline or `famba reproduce --out` leaves them. Raises InputError."""
    rows = sorted([*folder.glob("cells/*/row.json"), *folder.glob("*/row.json")])
    if not rows:
        raise InputError(f"{folder}: no cells/*/row.json here; name the folder of an experiment that has been run")
    return rows


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, in the order in which keys first appear."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def by_line(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by model and strategy."""
    return grouped(rows, lambda row: row.cell.line)


def json_schema() -> dict[str, Any]:
    """JSON schema of row.json (published as config/schema/row.json)."""
    return Row.model_json_schema(mode="serialization")
