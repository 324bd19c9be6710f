"""Result rows with made-up but valid numbers: a whole grid in memory or on disk, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from famba.config import Cell, Experiment
from famba.config.datasets import DATASETS
from famba.results import predictions as of_predictions
from famba.results.epochs import write_epochs
from famba.results.predictions import Predictions
from famba.results.row import (
    Accuracy,
    Arithmetic,
    Cost,
    Data,
    Environment,
    Initial,
    Memory,
    Metrics,
    Row,
    Scan,
    Time,
    Tokens,
    read_row,
    write_row,
)
from famba.strategies import tokens_per_layer
from tests.helpers import ROOT


def experiment(**changes: Any) -> Experiment:
    """The smoke grid, with three seeds unless told otherwise."""
    smoke = Experiment.load(ROOT / "config" / "smoke.yaml").model_dump()
    return Experiment.from_config({**smoke, "seeds": [0, 1, 2], **changes})


def paper_experiment(protocol: str = "paper", **changes: Any) -> Experiment:
    """The paper's grid, or one that only claims to be it: no file may, a row of another origin can."""
    paper = Experiment.load(ROOT / "config" / "paper.yaml").model_dump() | changes
    paper["recipe"] = {"preset": "paper-scripts"} | paper["recipe"]
    return Experiment.from_config({**paper, "protocol": "custom"}).model_copy(update={"protocol": protocol})


def make_row(cell: Cell, device: str | None = None, digest: str = "a" * 64) -> Row:
    """A row whose time and memory follow its tokens and whose accuracy falls with the tokens it lost."""
    architecture = cell.architecture
    final = tokens_per_layer(cell.schedule, architecture.tokens, architecture.tokens // 2)[-1:]
    trace = tokens_per_layer(cell.mixed, architecture.tokens, architecture.tokens // 2)[:-1] + final
    share = sum(trace[:-1]) / (architecture.depth * architecture.tokens)
    wide = architecture.embed_dim / 192
    wobble = ((cell.seed * 7 + sum(cell.schedule)) % 5 - 2) / 5
    paper = cell.protocol == "paper"
    top1 = (70 if paper else 92) + 7 * wide - 8 * (1 - share) + wobble
    step_ms = (1000 if paper else 60) * wide**0.5 * (0.05 + 0.95 * share) * (1 + wobble / 60)
    train = step_ms * cell.recipe.epochs * (0.097 if paper else 0.022)
    saved = round(300 * 2**20 * wide * (0.02 + 0.98 * share) * architecture.tokens / 197)
    last = Accuracy(epoch=cell.recipe.epochs - 1, top1=top1, top5=min(top1 + 12, 99.9))
    best = last.model_copy(update={"epoch": cell.recipe.epochs - 2, "top1": top1 + 0.3}) if last.epoch else last
    cuda = cell.device == "cuda"
    return Row(
        id=cell.id,
        watermark="SMOKE" if cell.protocol == "smoke" else None,
        cell=cell,
        init=Initial(weights="scratch", sha256=None),
        arithmetic=Arithmetic(float32_matmul="highest", tf32=False),
        metrics=Metrics(
            last=last, best=best, ema_last=last, ema_best=best, train_loss=0.4, largest_weight=9.0, images_seen=20_000,
        ),
        time=Time(
            total=train * 1.2 + 3, train=train + 2, evaluation=train * 0.1, ema_evaluation=train * 0.1, data_wait=0.0,
            warmup=2.0, cpu=train * 0.98, thread_cpu=train * 0.98, loop_cpu=train * 1.08 + 3,
            images_per_s=cell.recipe.global_batch * 1000 / step_ms, step_ms=step_ms,
            step_cpu_ms=None if cuda else step_ms * 0.98, runs=1,
        ),
        memory=Memory(
            device_peak=round(2**30 + saved * cell.recipe.micro_batch) if cuda else None,
            host_peak=round(600 * 2**20 + 20 * saved),
            saved_activations=saved,
        ),
        tokens=Tokens(scheduled=trace, measured=trace),
        cost=Cost(parameters=round(6_974_308 * wide**2), forward_flops=round(2.6e9 * share), energy_joules=None),
        data=Data(
            name=cell.dataset, source="made up", official=True, sha256=digest, bytes=1, train=1437, test=360,
            classes=DATASETS[cell.dataset].classes, channels=1, size=8, train_digest=digest,
            test_digest=digest, order_digest=digest,
        ),
        scan=Scan(backend="chunked", reason="made up"),
        environment=Environment(
            device=device or ("NVIDIA A100" if cuda else "Some CPU"), device_kind="cuda" if cuda else "cpu",
            device_memory=None, clocks_mhz=None, other_processes=None, driver=None, cpu="Some CPU", threads=2,
            world_size=cell.processes, python="3.11.2", packages={}, lock_sha256=None, container_sha256=None,
            git_commit=None, git_dirty=None,
        ),
        started="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:01:00Z",
    )  # fmt: skip


def with_top1(row: Row, top1: float) -> Row:
    """The row with another top-1, of the last epoch and of the best."""
    accuracies = {name: getattr(row.metrics, name).model_copy(update={"top1": top1}) for name in ("last", "best")}
    return row.model_copy(update={"metrics": row.metrics.model_copy(update=accuracies)})


def thresholded(row: Row) -> Row:
    """A row of a cell with a threshold: in layers that fuse more tokens are left than its schedule says, by a third and
    by the seed."""
    tokens, scheduled = row.cell.architecture.tokens, row.tokens.scheduled
    measured = tuple(n if n == tokens else n + 1 / 3 + row.cell.seed for n in scheduled)
    ends = tuple((n, tokens) for n in scheduled)
    return row.model_copy(update={"tokens": Tokens(scheduled=scheduled, measured=measured, range=ends)})


def timed(row: Row, **time: float) -> Row:
    return row.model_copy(update={"time": row.time.model_copy(update=time)})


def epochs_of(row: Row) -> list[dict[str, float]]:
    """A learning curve that ends at the row's accuracy."""
    last, n = row.metrics.last, row.cell.recipe.epochs
    return [
        {
            "epoch": e, "lr": 1e-3, "train_loss": 0.4 + 4 * 0.5 ** (12 * (e + 1) / n) + 0.02 * row.cell.seed,
            "top1": last.top1 * (1 - 0.6 ** (12 * (e + 1) / n)) / (1 - 0.6**12), "top5": last.top5,
            "ema_top1": last.top1, "ema_top5": last.top5, "train_s": 1.0, "evaluation_s": 0.1, "ema_evaluation_s": 0.1,
            "data_wait_s": 0.0, "cpu_s": row.time.cpu / n, "images_per_s": row.time.images_per_s,
        }
        for e in range(n)
    ]  # fmt: skip


def write_grid(folder: Path, grid: Experiment, **of_row: Any) -> list[Path]:
    """The rows of an experiment, each beside its epochs.csv, as training leaves them."""
    paths = []
    for cell in grid.cells():
        row = make_row(cell, **of_row)
        path = folder / "cells" / cell.id / "row.json"
        write_row(row, path)
        write_epochs(epochs_of(row), path.with_name("epochs.csv"))
        paths.append(path)
    return paths


def write_predictions(path: Path, correct: np.ndarray, labels: np.ndarray) -> None:
    """Predictions beside a row, right where `correct` is, and the row's accuracies and epochs after them."""
    classes = read_row(path).data.classes
    top5 = (labels[:, None] + np.where(correct, 0, 1)[:, None] + np.arange(5)) % classes
    predictions = Predictions(top5, labels)
    last = dict(zip(("top1", "top5"), predictions.accuracies, strict=True))
    changed(path, metrics={"last": last, "best": last}, data={"test": len(labels)})
    row = read_row(path)
    of_predictions.write_predictions(predictions, row.data, path.with_name(of_predictions.NAME))
    write_epochs(epochs_of(row), path.with_name("epochs.csv"))


def changed(path: Path, **of: dict) -> None:
    """Rewrite parts of a row."""
    data = json.loads(path.read_text())
    for part, values in of.items():
        for key, value in values.items():
            data[part][key] = data[part][key] | value if isinstance(value, dict) else value
    write_row(Row.model_validate(data), path)


def formal(folder: Path, grid: Experiment | None = None, **environment: object) -> list[Path]:
    """Rows of the paper's grid, or of another, that obey every rule."""
    paths = write_grid(folder, grid or paper_experiment(seeds=[0]))
    for path in paths:
        row = read_row(path)
        images = round((row.time.train - row.time.warmup) * row.time.images_per_s) + row.cell.recipe.global_batch
        changed(
            path,
            environment={
                "other_processes": 0, "git_commit": "c" * 40, "git_dirty": False, "container_sha256": "d" * 64,
                "lock_sha256": "e" * 64, **environment,
            },
            metrics={"images_seen": images},
        )  # fmt: skip
    return paths
