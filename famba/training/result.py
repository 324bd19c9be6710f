"""The row of a finished training."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from torch import Tensor

from famba.config import Architecture
from famba.flops import forward_flops
from famba.model import VisionMamba
from famba.results.row import Cost, Data, Memory, Metrics, Row, Scan, Time, Tokens
from famba.system import float32
from famba.system.device import environment
from famba.training import checks, evaluate
from famba.training.activations import saved_activation_bytes
from famba.training.paired import step_ratio

if TYPE_CHECKING:
    from famba.training.train import Training


def row_of(training: Training, lengths: Tensor | None) -> Row:
    """The row of a training after its last epoch.

    lengths: (N, depth + 1) of `lengths_of`.
    """
    cell, history, state, scan = training.cell, training.history, training.state, training.scan
    cuda, classes = training.device.type == "cuda", len(training.dataset.classes)
    alone = training.world.world_size == 1
    saved = training.saved_activations
    tokens = Tokens(scheduled=state.model.scheduled_tokens, measured=training.measured_tokens)
    flops = forward_flops(cell.architecture, cell.schedule, classes, method=state.model.method)
    if lengths is not None:  # what its weights make of real images, and not of random ones before the training
        tokens, flops = image_tokens(state.model, cell.architecture, classes, lengths)
        images = training.test_loader.first(2)
        saved = saved_activation_bytes(state.model, training.device, state.autocast, images)
    paired = not cuda and alone and not state.model.varies  # a step on random images would lose other tokens
    return Row(
        id=cell.id,
        watermark="SMOKE" if cell.protocol == "smoke" else None,
        cell=cell,
        init=training.init,
        arithmetic=float32.arithmetic(),
        metrics=Metrics(
            last=history.last(),
            best=history.best(),
            ema_last=history.last("ema_"),
            ema_best=history.best("ema_"),
            train_loss=history.epochs[-1]["train_loss"],
            largest_weight=checks.largest_magnitude(state.model.parameters()),
            images_seen=len(history.epochs) * training.epoch_steps * cell.recipe.global_batch,
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
            step_ratio=step_ratio(cell, scan.name, classes, training.progress.evaluating) if paired else None,
            runs=history.runs,
        ),
        memory=Memory(
            device_peak=history.device_peak if cuda else None,
            host_peak=history.host_peak,
            saved_activations=saved,
        ),
        tokens=tokens,
        cost=Cost(
            parameters=sum(p.numel() for p in state.model.parameters()),
            forward_flops=flops,
            energy_joules=history.energy_joules if alone else None,  # the counter of one of several GPUs is not all
        ),
        data=Data(**asdict(training.dataset.identity)),
        scan=Scan(backend=scan.name, reason=scan.reason),
        environment=environment(training.device, training.world.world_size),
        started=history.started,
        finished=now(),
    )


def lengths_of(training: Training) -> Tensor | None:
    """`evaluate.lengths` of all processes together; None where the schedule alone decides how many tokens go."""
    if not training.state.model.varies:
        return None
    lengths = evaluate.lengths(training.state.forward, training.test_loader, training.progress.evaluating)
    training.world.all_sum_([lengths])
    return lengths


def image_tokens(model: VisionMamba, architecture: Architecture, classes: int, lengths: Tensor) -> tuple[Tokens, int]:
    """Tokens per layer and forward FLOPs, the means over images of `lengths` (N, depth + 1)."""
    traces, images = lengths.unique(dim=0, return_counts=True)
    flops = 0
    for trace, count in zip(traces.tolist(), images.tolist(), strict=True):
        flops += count * forward_flops(architecture, model.schedule, classes, model.method, left=trace[:-1])
    tokens = Tokens(
        scheduled=model.scheduled_tokens,
        measured=tuple(lengths.double().mean(dim=0).tolist()),
        range=tuple(zip(lengths.amin(dim=0).tolist(), lengths.amax(dim=0).tolist(), strict=True)),
    )
    return tokens, round(flops / len(lengths))


def now() -> str:
    """As rows record it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
