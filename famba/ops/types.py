"""What the operators take and return, and what a backend offers. The symbols are those of `famba.ops`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Autocast = Callable[[], AbstractContextManager[Any]]


class ScanTensors(NamedTuple):
    """The inputs of a scan. A stream has a time axis; the others are parameters."""

    u: Tensor  # (K, B, L, D)
    delta: Tensor  # (K, B, L, D)
    A: Tensor  # (K, D, N)
    B: Tensor  # (K, B, L, N)
    C: Tensor  # (K, B, L, N)
    D: Tensor | None  # (K, D)
    z: Tensor | None  # (B, L, D)
    delta_bias: Tensor | None  # (K, D)


class Scanned(NamedTuple):
    """What a mixer has computed, both directions stacked, each in the order of the tokens."""

    y: Tensor  # (2, B, T, D): outputs of the scan, D u included, before the gate
    delta: Tensor  # (2, B, T, D): steps Δ, after bias and softplus
    B: Tensor  # (2, B, T, N)
    C: Tensor  # (2, B, T, N)


class StreamGrads(NamedTuple):
    """Where the gradients of a scan's streams are to be written."""

    u: Tensor  # (K, B, L, D), contiguous
    delta: Tensor  # (K, B, L, D), contiguous
    B: Tensor  # (K, B, L, N), features contiguous, rows (k, b, l) at equal steps
    C: Tensor  # (K, B, L, N), likewise
    z: Tensor | None  # (B, L, D), features contiguous


ParameterGrads = tuple[Tensor, Tensor | None, Tensor | None]  # of A, D and delta_bias

# What a scan saves for its backward pass beyond its inputs: the sum of the directions before the gate, (B, L, D), None
# without z; and states of the past, in a shape of the backend's own
Saved = tuple[Tensor | None, Tensor]


class Passes(NamedTuple):
    """Forward and backward kernels of scan and convolution. Parameters are contiguous, and the features of streams."""

    # (inputs, softplus) -> the gated sum of the directions, (B, L, D), and what the backward pass needs
    scan_forward: Callable[[ScanTensors, bool], tuple[Tensor, Saved]]
    # (dout, inputs, saved, softplus, grads, recomputed_out) -> the gradients of the parameters, each direction's
    # contiguous. Those of the streams are written into `grads`, and the result of the forward pass into
    # `recomputed_out`, contiguous; None where it is not wanted or there is no gate.
    scan_backward: Callable[[Tensor, ScanTensors, Saved, bool, StreamGrads, Tensor | None], ParameterGrads]
    # (x, weight, bias) -> as `Backend.conv`
    conv_forward: Callable[[Tensor, Tensor, Tensor], Tensor]
    # (dout, x, weight, bias, dx) -> the gradients of weight and bias, each direction's contiguous. That of x is written
    # into `dx`, which has contiguous features.
    conv_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Backend(Protocol):
    """What every backend offers: a module with these names.

    Scan and convolution: `interface` has checked the shapes and settled the types before it calls. The streams `u`,
    `delta`, `B`, `C`, `z` and `x` share one floating type, which `unavailable` has been asked about; the parameters
    `A`, `D`, `delta_bias`, `weight`, `bias` are in the state's type, float64 for float64 streams and float32 for all
    others. Any tensor may be strided. Both are differentiable.

    Norm, matching and merging take any floating type wherever the backend runs at all. `norm_backward` and
    `merge_backward` are the backward passes of autograd functions (`RMSNormFn`, `MergeFn`). Kernels check type, device
    and size of what they read, and raise TypeError or ValueError for what does not fit.
    """

    @property
    def passes(self) -> Passes | None:
        """Forward and backward kernels of a backend that has its own; None where autograd differentiates."""

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why scan and convolution cannot run streams of `dtype` on `device`, in a few words; None if they can."""

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """SiLU of the depthwise causal convolution: (B, L, D), (K, D, W), (K, D) -> (K, B, L, D), in x's type."""

    def scan(self, inputs: ScanTensors, softplus: bool) -> Tensor:
        """The gated sum of the directions, (B, L, D) in u's type; direction 1 runs from the last step to the first."""

    def norm(
        self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The RMS norm of x, or of x + added.

        Args:
            x, weight: (..., C) and (C), of one type. added: as x, of any floating type.

        Returns:
            sum / rms(sum) * weight in `dtype`, 1 / rms(sum) (..., 1), and the sum itself; x where nothing is added.
        """

    def norm_backward(
        self, dout: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, rstd: Tensor, added_dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the sum, the same cast to `added_dtype`, and the gradient of the weight.

        From that of the norm, and that of the sum from its other uses unless it is None.
        """

    def match(self, metric: Tensor, r: int, cls: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """metric (B, T, C), in at least float32, cls (B,) -> source, target, kept and tome of `famba.fusion.Match`."""

    def groups(
        self, places: Tensor, source: Tensor, target: Tensor, cls: Tensor | None, tokens: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Where each token goes.

        Args:
            places: (B, T - r) positions of the tokens that remain. source, target: (B, r). cls: (B,). tokens: T.

        Returns:
            group (B T): the row of the flattened result (B (T - r), C) that each token goes to; size (B (T - r), 1):
            tokens in each group, float32; the class token's index after fusion (B,), or None.
        """

    def merge(self, x: Tensor, places: Tensor, source: Tensor, group: Tensor, size: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T - r, C), the mean of every group."""

    def merge_backward(self, dout: Tensor, group: Tensor, size: Tensor, tokens: int) -> Tensor:
        """dout (B, T - r, C) -> the gradient of x (B, T, C)."""
