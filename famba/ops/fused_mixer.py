"""The mixer as one autograd function, over the forward and backward kernels of `cpp` or `triton`.

The same arithmetic as in `mixer.Mixer.forward`, in the same order. With the backward pass written out, gradients are
written where they are needed: those of x and z into one tensor, those of dt, B and C into another, and a product is
added to what is there. A layer is one node of autograd's graph instead of forty. mamba's own `mamba_inner_fn`
(state-spaces/mamba, selective_scan_interface.py) does the same for one direction. Like it, the backward pass recomputes
convolution and delta; it also recomputes the gate, so that only the sum before it is saved.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops.types import Passes, ScanTensors, StreamGrads


def mix(passes: Passes, hidden: Tensor, in_proj: Tensor, out_proj: Tensor, *pairs: Tensor) -> Tensor:
    """The mixer's output, (B, T, C) as hidden, whose type the kernels must take.

    in_proj (2 D, C), out_proj (C, D). `pairs` are, of the forward and the backward direction in turn: x_proj (R, D)
    with R = dt_rank + 2 N, dt_proj's weight (D, dt_rank) and bias (D), the convolution's weight (D, 1, d_conv) and bias
    (D), A_log (D, N), D (D).
    """
    out: Tensor = _Mix.apply(passes, hidden, in_proj, out_proj, *pairs)
    return out


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: Passes, hidden: Tensor, in_proj: Tensor, out_proj: Tensor, *pairs: Tensor) -> Tensor:
        ctx.passes = passes
        ctx.types = [parameter.dtype for parameter in (in_proj, out_proj, *pairs[::2])]
        in_proj, out_proj = _as([hidden.dtype] * 2, [in_proj, out_proj])
        x_proj, to_dt = _stacked(pairs[:4], hidden.dtype)
        dt_bias, conv, conv_bias, A, D = _stacked(pairs[4:], torch.float32)
        conv, A = conv.squeeze(2), A.exp_().neg_()

        xz = (_rows(hidden) @ in_proj.t()).view(*hidden.shape[:2], -1)  # (B, T, 2 D)
        x, z = xz.chunk(2, dim=-1)
        u = passes.conv_forward(x, conv, conv_bias)  # (2, B, T, D)
        projected = torch.bmm(u.flatten(1, 2), x_proj.mT)  # (2, B T, R)
        gated, saved = passes.scan_forward(_scanned(u, projected, to_dt, A, D, z, dt_bias), True)  # (B, T, D)
        weights = in_proj, out_proj, conv, conv_bias, x_proj, to_dt, dt_bias, A, D
        ctx.save_for_backward(hidden, xz, projected, *saved, *weights)
        return _half_product(_rows(gated), out_proj.t()).view_as(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        passes: Passes = ctx.passes
        hidden, xz, projected, total, states, *weights = ctx.saved_tensors
        in_proj, out_proj, conv, conv_bias, x_proj, to_dt, dt_bias, A, D = weights
        x, z = xz.chunk(2, dim=-1)
        u = passes.conv_forward(x, conv, conv_bias)
        scanned = _scanned(u, projected, to_dt, A, D, z, dt_bias)

        dout = _rows(dout)
        dgated, gated = _half_product(dout, out_proj).view_as(total), torch.empty_like(total)
        dxz, dprojected = torch.empty_like(xz), torch.empty_like(projected)
        dx, dz = dxz.chunk(2, dim=-1)
        ddt, dB, dC = _parts(dprojected, u, A)
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
        grads = StreamGrads(du, ddelta, dB, dC, dz)
        of_parameters = passes.scan_backward(dgated, scanned, (total, states), True, grads, gated)
        dA, dD, ddt_bias = cast("tuple[Tensor, ...]", of_parameters)  # all of them are there
        dout_proj = _half_product(dout.t(), _rows(gated))

        ddelta = ddelta.flatten(1, 2)
        # dt is narrow: products with it on the left run up to seven times as fast as with it on the right
        dto_dt = torch.bmm(projected[..., : to_dt.shape[2]].mT, ddelta).mT.contiguous()
        ddt.flatten(1, 2).copy_(torch.bmm(to_dt.mT.contiguous(), ddelta.mT).mT)
        dx_proj = torch.bmm(dprojected.mT, u.flatten(1, 2))
        through = du.flatten(1, 2)
        torch.baddbmm(through, dprojected, x_proj, out=through)  # added where it is
        dconv, dconv_bias = passes.conv_backward(du, x, conv, conv_bias, dx)
        din_proj = _rows(dxz).t() @ _rows(hidden)
        dhidden = (_rows(dxz) @ in_proj).view_as(hidden)

        of_pairs = dx_proj, dto_dt, ddt_bias, dconv.unsqueeze(2), dconv_bias, dA * A, dD  # A = -exp(A_log)
        din_proj, dout_proj, *both = _as(ctx.types, [din_proj, dout_proj, *of_pairs])
        return None, dhidden, din_proj, dout_proj, *(grad for pair in both for grad in pair.unbind())


def _stacked(pairs: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Of each two tensors one, (2, ...), in another type. A GPU copies them all in one launch."""
    both = [first.new_empty(2, *first.shape, dtype=dtype) for first in pairs[::2]]
    torch._foreach_copy_([half for stack in both for half in stack.unbind()], list(pairs))
    return both


def _as(types: Sequence[torch.dtype], tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in those types, copied likewise where they have another."""
    made = list(tensors)
    other = [i for i, dtype in enumerate(types) if tensors[i].dtype != dtype]
    for i in other:
        made[i] = torch.empty_like(tensors[i], dtype=types[i])
    if other:
        torch._foreach_copy_([made[i] for i in other], [tensors[i] for i in other])
    return made


def _half_product(x: Tensor, y: Tensor) -> Tensor:
    """x @ y / 2, for the mean of the two directions; the product halves as it writes."""
    return torch.addmm(x.new_empty(()), x, y, beta=0, alpha=0.5)


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
