"""What a finished training leaves: its row, and the files beside it."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from datetime import UTC, datetime

import torch

from famba.config import Cell
from famba.data.dataset import Dataset
from famba.flops import forward_flops
from famba.ops.dispatch import Selection
from famba.results.row import Cost, Data, Initial, Memory, Metrics, Row, Scan, Time, Tokens
from famba.system import float32
from famba.system.device import environment
from famba.training import checks
from famba.training.distributed import Processes
from famba.training.history import History
from famba.training.paired import step_ratio
from famba.training.train_state import TrainState

METHOD = "famba-v"  # of token fusion


def row_of(
    cell: Cell,
    history: History,
    state: TrainState,
    dataset: Dataset,
    scan: Selection,
    init: Initial,
    device: torch.device,
    world: Processes,
    *,
    steps: int,
    tokens: tuple[int, ...],
    saved_activations: int,
) -> Row:
    """The row of a training after its last epoch.

    steps: optimiser steps of an epoch. tokens: of each layer, measured. saved_activations: bytes for each image.
    """
    cuda, classes = device.type == "cuda", len(dataset.classes)
    alone = world.world_size == 1
    return Row(
        id=cell.id,
        watermark="SMOKE" if cell.protocol == "smoke" else None,
        cell=cell,
        method=METHOD,
        init=init,
        arithmetic=float32.arithmetic(),
        metrics=Metrics(
            last=history.last(),
            best=history.best(),
            ema_last=history.last("ema_"),
            ema_best=history.best("ema_"),
            train_loss=history.epochs[-1]["train_loss"],
            largest_weight=checks.largest_magnitude(state.model.parameters()),
            images_seen=len(history.epochs) * steps * cell.recipe.global_batch,
        ),
        time=Time(
            total=history.total_s,
            train=history.sum("train_s"),
            evaluation=history.sum("evaluation_s"),
            ema_evaluation=history.sum("ema_evaluation_s"),
            data_wait=history.sum("data_wait_s"),
            warmup=history.warmup_s,
            cpu=history.sum("cpu_s") - history.warmup_cpu_s,
            thread_cpu=history.thread_cpu_s,
            loop_cpu=history.loop_cpu_s,
            images_per_s=len(history.step_ms) * cell.recipe.global_batch / (sum(history.step_ms) / 1e3),
            step_ms=statistics.median(history.step_ms),
            step_cpu_ms=None if cuda else statistics.median(history.step_cpu_ms),
            step_ratio=None if cuda or not alone else step_ratio(cell, scan.name, classes),
            runs=history.runs,
        ),
        memory=Memory(
            device_peak=history.device_peak if cuda else None,
            host_peak=history.host_peak,
            saved_activations=saved_activations,
        ),
        tokens=Tokens(scheduled=state.model.scheduled_tokens, measured=tokens),
        cost=Cost(
            parameters=sum(p.numel() for p in state.model.parameters()),
            forward_flops=forward_flops(cell.architecture, cell.schedule, classes),
            energy_joules=history.energy_joules if alone else None,  # the counter of one of several GPUs is not all
        ),
        data=Data(**asdict(dataset.identity)),
        scan=Scan(backend=scan.name, reason=scan.reason),
        environment=environment(device, world.world_size),
        started=history.started,
        finished=now(),
    )


def now() -> str:
    """As rows record it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
