"""RMS norm, with or without an addition before it, as one autograd function: over the kernels, or in torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops import dispatch


class RMSNormFn(torch.autograd.Function):
    """The norm of x, or of x + added, and that sum. Kept are the sum and 1 / rms.

    torch's own keeps its result as well on a CPU. The gradient of the sum is added to the norm's own in the same pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        ctx.added = None if added is None else added.dtype
        rows = dispatch.kernels(x.device, x.dtype)
        if rows and (added is None or dispatch.kernels(x.device, added.dtype, merging=True)):
            out, rstd, total = rows.norm(x, added, weight, eps, dtype)
        else:
            total = x if added is None else x + added
            rstd = torch.rsqrt(total.square().mean(dim=-1, keepdim=True) + eps)
            out = (total * rstd * weight).to(dtype)
        ctx.save_for_backward(total, weight, rstd)
        return out, None if added is None else total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dtotal: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, rstd = ctx.saved_tensors
        added = total.dtype if ctx.added is None else ctx.added
        if rows := dispatch.kernels(total.device, total.dtype):
            dx, dadded, dweight = rows.norm_backward(dout, dtotal, total, weight, rstd, added)
        else:
            unit, along = total * rstd, dout * weight
            dx = (along - unit * (along * unit).mean(dim=-1, keepdim=True)) * rstd
            dx = dx if dtotal is None else dx + dtotal
            dadded, dweight = dx.to(added), (dout * unit).flatten(0, -2).sum(dim=0)
        return dx, None if ctx.added is None else dadded, dweight, None, None
