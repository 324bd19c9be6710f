"""The scan and the convolution for autograd, from backends that bring forward and backward kernels: `cpu`, `triton`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops.types import Kernels, ScanTensors, StreamGrads


@dataclass(frozen=True)
class AutogradBackend:
    """The `dispatch.Backend` that a module of kernels makes."""

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
        *tensors, total, states = ctx.saved_tensors
        inputs = ScanTensors(*tensors)
        u, delta, _, B, C, _, z, _ = inputs
        du, ddelta, dB, dC = (x.new_empty(x.shape) for x in (u, delta, B, C))
        grads = StreamGrads(du, ddelta, dB, dC, None if z is None else z.new_empty(z.shape))
        dA, dD, dbias = ctx.kernels.scan_backward(_dense(dout), inputs, (total, states), ctx.softplus, grads)
        return None, None, du, ddelta, dA, dB, dC, dD, grads.z, dbias


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
