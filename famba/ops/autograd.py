"""Scan and convolution as autograd functions over the forward and backward kernels of `cpp` and `triton`."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops.types import Passes, ScanTensors, StreamGrads


def conv(passes: Passes, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `types.Backend.conv`."""
    out: Tensor = _Conv.apply(passes, x, weight, bias)
    return out


def scan(passes: Passes, inputs: ScanTensors, softplus: bool) -> Tensor:
    """See `types.Backend.scan`."""
    out: Tensor = _Scan.apply(passes, softplus, *inputs)
    return out


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: Passes, softplus: bool, *tensors: Tensor | None) -> Tensor:
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
        out, saved = passes.scan_forward(inputs, softplus)
        ctx.save_for_backward(*inputs, *saved)
        ctx.passes, ctx.softplus = passes, softplus
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, total, states = ctx.saved_tensors
        inputs = ScanTensors(*tensors)
        u, delta, _, B, C, _, z, _ = inputs
        du, ddelta, dB, dC = (x.new_empty(x.shape) for x in (u, delta, B, C))
        grads = StreamGrads(du, ddelta, dB, dC, None if z is None else z.new_empty(z.shape))
        dA, dD, dbias = ctx.passes.scan_backward(_dense(dout), inputs, (total, states), ctx.softplus, grads, None)
        return None, None, du, ddelta, dA, dB, dC, dD, grads.z, dbias


class _Conv(torch.autograd.Function):
    """Saves only its input; the backward pass recomputes the pre-activation."""

    @staticmethod
    def forward(ctx: Any, passes: Passes, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, weight, bias = _dense(x), weight.contiguous(), bias.contiguous()
        ctx.save_for_backward(x, weight, bias)
        ctx.passes = passes
        return passes.conv_forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        dx = x.new_empty(x.shape)
        return None, dx, *ctx.passes.conv_backward(_dense(dout), x, weight, bias, dx)


def _dense(x: Tensor) -> Tensor:
    """The same tensor with contiguous features; the other axes may be strided."""
    return x if x.stride(-1) == 1 else x.contiguous()
