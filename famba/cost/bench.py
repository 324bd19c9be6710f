"""What each part of a training step achieves of what the device can do at most.

The roof's own runs and all parts take turns in every round, and medians are compared: what slows the machine for a
while slows both sides of a ratio.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from famba import ops
from famba.config import Architecture, Cell, Experiment
from famba.cost.roofline import Probe, Rates, interleaved_s
from famba.flops import LayerCost, Work, step_cost
from famba.fusion import match
from famba.model import AddNorm
from famba.training.timing import running

CLASSES = 100
FUSED = 7  # per layer, the paper's uniform strategy
CPU_BATCH, CUDA_BATCH = 16, 128


@dataclass(frozen=True)
class StepPart:
    """One part of a training step: measured and least seconds, and what the bound is mostly made of."""

    name: str
    measured_s: float
    bound_s: float
    share: float  # of the bound that is achieved: bound / measured
    mostly: str


Runs = dict[str, tuple[Callable[[], Any], Work]]


def cell_of(architecture: Architecture, schedule: str | Sequence[int], batch: int, **recipe: Any) -> Cell:
    """A training of one micro-batch per step, from an experiment of a single cell; `recipe`: its other settings.

    `schedule`: tokens to fuse at each layer, or the name of a strategy, scaled to the architecture.
    """
    name = schedule if isinstance(schedule, str) else "bench"
    sizes = dict.fromkeys(("global_batch", "mixup_batch", "micro_batch"), batch)
    grid = {
        "experiment": "bench",
        "protocol": "smoke",
        "dataset": "cifar100",
        "models": {"bench": architecture.model_dump()},
        "strategies": [name],
        "schedules": {} if name == schedule else {name: tuple(schedule)},
        "fusion": {"budget": "proportional"},
        "seeds": [0],
        "recipe": {"augmentation": "tensor", "min_lr": 0.0, "eval_resize": None, **sizes, **recipe},
    }
    return Experiment.from_config(grid, "bench").cells()[0]


def bench(
    cell: Cell, device: torch.device, backend: str, rounds: int = 5, small: bool = False
) -> tuple[Rates, list[StepPart]]:
    """Measure the parts of the cell's layers without fusion, one fusion, and its whole step. `small`: rough rates."""
    torch.manual_seed(0)
    probe = Probe(device, cell.recipe.precision, small)
    parts = layer_runs(cell, device, backend)
    counted, step, _ = running(cell, device, backend, CLASSES)
    # the step is run on images that are there already
    without_data = counted.work + counted.augmentation * -counted.images
    parts["whole step"] = step, without_data
    runs = {**probe.runs, **{name: run for name, (run, _) in parts.items()}}
    # a step launches its kernels as training does; its parts are timed as those of a captured one
    seconds = interleaved_s(runs, device, rounds, queued=set(parts) - {"whole step"})
    rates = probe.rates(seconds)
    return rates, [_part(name, seconds[name], work, rates) for name, (_, work) in parts.items()]


def _part(name: str, measured_s: float, work: Work, rates: Rates) -> StepPart:
    shares = {
        "GEMM": work.gemm_flops / rates.gemm_flops,
        "exp": work.exps / rates.exps,
        "bytes": work.moved / rates.moved,
    }
    bound = rates.bound_s(work)
    return StepPart(name, measured_s, bound, bound / measured_s, max(shares, key=lambda key: shares[key]))


def layer_runs(cell: Cell, device: torch.device, backend: str) -> Runs:
    """One layer's parts at the model's full length, each ready to run, with its work by count."""
    a, batch = cell.architecture, cell.recipe.micro_batch
    dtype = torch.bfloat16 if cell.recipe.precision == "bf16" else torch.float32
    plain, fusing = _layer_costs(cell, backend)
    d, inner, n, tokens = a.embed_dim, a.expand * a.embed_dim, a.d_state, a.tokens
    rank = -(-d // 16)

    def leaf(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, device=device).to(kind).requires_grad_()

    xz = leaf(batch, tokens, 2 * inner)
    x, z = xz.detach().chunk(2, dim=-1)  # strided, as in the mixer
    x, z = x.requires_grad_(), z.requires_grad_()
    fp32 = torch.float32
    weight, bias = leaf(2, inner, a.d_conv, kind=fp32), leaf(2, inner, kind=fp32)
    u, delta = leaf(2, batch, tokens, inner), leaf(2, batch, tokens, inner)
    B, C = leaf(2, batch, tokens, n), leaf(2, batch, tokens, n)
    A = -torch.rand(2, inner, n, device=device).mul_(n).requires_grad_()
    D, delta_bias = leaf(2, inner, kind=fp32), leaf(2, inner, kind=fp32)
    scanned = (u, delta, A, B, C, D, z, delta_bias)
    scan_runs = _both_ways(lambda: ops.directional_scan(*scanned, backend), scanned)
    conv_runs = _both_ways(lambda: ops.causal_conv(x, weight, bias, backend), (x, weight, bias))

    hidden, residual = leaf(batch, tokens, d), leaf(batch, tokens, d, kind=fp32)
    norm = AddNorm(d).to(device)
    metric = hidden.detach()

    def fuse() -> tuple[Tensor, ...]:
        pairs = match(metric, FUSED, protected=tokens // 2)
        return pairs.merge_all([hidden, residual])

    weights = [leaf(2 * inner, d), leaf(2, inner, rank + 2 * n), leaf(2, rank, inner), leaf(d, inner)]
    y = leaf(batch, tokens, inner)

    def products() -> list[Tensor]:
        made = torch.bmm(u.view(2, batch * tokens, inner), weights[1])
        return [
            F.linear(hidden, weights[0]),
            made,
            torch.bmm(made[:, :, :rank], weights[2]),
            F.linear(y, weights[3]),
        ]

    runs: Runs = {
        "scan forward": (scan_runs[0], plain.scan.forward * batch),
        "scan backward": (scan_runs[1], plain.scan.backward * batch),
        "conv forward": (conv_runs[0], plain.conv.forward * batch),
        # the layer's backward pass recomputes the convolution; this run does not
        "conv backward": (conv_runs[1], (plain.conv.backward + plain.conv.forward * -1) * batch),
        # forward, and for each product the gradients of its two factors
        "GEMMs": (_there_and_back(products, (hidden, u, y, *weights)), plain.gemms.forward * (3 * batch)),
        "norm": (
            _there_and_back(lambda: norm(residual, hidden), (residual, hidden, norm.weight)),
            plain.norm.both * batch,
        ),
        "fusion": (_there_and_back(fuse, (hidden, residual)), fusing.fusion.both * batch),
    }
    return runs


def _layer_costs(cell: Cell, backend: str) -> tuple[LayerCost, LayerCost]:
    """A layer that fuses nothing, and one that fuses `FUSED` pairs; of one image."""
    one = cell.architecture.model_copy(update={"depth": 2})
    probe = cell.model_copy(update={"architecture": one, "schedule": (0, FUSED)})
    plain, fusing = step_cost(probe, CLASSES, backend).layers
    return plain, fusing


def _there_and_back(forward: Callable[[], Sequence[Tensor]], inputs: Sequence[Tensor]) -> Callable[[], Any]:
    """Forward and backward pass in one run."""
    grads = [torch.randn_like(out) for out in forward()]
    return lambda: torch.autograd.grad(forward(), inputs, grads, allow_unused=True)


def _both_ways(forward: Callable[[], Tensor], inputs: Sequence[Tensor]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The forward pass as a run, and the backward pass of one that has been made before."""
    made = forward()
    grad = torch.randn_like(made)

    def without_graph() -> Tensor:
        with torch.no_grad():
            return forward()

    return without_graph, lambda: torch.autograd.grad(made, inputs, grad, retain_graph=True)
