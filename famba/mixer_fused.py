"""The mixer as one autograd function, over the kernels of `cpu` or `triton`.

The same arithmetic as in `mixer.Mixer.forward`, in the same order. With the backward pass written out, gradients are
made where they are wanted: those of x and z in one tensor, those of dt, B and C in another, a product added to what is
there; and a layer is one node of autograd's graph instead of forty. mamba's own `mamba_inner_fn` (state-spaces/mamba,
selective_scan_interface.py) does the same for one direction. Like there, convolution and delta are made again in the
backward pass, and so is the gate: what is kept is the sum before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.scan.autograd import Kernels, ScanTensors


def mix(kernels: Kernels, hidden: Tensor, in_proj: Tensor, out_proj: Tensor, *pairs: Tensor) -> Tensor:
    """The mixer's output, (B, T, C) as hidden; in autocast's precision, or hidden's.

    in_proj (2 D, C), out_proj (C, D). `pairs` are, of the forward and the backward direction in turn: the convolution's
    weight (D, 1, d_conv) and bias (D), x_proj (R, D) with R = dt_rank + 2 N, dt_proj's weight (D, dt_rank) and bias
    (D), A_log (D, N), D (D).
    """
    device = hidden.device.type
    stream = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    out: Tensor = _Mix.apply(kernels, hidden.to(stream), in_proj, out_proj, *pairs)
    return out


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, hidden: Tensor, in_proj: Tensor, out_proj: Tensor, *pairs: Tensor
    ) -> Tensor:
        ctx.kernels = kernels
        ctx.types = [parameter.dtype for parameter in (in_proj, out_proj, *pairs)]
        both = [torch.stack(pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)]
        conv, conv_bias, x_proj, to_dt, dt_bias, A, D = both
        in_proj, out_proj, x_proj, to_dt = (w.to(hidden.dtype) for w in (in_proj, out_proj / 2, x_proj, to_dt))
        conv, conv_bias, dt_bias, A, D = (w.float() for w in (conv.squeeze(2), conv_bias, dt_bias, -A.exp(), D))

        xz = (_rows(hidden) @ in_proj.t()).view(*hidden.shape[:2], -1)  # (B, T, 2 D)
        x, z = xz.chunk(2, dim=-1)
        u = kernels.conv_forward(x, conv, conv_bias)  # (2, B, T, D)
        projected = torch.bmm(u.flatten(1, 2), x_proj.mT)  # (2, B T, R)
        gated, kept = kernels.scan_forward(_scanned(u, projected, to_dt, A, D, z, dt_bias), softplus=True)  # (B, T, D)
        weights = in_proj, out_proj, conv, conv_bias, x_proj, to_dt, dt_bias, A, D
        ctx.save_for_backward(hidden, xz, projected, *kept, *weights)
        return (_rows(gated) @ out_proj.t()).view_as(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        kernels: Kernels = ctx.kernels
        hidden, xz, projected, total, states, *weights = ctx.saved_tensors
        in_proj, out_proj, conv, conv_bias, x_proj, to_dt, dt_bias, A, D = weights
        x, z = xz.chunk(2, dim=-1)
        u = kernels.conv_forward(x, conv, conv_bias)
        scanned = _scanned(u, projected, to_dt, A, D, z, dt_bias)

        dout = _rows(dout)
        dgated, gated = (dout @ out_proj).view_as(total), torch.empty_like(total)
        dxz, dprojected = torch.empty_like(xz), torch.empty_like(projected)
        dx, dz = dxz.chunk(2, dim=-1)
        ddt, dB, dC = _parts(dprojected, u, A)
        du, ddelta, dA, dD, ddt_bias = (torch.empty_like(t) for t in (u, u, A, D, dt_bias))
        grads = ScanTensors(du, ddelta, dA, dB, dC, dD, dz, ddt_bias)
        kernels.scan_backward(dgated, scanned, (total, states), True, grads, again=gated)
        dout_proj = (dout.t() @ _rows(gated)) / 2

        ddelta = ddelta.flatten(1, 2)
        # dt is narrow: products with it on the left run up to seven times as fast as with it on the right
        dto_dt = torch.bmm(projected[..., : to_dt.shape[2]].mT, ddelta).mT
        ddt.flatten(1, 2).copy_(torch.bmm(to_dt.mT.contiguous(), ddelta.mT).mT)
        dx_proj = torch.bmm(dprojected.mT, u.flatten(1, 2))
        through = du.flatten(1, 2)
        torch.baddbmm(through, dprojected, x_proj, out=through)  # added where it is
        dconv, dconv_bias = kernels.conv_backward(du, x, conv, conv_bias, dx)
        din_proj = _rows(dxz).t() @ _rows(hidden)
        dhidden = (_rows(dxz) @ in_proj).view_as(hidden)

        both = dconv.unsqueeze(2), dconv_bias, dx_proj, dto_dt, ddt_bias, dA * A, dD  # A = -exp(A_log)
        dweights = (din_proj, dout_proj, *(grad for pair in both for grad in pair.unbind()))
        return None, dhidden, *(grad.to(dtype) for grad, dtype in zip(dweights, ctx.types, strict=True))


def _rows(x: Tensor) -> Tensor:
    """(B, T, F) -> (B T, F)."""
    return x.reshape(-1, x.shape[-1])


def _parts(projected: Tensor, u: Tensor, A: Tensor) -> tuple[Tensor, ...]:
    """(2, B T, R) -> dt, B and C: (2, B, T, dt_rank or N), views."""
    states = A.shape[2]
    return projected.unflatten(1, u.shape[1:3]).split([projected.shape[2] - 2 * states, states, states], dim=-1)


def _scanned(
    u: Tensor, projected: Tensor, to_dt: Tensor, A: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor
) -> ScanTensors:
    dt, B, C = _parts(projected, u, A)
    delta = torch.bmm(dt.flatten(1, 2), to_dt.mT).view_as(u)
    return ScanTensors(u, delta, A, B, C, D, z, dt_bias)
