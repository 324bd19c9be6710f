"""RMS norm, with or without an addition before it, over the backend of the device."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops import dispatch, reference
from famba.ops.types import Backend


def rms_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The norm in `dtype` of x (..., C), or of x + added, and that sum; x where nothing is added. weight: (C)."""
    backend = dispatch.token_backend(x.device)
    if backend is reference and x.device.type == "cuda":
        # torch's norm is one kernel on a GPU, the reference several; mamba_ssm runs on GPUs that triton does not
        total = x if added is None else x + added
        return F.rms_norm(total, total.shape[-1:], weight, eps).to(dtype), total
    normed, total = RMSNormFn.apply(backend, x, added, weight, eps, dtype)
    return normed, x if added is None else total


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
