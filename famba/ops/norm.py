"""RMS norm, with or without an addition before it, as an autograd function over a backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops.types import Backend


class RMSNormFn(torch.autograd.Function):
    """The norm of x, or of x + added, and that sum. Saved are the sum and 1 / rms.

    torch's own saves its result as well on a CPU. The gradient of the sum is added to the norm's own in the same pass.
    """

    @staticmethod
    def forward(
        ctx: Any, backend: Backend, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        out, rstd, total = backend.norm(x, added, weight, eps, dtype)
        ctx.save_for_backward(total, weight, rstd)
        ctx.backend, ctx.added = backend, None if added is None else added.dtype
        return out, None if added is None else total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dtotal: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, rstd = ctx.saved_tensors
        added = total.dtype if ctx.added is None else ctx.added
        dx, dadded, dweight = ctx.backend.norm_backward(dout, dtotal, total, weight, rstd, added)
        return None, dx, None if ctx.added is None else dadded, dweight, None, None
