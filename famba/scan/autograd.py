"""The scan and the convolution for autograd, from backends that bring forward and backward kernels: `cpu`, `triton`."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# What a scan keeps for its backward pass beyond its inputs: the sum of the directions before the gate, (B, L, D), None
# without z; and states of the past, in a shape of the backend's own
Kept = tuple[Tensor | None, Tensor]


class ScanTensors(NamedTuple):
    """The inputs of a scan, or their gradients."""

    u: Tensor  # (K, B, L, D)
    delta: Tensor  # (K, B, L, D)
    A: Tensor  # (K, D, N)
    B: Tensor  # (K, B, L, N)
    C: Tensor  # (K, B, L, N)
    D: Tensor | None  # (K, D)
    z: Tensor | None  # (B, L, D)
    delta_bias: Tensor | None  # (K, D)


class Kernels(Protocol):
    """What such a backend module offers. Streams have contiguous features; A, D, weight and biases are contiguous."""

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """See `chooser.Backend`."""

    def scan_forward(self, inputs: ScanTensors, softplus: bool) -> tuple[Tensor, Kept]:
        """The gated sum of the directions, (B, L, D), and what its backward pass wants."""

    def scan_backward(
        self,
        dout: Tensor,
        inputs: ScanTensors,
        kept: Kept,
        softplus: bool,
        grads: ScanTensors,
        again: Tensor | None = None,
    ) -> None:
        """Write the gradients of all inputs into `grads`, and the result of the forward pass into `again`.

        du, ddelta and again are contiguous; dz has contiguous features; dB and dC also rows (k, b, l) at equal steps.
        Without a gate `again` must be None.
        """

    def conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See `chooser.Backend.conv`."""

    def conv_backward(self, dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        """Write the gradient of x into `dx`, which has contiguous features; returns those of weight and bias."""


@dataclass(frozen=True)
class FromKernels:
    """The `chooser.Backend` that a module of kernels makes."""

    kernels: Kernels

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return self.kernels.unavailable(device, dtype)

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = _Conv.apply(self.kernels, x, weight, bias)
        return out

    def scan(self, inputs: ScanTensors, softplus: bool) -> Tensor:
        out: Tensor = _Scan.apply(self.kernels, softplus, *inputs)
        return out


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, softplus: bool, *tensors: Tensor | None) -> Tensor:
        u, delta, A, B, C, D, z, delta_bias = ScanTensors(*tensors)  # type: ignore[arg-type]
        inputs = ScanTensors(
            _dense(u),
            _dense(delta),
            A.contiguous(),
            _dense(B),
            _dense(C),
            None if D is None else D.contiguous(),
            None if z is None else _dense(z),
            None if delta_bias is None else delta_bias.contiguous(),
        )
        out, kept = kernels.scan_forward(inputs, softplus)
        ctx.save_for_backward(*inputs, *kept)
        ctx.kernels, ctx.softplus = kernels, softplus
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, total, states = ctx.saved_tensors
        grads = ScanTensors(*(None if x is None else x.new_empty(x.shape) for x in inputs))  # type: ignore[arg-type]
        ctx.kernels.scan_backward(_dense(dout), ScanTensors(*inputs), (total, states), ctx.softplus, grads)
        return None, None, *grads


class _Conv(torch.autograd.Function):
    """Saves only its input; the pre-activation is formed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, weight, bias = _dense(x), weight.contiguous(), bias.contiguous()
        ctx.save_for_backward(x, weight, bias)
        ctx.kernels = kernels
        return kernels.conv_forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        dx = x.new_empty(x.shape)
        return None, dx, *ctx.kernels.conv_backward(_dense(dout), x, weight, bias, dx)


def _dense(x: Tensor) -> Tensor:
    """The same tensor with contiguous features; the other axes may be strided."""
    return x if x.stride(-1) == 1 else x.contiguous()
