"""The result row: one self-contained JSON file per cell, with everything needed to judge it or run it again."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from famba.config import Cell
from famba.errors import InputError

Percent = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base of all parts of a row. NaN is not JSON and never a result: it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Accuracy(Record):
    """Top-1 and top-5 on the test set, in percent, after epoch `epoch` (0-based)."""

    epoch: Annotated[int, Field(ge=0)]
    top1: Percent
    top5: Percent


class Metrics(Record):
    """Accuracies of the trained weights and of their moving average (EMA).

    `best` is chosen on the test set, as the paper's number is; `last` is free of that choice.
    """

    last: Accuracy
    best: Accuracy
    ema_last: Accuracy
    ema_best: Accuracy
    train_loss: float
    images_seen: Annotated[int, Field(ge=0)]


class Time(Record):
    """Wall-clock seconds of the whole training, summed over resumed runs.

    `total` = `train` + `evaluation` + the rest (checkpoints, logs). `data_wait` is the part of `train` spent waiting
    for images. `warmup` is the first step of each run (compilation, allocation): a part of `train` that
    `images_per_s` leaves out. `step_ms` is the median optimiser step, data included.
    """

    total: Seconds
    train: Seconds
    evaluation: Seconds
    data_wait: Seconds
    warmup: Seconds
    images_per_s: Annotated[float, Field(gt=0)]
    step_ms: Annotated[float, Field(gt=0)]
    runs: Annotated[int, Field(ge=1)]


class Memory(Record):
    """Bytes. `device_peak`: largest allocation of the GPU (null on a CPU); `host_peak`: resident set of the process;
    `saved_activations`: what the forward pass keeps for the backward one, per image."""

    device_peak: Bytes | None
    host_peak: Bytes
    saved_activations: Bytes


class Tokens(Record):
    """Tokens seen by each layer's mixer, then the final count: by the schedule, and measured in a forward pass."""

    scheduled: tuple[int, ...]
    measured: tuple[int, ...]


class Cost(Record):
    """Size of the model and work of one image: multiply-adds count as two, forward pass only."""

    parameters: int
    forward_flops: int
    energy_joules: float | None  # of the whole device while training; null where the device does not tell


class Data(Record):
    """Which data, by content.

    `sha256` and `bytes` are of the file or files read. `train_digest` and `test_digest` are over the sorted records
    of each split (`famba.data.content`): rows with equal ones are of the same data, whatever form it came in.
    `order_digest` is over the order of the records, on which the bits of a training depend.
    """

    name: str
    source: str
    official: bool
    sha256: Sha256
    bytes: Bytes
    train: int
    test: int
    classes: int
    channels: int
    size: int
    train_digest: Sha256
    test_digest: Sha256
    order_digest: Sha256


class Scan(Record):
    """The selective-scan backend and why it was chosen."""

    backend: str
    reason: str


class Environment(Record):
    """Where and with what the row was made."""

    device: str
    device_kind: Literal["cpu", "cuda"]
    device_memory: Bytes | None
    clocks_mhz: dict[str, int] | None
    other_processes: int | None  # on the GPU besides this one; null where it cannot be told
    driver: str | None
    cpu: str
    threads: int
    world_size: int
    python: str
    packages: dict[str, str | None]
    lock_sha256: Sha256 | None
    container_sha256: Sha256 | None
    git_commit: str | None
    git_dirty: bool | None


class Row(Record):
    """The result of one cell."""

    version: Literal[1] = 1
    id: str
    watermark: Literal["SMOKE"] | None
    cell: Cell
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

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if self.tokens.scheduled != self.tokens.measured:
            raise ValueError(f"measured tokens {self.tokens.measured} are not the schedule's {self.tokens.scheduled}")
        if self.id != self.cell.id:
            raise ValueError(f"row {self.id} holds the settings of {self.cell.id}")
        if (self.watermark == "SMOKE") != (self.cell.protocol == "smoke"):
            raise ValueError("a smoke row, and no other, carries the SMOKE watermark")
        return self


def write_row(row: Row, path: Path) -> None:
    """Write a row so that the file is there whole or not at all."""
    with atomic_file(path) as file:
        file.write(row.model_dump_json(indent=1) + "\n")


def read_row(path: Path) -> Row:
    """Read and validate a row. Raises InputError, one line naming file and field, and what to do."""
    try:
        return Row.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the row ({error.strerror})") from None
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{where + ': ' if where else ''}{first['msg']}"
    raise InputError(f"{path}: not a valid row: {problem}; delete it and run again, which trains its cell anew")


def rows_of(folder: Path) -> list[Path]:
    """The rows in a folder of results, as the pipeline or `famba reproduce --out` leaves them. Raises InputError."""
    rows = sorted([*folder.glob("cells/*/row.json"), *folder.glob("*/row.json")])
    if not rows:
        raise InputError(f"{folder}: no cells/*/row.json here; name the folder of an experiment that has been run")
    return rows


def json_schema() -> dict[str, Any]:
    """JSON schema of row.json (published as config/schema/row.json)."""
    return Row.model_json_schema(mode="serialization")


@contextmanager
def atomic_file(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a file that takes its name only once it is written whole and on disk. Raises InputError if it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            text = {} if binary else {"encoding": "utf-8", "newline": ""}
            with open(partial, "wb" if binary else "w", **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free or choose another folder") from None


EPOCH_FIELDS = (
    "epoch", "lr", "train_loss", "top1", "top5", "ema_top1", "ema_top5", "train_s", "evaluation_s", "data_wait_s",
    "images_per_s",
)  # fmt: skip


def write_epochs(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """The per-epoch metrics beside a row, as CSV."""
    with atomic_file(path) as file:
        writer = csv.DictWriter(file, EPOCH_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _short(value) for key, value in epoch.items()} for epoch in epochs)


def _short(value: float) -> float:
    return float(f"{value:.6g}") if isinstance(value, float) else value
