"""The types of the operators: tensors of a scan and its gradients, and what a module of kernels offers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Autocast = Callable[[], AbstractContextManager[Any]]


class Rows(Protocol):
    """What a module of kernels for norm, matching and merging offers: `cpp.tokens`, `triton.tokens`.

    Each checks type, device and size of its tensors and raises TypeError or ValueError for what it does not take.
    """

    def norm(
        self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The norm of x, or of x + added.

        Args:
            x, weight: (..., C) and (C), float32. added: as x, float32, bfloat16 or float16.

        Returns:
            sum / rms(sum) * weight in `dtype`, 1 / rms(sum) (..., 1), and the sum itself; x where nothing is added.
        """

    def norm_backward(
        self, dout: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, rstd: Tensor, added: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the sum, of the same in `added`'s type, and of the weight.

        From those of the norm and, unless it is None, of the sum.
        """

    def match(self, metric: Tensor, r: int, cls: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """metric (B, T, C) float32, cls (B,) int64 -> source, target, kept and tome of `famba.fusion.Match`."""

    def groups(
        self, places: Tensor, source: Tensor, target: Tensor, cls: Tensor | None, tokens: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """places (B, T - r), source and target (B, r), cls (B,) -> group (B T), size (B (T - r), 1), cls after (B,)."""

    def merge(self, x: Tensor, places: Tensor, source: Tensor, group: Tensor, size: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T - r, C), the mean of every group."""

    def merge_backward(self, dout: Tensor, group: Tensor, size: Tensor, tokens: int) -> Tensor:
        """dout (B, T - r, C) -> the gradient of x (B, T, C)."""


# What a scan keeps for its backward pass beyond its inputs: the sum of the directions before the gate, (B, L, D), None
# without z; and states of the past, in a shape of the backend's own
Kept = tuple[Tensor | None, Tensor]


class ScanTensors(NamedTuple):
    """The inputs of a scan."""

    u: Tensor  # (K, B, L, D)
    delta: Tensor  # (K, B, L, D)
    A: Tensor  # (K, D, N)
    B: Tensor  # (K, B, L, N)
    C: Tensor  # (K, B, L, N)
    D: Tensor | None  # (K, D)
    z: Tensor | None  # (B, L, D)
    delta_bias: Tensor | None  # (K, D)


class StreamGrads(NamedTuple):
    """Where the gradients of a scan's streams are to be written."""

    u: Tensor  # (K, B, L, D), contiguous
    delta: Tensor  # (K, B, L, D), contiguous
    B: Tensor  # (K, B, L, N), features contiguous, rows (k, b, l) at equal steps
    C: Tensor  # (K, B, L, N), likewise
    z: Tensor | None  # (B, L, D), features contiguous


ParameterGrads = tuple[Tensor, Tensor | None, Tensor | None]  # of A, D and delta_bias


class Kernels(Protocol):
    """What a module of kernels for scan and convolution offers: `cpp.scan`, `triton.scan`.

    Streams have contiguous features; A, D, weight and biases are contiguous.
    """

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """See `dispatch.Backend`."""

    def scan_forward(self, inputs: ScanTensors, softplus: bool) -> tuple[Tensor, Kept]:
        """The gated sum of the directions, (B, L, D), and what its backward pass wants."""

    def scan_backward(
        self,
        dout: Tensor,
        inputs: ScanTensors,
        kept: Kept,
        softplus: bool,
        grads: StreamGrads,
        recomputed_out: Tensor | None = None,
    ) -> ParameterGrads:
        """Write the gradients of the streams into `grads`; returns those of the parameters.

        The result of the forward pass is written into `recomputed_out`, contiguous; None without a gate.
        """

    def conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See `dispatch.Backend.conv`."""

    def conv_backward(self, dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        """Write the gradient of x into `dx`, which has contiguous features; returns those of weight and bias.

        Each direction's are contiguous, here and in what scan_backward returns.
        """
