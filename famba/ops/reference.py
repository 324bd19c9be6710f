"""The oracle, in plain torch: scan and convolution, matching and merging.

The scan is the equations of the paper, one time step after the other, gradients by plain autograd. Any floating type;
the state is float64 for float64 inputs and float32 for narrower ones. It is slow and stores every state.

`match`, `groups`, `merge` and `merge_backward` are `types.Rows` in torch. They also run wherever no kernels do.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from famba.ops.precision import without_autocast
from famba.ops.types import ScanTensors


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


def groups(
    places: Tensor, source: Tensor, target: Tensor, cls: Tensor | None, tokens: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `types.Rows.groups`, and `famba.fusion.Match._rows`."""
    batch, remaining = places.shape
    group = torch.empty(batch, tokens, dtype=torch.long, device=places.device)
    group.scatter_(1, places, torch.arange(remaining, device=places.device).expand(batch, -1))
    joined = group.gather(1, target)
    group.scatter_(1, source, joined)
    size = torch.ones(batch, remaining, dtype=torch.float32, device=places.device)
    size.scatter_add_(1, joined, torch.ones_like(joined, dtype=size.dtype))
    after = None if cls is None else group.gather(1, cls[:, None])[:, 0]
    return _as_rows(group, remaining), size.view(-1, 1), after


def merge(x: Tensor, places: Tensor, source: Tensor, group: Tensor, size: Tensor) -> Tensor:
    """See `types.Rows.merge`."""
    batch, tokens, channels = x.shape
    flat, source_rows = x.reshape(batch * tokens, channels), _as_rows(source, tokens)
    out = flat.index_select(0, _as_rows(places, tokens))
    out.index_add_(0, group[source_rows], flat.index_select(0, source_rows))
    out /= size.to(out.dtype)
    return out.view(batch, places.shape[1], channels)


def merge_backward(grad: Tensor, group: Tensor, size: Tensor, tokens: int) -> Tensor:
    """See `types.Rows.merge_backward`."""
    batch, remaining, channels = grad.shape
    shared = grad.reshape(batch * remaining, channels) / size.to(grad.dtype)
    return shared.index_select(0, group).view(batch, tokens, channels)


@torch.no_grad()
def match(metric: Tensor, r: int, cls: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """source, target, kept and tome of `famba.fusion.Match`, for a metric in at least float32 and an r that fits."""
    batch, tokens, _ = metric.shape
    position = torch.arange(tokens, device=metric.device).expand(batch, -1)  # (B, T)
    with without_autocast(metric.device.type):
        squares = _rounded_sum(metric, lambda x: x.square().sum(dim=-1))
        # what is not finite has no norm, so that none of its similarities is a number
        scale = 1 / squares.sqrt().clamp_min(torch.finfo(metric.dtype).tiny).where(squares.isfinite(), torch.nan)
        products = _rounded_sum(metric, lambda x: x[:, ::2] @ x[:, 1::2].transpose(1, 2))
        similarity = products * scale[:, ::2, None] * scale[:, None, 1::2]  # (B, A, B)
    unknown = torch.finfo(metric.dtype).min  # last of all, but before the class token
    similarity = similarity.where(similarity == similarity, unknown)  # noqa: PLR0124 (false for NaN)
    if cls is not None:
        is_cls = position == cls[:, None]  # (B, T)
        similarity.masked_fill_(is_cls[:, ::2, None] | is_cls[:, None, 1::2], -torch.inf)
    if tokens > 1:
        target = similarity.argmax(dim=-1)  # (B, A): the first of equals
        strength = similarity.gather(-1, target[..., None])[..., 0]
    else:
        target = strength = similarity.new_zeros(batch, 1)
    edges = strength.argsort(dim=-1, descending=True, stable=True)  # (B, A)
    fused, unfused = edges[:, :r], edges[:, r:]
    source = fused * 2
    joined = target.gather(-1, fused).long() * 2 + 1
    # sorted to the end rather than masked out: a mask's result has no static shape
    kept = position.scatter(1, source, tokens).sort(dim=1).values[:, : tokens - r]
    # ToMe leaves the unfused evens by falling similarity unless a class token must stay in front (merge.py:70)
    evens = unfused if cls is None else unfused.sort(dim=-1).values
    return source, joined, kept, torch.cat([evens * 2, position[:, 1::2]], dim=1)


def _rounded_sum(x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """A sum of products of float32, taken in float64 and rounded once: equal tokens tie, and no TF32 is at work."""
    wide = torch.float64 if x.device.type in ("cpu", "cuda") else x.dtype
    return of(x.to(wide)).to(x.dtype)


def _as_rows(index: Tensor, tokens: int) -> Tensor:
    """(B, n) positions within sequences of `tokens` -> (B * n) rows of the flattened batch."""
    start = torch.arange(index.shape[0], device=index.device)[:, None] * tokens
    return (index + start).flatten()
