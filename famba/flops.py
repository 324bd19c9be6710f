"""What a cell costs by arithmetic: operations, traffic and kept activations, from the architecture and the schedule.

Everything is counted for the algorithm as the mixer runs it (convolution, delta and gate made again in the backward
pass, the scan's states rebuilt), each operator reading its inputs and writing its outputs once. What a device makes of
the counts is cost/roofline.py's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING

from famba.config import Architecture, Cell, Recipe
from famba.config.methods import LATE, Placement
from famba.strategies import capped, tokens_per_layer

if TYPE_CHECKING:
    from famba.methods.interface import Method
    from famba.results.row import Row

DIRECTIONS = 2
CHANNELS = 3  # of the model's input; grey images come with three equal ones
_FP32 = 4
_INDEX = 8
# passes over an image's float32 pixels, reads and writes: two resamplings, two operations of RandAugment, normalising,
# erasing a quarter of the images, mixup
_AUGMENTATION_PASSES = 14
_CPU_SCAN_STEPS = 448  # of time, between the states that the C++ forward pass keeps (scan.h: LONGEST_CHUNK)
_TRITON_SCAN_STEPS = 256  # the same of the Triton kernels (ops/triton/scan.py: CHUNK)
# kernels that a layer's training step launches on a GPU: torch's operators but for views, and those in Triton; bf16's
# casts of weights and gradients included
_LAUNCHES_PER_LAYER = 36
_LAUNCHES_PER_FUSION = 8


@dataclass(frozen=True)
class Work:
    """Amounts of work: FLOPs inside and outside of matrix products (a multiply-add is two), exponentials, bytes moved.

    A sigmoid, SiLU or softplus counts as one exponential.
    """

    gemm_flops: float = 0
    other_flops: float = 0
    exps: float = 0
    moved: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> Work:
        return Work(*(getattr(self, f.name) * times for f in fields(self)))


def total(parts: Iterable[Work]) -> Work:
    """The sum of several amounts."""
    return sum(parts, Work())


@dataclass(frozen=True)
class Pass:
    """An operator's work in the forward pass, and in the backward pass with all that it makes again."""

    forward: Work
    backward: Work

    @property
    def both(self) -> Work:
        return self.forward + self.backward


@dataclass(frozen=True)
class LayerCost:
    """One layer and one image: `entering` tokens come, the mixer sees `tokens`, `left` go on. `saved`: bytes kept."""

    entering: int
    tokens: int
    left: int
    norm: Pass
    fusion: Pass
    gemms: Pass
    conv: Pass
    scan: Pass
    saved: int

    @property
    def parts(self) -> dict[str, Pass]:
        return {name: getattr(self, name) for name in ("norm", "fusion", "gemms", "conv", "scan")}

    @property
    def work(self) -> Work:
        return total(part.both for part in self.parts.values())

    @property
    def forward(self) -> Work:
        return total(part.forward for part in self.parts.values())


@dataclass(frozen=True)
class StepCost:
    """One optimiser step, or a process's share of it.

    Attributes:
        layers: of one image.
        ends: patch embedding, final norm and head of one image.
        augmentation: of one image on the training device; nothing where other processes do it (`timm`).
        weights: reading the weights and adding to their gradients, once per micro-batch.
        update: AdamW and the moving average, once per step.
        images, micro_batch: per step, per backward pass.
        saved_ends: bytes kept outside of the layers, per image.
        parameters: their number.
        transient: bytes of one layer's backward pass at work, per image.
    """

    layers: tuple[LayerCost, ...]
    ends: Pass
    augmentation: Work
    weights: Work
    update: Work
    images: int
    micro_batch: int
    saved_ends: int
    parameters: int
    transient: int

    @property
    def saved_per_image(self) -> int:
        """Bytes that the forward pass of one image keeps for the backward pass (measured: training/activations.py)."""
        return sum(layer.saved for layer in self.layers) + self.saved_ends

    @property
    def passes(self) -> float:
        """Micro-batches per step."""
        return self.images / self.micro_batch

    @property
    def launches(self) -> float:
        """Kernels that an eager step launches, nearly."""
        fusing = sum(layer.left < layer.entering for layer in self.layers)
        return self.passes * (_LAUNCHES_PER_LAYER * len(self.layers) + _LAUNCHES_PER_FUSION * fusing)

    @property
    def layer_work(self) -> Work:
        """Of all layers and images."""
        return total(layer.work for layer in self.layers) * self.images

    @property
    def fixed_work(self) -> Work:
        """All that does not depend on the tokens in the layers."""
        per_image = self.ends.both + self.augmentation
        return per_image * self.images + self.weights * self.passes + self.update

    @property
    def work(self) -> Work:
        return self.layer_work + self.fixed_work

    @property
    def forward_per_image(self) -> Work:
        """An evaluation's, without weights: they are read once per batch."""
        return total(layer.forward for layer in self.layers) + self.ends.forward

    @property
    def state_bytes(self) -> int:
        """Parameters, gradients, AdamW's moments and the average."""
        return 5 * _FP32 * self.parameters

    @property
    def peak_bytes(self) -> int:
        """The state; activations; one layer's backward pass at work."""
        return self.state_bytes + self.micro_batch * (self.saved_per_image + self.transient)


def scheduled_tokens(architecture: Architecture, schedule: Sequence[int]) -> tuple[int, ...]:
    """Tokens that are left of each layer, then the final count; of a reduction before the mixers, what they see."""
    return tokens_per_layer(schedule, architecture.tokens, architecture.cls_index)


def forward_flops(
    architecture: Architecture,
    schedule: Sequence[int],
    classes: int,
    method: Method | None = None,
    left: Sequence[int] | None = None,
) -> int:
    """Floating-point operations of one image's forward pass; a multiply-add counts as two.

    Counted: patch embedding, the mixers' projections, causal convolutions and scans (per channel and state 9
    operations, as state-spaces/mamba counts them: discretise 3, recur 4, read out 2), what a method compares in a layer
    that reduces tokens, a threshold's comparisons twice where tokens go and once where none does, and the head. Each at
    the tokens that it runs on: `out_proj` lacks those that go inside of the mixer. Not counted: norms, activations,
    additions, and what a mixer computes a second time for a method that reads it.

    Args:
        schedule: tokens that each layer removes; with a threshold, at most.
        method: which removes them, where it acts; None is Famba-V's, before the mixers.
        left: tokens that are left of each layer where a threshold decides; None: the schedule's.
    """
    layers = _layers(architecture, schedule, "fp32", "cpu", method, left=left)
    ends = _ends(architecture, classes, _FP32)
    return round(ends.forward.gemm_flops + sum(map(layer_flops, layers)))


def row_flops(row: Row) -> int:
    """`forward_flops` of a row, counted as today: older rows of a method inside or after the mixer hold another count.

    As recorded where only the training knew it: of a method of your own.
    """
    cell, fusion = row.cell, row.cell.fusion
    if not (fusion.late and any(cell.schedule)) or fusion.code is not None:
        return row.cost.forward_flops
    from famba.methods.names import build  # noqa: PLC0415 (torch)

    method = build(fusion.method, fusion.settings, fusion.placement)
    return forward_flops(cell.architecture, cell.schedule, row.data.classes, method)


def layer_flops(layer: LayerCost) -> float:
    """One layer's part of `forward_flops`."""
    products = layer.fusion.forward.gemm_flops + layer.gemms.forward.gemm_flops
    return products + layer.conv.forward.other_flops + layer.scan.forward.other_flops


def parameter_count(architecture: Architecture, classes: int) -> int:
    """Trainable parameters of the model."""
    a = architecture
    inner, rank = _widths(a)
    direction = inner * (a.d_conv + 1) + inner * (rank + 2 * a.d_state) + inner * (rank + 1) + inner * (a.d_state + 1)
    layer = a.embed_dim + 3 * a.embed_dim * inner + DIRECTIONS * direction
    ends = a.embed_dim * (CHANNELS * a.patch_size**2 + 1 + 1 + a.tokens + 1) + classes * (a.embed_dim + 1)
    return a.depth * layer + ends


def step_cost(cell: Cell, classes: int, scan: str = "cpu", method: Method | None = None) -> StepCost:
    """A process's share of an optimiser step of a cell. `scan`: the backend, which decides what is kept.

    `method`: whose comparisons of tokens are counted; None is Famba-V's, where the cell's method acts. What the
    processes send each other, the sum of their gradients, is not counted.
    """
    share = cell.recipe.global_batch // cell.processes
    settings = cell.recipe.model_copy(update={"global_batch": share, "micro_batch": cell.images_per_pass})
    placement = cell.fusion.acts if method is None else method.placement
    return cost(cell.architecture, cell.schedule, settings, classes, scan, method, placement)


def cost(
    architecture: Architecture,
    schedule: Sequence[int],
    recipe: Recipe,
    classes: int,
    scan: str = "cpu",
    method: Method | None = None,
    placement: Placement | None = None,
) -> StepCost:
    """An optimiser step of any model and recipe; see `step_cost`. `placement`: None is the method's own."""
    a, width = architecture, _width(recipe.precision)
    layers = tuple(_layers(a, schedule, recipe.precision, scan, method, placement))
    parameters = parameter_count(a, classes)
    # with autocast each weight is cast once per pass, and its gradient is cast back
    casts = 0 if recipe.precision == "fp32" else 2 * (_FP32 + width)
    pixels = CHANNELS * a.img_size**2
    on_device = recipe.augmentation == "tensor"
    inner, _ = _widths(a)
    return StepCost(
        layers=layers,
        ends=_ends(a, classes, width),
        augmentation=Work(moved=_AUGMENTATION_PASSES * _FP32 * pixels) if on_device else Work(),
        weights=Work(moved=parameters * (3 * width + 3 * _FP32 + casts)),
        update=Work(moved=parameters * _FP32 * (7 + 3), other_flops=parameters * 14),
        images=recipe.global_batch,
        micro_batch=recipe.micro_batch,
        saved_ends=_saved_ends(a, schedule, recipe.precision),
        parameters=parameters,
        # u, delta and their gradients, the gradients of x and z together and apart
        transient=width * layers[0].tokens * inner * (4 * DIRECTIONS + 4) + _FP32 * pixels,
    )


def _widths(a: Architecture) -> tuple[int, int]:
    """d_inner, dt_rank."""
    return a.expand * a.embed_dim, math.ceil(a.embed_dim / 16)


def _width(precision: str) -> int:
    return 2 if precision == "bf16" else _FP32


def _layers(
    a: Architecture,
    schedule: Sequence[int],
    precision: str,
    scan: str,
    method: Method | None,
    placement: Placement | None = None,
    left: Sequence[int] | None = None,
) -> list[LayerCost]:
    trace = scheduled_tokens(a, schedule)[:-1] if left is None else left
    return [
        layer_cost(a, before, after, precision, scan, method, placement, most=capped(r, before, True, None))
        for r, (before, after) in zip(schedule, pairwise((a.tokens, *trace)), strict=True)
    ]


def layer_cost(
    a: Architecture,
    entering: int,
    left: int,
    precision: str = "fp32",
    scan: str = "cpu",
    method: Method | None = None,
    placement: Placement | None = None,
    most: int | None = None,
) -> LayerCost:
    """One layer, which `entering` tokens come to and `left` of them leave, and one image.

    Args:
        method: which removes them; None is Famba-V's.
        placement: where it acts; None: the method's own place.
        most: tokens that the schedule removes here, of which a threshold may keep some; None: those that go.
    """
    at = placement or ("before" if method is None else method.placement)
    tokens = entering if at in LATE else left  # that the mixer sees
    projected = left if at == "inside" else tokens
    normed = left if at == "input" else entering
    e, d, n, k = _width(precision), a.embed_dim, a.d_state, DIRECTIONS
    inner, rank = _widths(a)
    read = k * (rank + 2 * n)  # features of delta's low rank, B and C, both directions

    # the residual stream is float32: x + h, its norm; backward: the norm's gradient joins the stream's
    norm = Pass(
        Work(other_flops=6 * d, moved=d * (2 * _FP32 + 2 * e)) * normed,
        Work(other_flops=10 * d, moved=d * (3 * _FP32 + e)) * normed,
    )
    delta = Work(gemm_flops=2 * k * rank * inner, moved=e * k * (rank + inner))
    products = (
        delta
        + Work(gemm_flops=2 * d * 2 * inner, moved=e * (d + 2 * inner))
        + Work(gemm_flops=2 * inner * read, moved=e * (k * inner + read))
    )
    out = Work(gemm_flops=2 * inner * d, moved=e * (inner + d)) * projected
    # two gradients of u are added, those of x and z laid side by side; fused_mixer makes them where they belong
    adding = Work(moved=e * inner * (k if scan in ("cpu", "triton") else 3 * k + 4), other_flops=k * inner)
    # each product's two gradients, delta made again
    gemms = Pass(products * tokens + out, (products * 2 + delta + adding) * tokens + out * 2)
    conv_forward = Work(other_flops=2 * k * inner * a.d_conv, exps=k * inner, moved=e * inner * (1 + k))
    conv_backward = Work(other_flops=6 * k * inner * a.d_conv, exps=k * inner, moved=e * inner * (2 + k))
    conv = Pass(conv_forward * tokens, (conv_forward + conv_backward) * tokens)
    states = k * inner * n
    streams = e * (2 * k * inner + 2 * k * n + inner)  # u, delta, B, C, z; backward, also their gradients
    scan_work = Pass(  # the sum before the gate is kept: written and read; what left the gate is made again
        Work(other_flops=9 * states, exps=states + k * inner + inner, moved=streams + 2 * e * inner) * tokens,
        Work(other_flops=20 * states, exps=states + k * inner + inner, moved=2 * streams + 3 * e * inner) * tokens,
    )
    gone, saved = entering - left, 0
    fusion = Pass(_matching(a, entering, gone, gone if most is None else most, method, at), Work())
    if gone:
        hidden = k * inner if at == "inside" else d  # channels that are merged beside the residual's
        merge = Work(moved=(hidden * e + d * _FP32) * (entering + left), other_flops=2 * (hidden + d) * left)
        fusion = Pass(fusion.forward + merge, merge)
        saved = _INDEX * entering + _FP32 * left  # the group of each token, the size of each group
    saved += _saved_by_norm(normed, d)
    saved += e * tokens * (d + 2 * inner + read + inner)  # the mixer's input, x and z, dt B C, before the gate
    saved += _saved_by_scan(a, tokens, e, scan)
    return LayerCost(entering, tokens, left, norm, fusion, gemms, conv, scan_work, saved)


def _matching(a: Architecture, tokens: int, gone: int, most: int, method: Method | None, at: Placement) -> Work:
    """The comparisons of tokens; of a method that makes none, nothing. Traffic is that of cosines of their width.

    A threshold's are made once to count the pairs above it, and again to remove those where there are any.
    """
    times = DIRECTIONS if at == "inside" else 1
    flops = 0
    if method is None:
        width = a.embed_dim * (a.expand if at == "inside" else 1)
        flops = 2 * math.ceil(tokens / 2) * (tokens // 2) * width * times if gone else 0
    else:
        if gone:
            flops = method.flops(tokens, gone, a) * times
        if most and method.threshold is not None:
            flops += method.flops(tokens, most, a)
    if not flops:
        return Work()
    return Work(gemm_flops=flops, moved=_FP32 * 3 * (tokens * a.embed_dim + flops / (2 * a.embed_dim)))


def _saved_by_norm(tokens: int, d: int) -> int:
    """Its input and 1 / rms."""
    return tokens * _FP32 * (1 + d)


def _saved_by_scan(a: Architecture, tokens: int, e: int, scan: str) -> int:
    """Beyond its inputs: states at the starts of chunks, or what a foreign kernel wants in its own layout."""
    inner, _ = _widths(a)
    if scan == "reference":  # two states a step; intermediates of convolution, delta and gate; inputs in float32
        saved = DIRECTIONS * inner * ((2 * tokens + 1) * a.d_state + 5 * tokens) + inner * (tokens + 2 * (a.d_conv - 1))
        casts = 0 if e == _FP32 else tokens * (DIRECTIONS * (inner + 2 * a.d_state) + inner)
        return _FP32 * (saved + casts)
    if scan == "chunked":
        chunk = math.isqrt(max(tokens - 1, 0)) + 1
        return _FP32 * DIRECTIONS * inner * a.d_state * math.ceil(tokens / chunk)
    if scan == "mamba_ssm":  # channels-first u, delta, B, C and x; the sum before the gate, and the gate, in float32
        copies = DIRECTIONS * (3 * inner + 2 * a.d_state)
        return tokens * (e * copies + _FP32 * inner * (2 if e == _FP32 else 3))
    if scan == "triton":
        padded = max(4, 1 << (a.d_state - 1).bit_length())
        return _FP32 * DIRECTIONS * ((tokens - 1) // _TRITON_SCAN_STEPS) * inner * padded
    chunks = math.ceil(tokens / _CPU_SCAN_STEPS)
    states, lanes = math.ceil(a.d_state / 8) * 8, math.ceil(inner / 16) * 16
    return _FP32 * DIRECTIONS * (chunks - 1) * states * lanes


def _ends(a: Architecture, classes: int, e: int) -> Pass:
    """Patch embedding and position embedding of one image, the class token's norm and head."""
    patches, d = a.tokens - 1, a.embed_dim
    embed = 2 * patches * CHANNELS * a.patch_size**2 * d
    head = 2 * d * classes
    pixels, tokens = CHANNELS * a.img_size**2, a.tokens * d
    forward = Work(gemm_flops=embed + head, moved=_FP32 * pixels + e * tokens + 4 * _FP32 * tokens)
    # no gradient for the pixels; the head's two
    return Pass(forward, Work(gemm_flops=embed + 2 * head, moved=_FP32 * pixels + 2 * e * tokens + _FP32 * tokens))


def _saved_ends(a: Architecture, schedule: Sequence[int], precision: str) -> int:
    e, d = _width(precision), a.embed_dim
    fused = any(after < a.tokens for after in scheduled_tokens(a, schedule))
    images = 0 if precision == "fp32" else e * CHANNELS * a.img_size**2  # autocast's copy
    return images + _saved_by_norm(1, d) + e * d + _INDEX * (1 + fused)
