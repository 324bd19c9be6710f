"""The oracle: the equations of the paper, one time step after the other, gradients by plain autograd.

Any floating type; the state is float64 for float64 inputs and float32 for narrower ones. It is slow and stores every
state.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from famba.scan.autograd import ScanTensors


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type == "cuda" and not torch.cuda.is_available():
        return "needs a CUDA device and torch sees none"
    return None if dtype.is_floating_point else f"takes floating types, not {str(dtype).removeprefix('torch.')}"


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    directions, _, width = weight.shape
    length = x.shape[1]
    past_and_future = F.pad(x.to(weight.dtype), (0, 0, width - 1, width - 1))  # (B, L + 2(W-1), D)
    outs = []
    for k in range(directions):
        out = bias[k].expand_as(x)
        for w in range(width):
            # out_t = Σ_w weight_w x_{t-(W-1)+w}; in reversed time, x_{t+(W-1)-w}
            start = w if k == 0 else 2 * (width - 1) - w
            out = out + weight[k, :, w] * past_and_future[:, start : start + length]
        outs.append(F.silu(out))
    return torch.stack(outs).to(x.dtype)  # (K, B, L, D)


def scan(inputs: ScanTensors, softplus: bool) -> Tensor:
    u, delta, A, B, C, D, z, delta_bias = inputs
    y = sum(
        _one_direction(
            u[k].to(A.dtype),
            delta[k].to(A.dtype),
            A[k],
            B[k].to(A.dtype),
            C[k].to(A.dtype),
            None if D is None else D[k],
            None if delta_bias is None else delta_bias[k],
            softplus,
            reverse=k == 1,
        )
        for k in range(u.shape[0])
    )
    assert isinstance(y, Tensor)
    if z is not None:
        y = y * F.silu(z.to(A.dtype))
    return y.to(u.dtype)  # (B, L, D)


def _one_direction(
    u: Tensor,  # (B, L, D)
    delta: Tensor,  # (B, L, D)
    A: Tensor,  # (D, N)
    B: Tensor,  # (B, L, N)
    C: Tensor,  # (B, L, N)
    D: Tensor | None,  # (D)
    delta_bias: Tensor | None,  # (D)
    softplus: bool,
    reverse: bool,
) -> Tensor:
    if delta_bias is not None:
        delta = delta + delta_bias
    if softplus:
        delta = F.softplus(delta)

    steps = zip(delta.unbind(1), (delta * u).unbind(1), B.unbind(1), C.unbind(1), strict=True)
    h = u.new_zeros(u.shape[0], *A.shape)  # (B, D, N)
    ys = []
    for delta_t, input_t, B_t, C_t in reversed(list(steps)) if reverse else steps:
        h = torch.exp(delta_t[:, :, None] * A) * h + input_t[:, :, None] * B_t[:, None, :]
        ys.append((h * C_t[:, None, :]).sum(-1))  # (B, D)
    y = torch.stack(ys[::-1] if reverse else ys, dim=1)  # (B, L, D), natural order
    return y if D is None else y + D * u
