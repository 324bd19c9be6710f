"""Hidden-state alignment of ToP-ViM (arXiv 2409.18962): inputs and steps of a scan that lacks some of its tokens.

Over n missing tokens before a token, each of which adds nothing, the state decays by n steps Δ_0. One longer step does
the same, with the input scaled down by as much:

    h_t = exp((Δ_t + n Δ_0) A) h_{t-1} + Δ_t B_t u_t,    Δ_t = softplus(delta_t + bias),    Δ_0 = softplus(bias)
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def align(u: Tensor, delta: Tensor, bias: Tensor, missing: Tensor) -> Tensor:
    """Inputs and steps with which a scan decays its state at missing tokens, too.

    Args:
        u, delta: (K, B, T, D), of one type. bias: (K, D). missing: (B, T, 1), tokens that are missing just before each.

    Returns:
        (2, K, B, T, D) in u's type: the inputs u Δ / s and the steps s = Δ + n Δ_0.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        made: Tensor = _Align.apply(u, delta, bias, missing)
        return made
    return _align(u, delta, bias, missing)


def _align(u: Tensor, delta: Tensor, bias: Tensor, missing: Tensor) -> Tensor:
    wide = torch.promote_types(u.dtype, torch.float32)
    bias = bias.to(wide)[:, None, None]
    step = F.softplus(delta.to(wide) + bias)
    steps = step + missing * F.softplus(bias)
    # where both steps are 0 the token adds nothing
    return torch.stack([u * (step / steps.clamp_min(torch.finfo(wide).tiny)), steps]).to(u.dtype)


class _Align(torch.autograd.Function):
    """Saves its inputs alone, which the mixer recomputes; autograd would save every product in float32."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, bias: Tensor, missing: Tensor) -> Tensor:
        ctx.save_for_backward(u, delta, bias, missing)
        return _align(u, delta, bias, missing)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, bias, missing = ctx.saved_tensors
        with torch.enable_grad():
            u, delta, bias = (tensor.detach().requires_grad_() for tensor in (u, delta, bias))
            return *torch.autograd.grad(_align(u, delta, bias, missing), (u, delta, bias), dout), None
