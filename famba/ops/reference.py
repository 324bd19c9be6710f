"""The reference: every operator straight from its equation, in torch, on any device and in any floating type.

The scan takes one time step after the other and stores every state; autograd differentiates it. Other backends are
tested against it, and call it for what they do not implement. The symbols are those of `famba.ops`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from famba.ops.precision import without_autocast
from famba.ops.types import ScanTensors

passes = None
# pairs of tokens that `nearest` compares at once, per image: their similarities take 64 MiB in float64, however many
# tokens there are; all pairs of 5,793 tokens
PAIRS = 1 << 23


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why it cannot run streams of `dtype` on `device`; None if it can."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return "needs a CUDA device and torch sees none"
    return None if dtype.is_floating_point else f"takes floating types, not {str(dtype).removeprefix('torch.')}"


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the depthwise causal convolution, in K directions: out_t = SiLU(Σ_w weight_w x_{t-(W-1)+w} + bias).

    Direction 1 is causal in reversed time: it reads x_{t+(W-1)-w}.

    Args:
        x: (B, L, D), any floating type. weight: (K, D, W), bias: (K, D), in the compute dtype.

    Returns:
        (K, B, L, D) in x's type.
    """
    directions, _, width = weight.shape
    length = x.shape[1]
    past_and_future = F.pad(x.to(weight.dtype), (0, 0, width - 1, width - 1))  # (B, L + 2(W-1), D)
    outs = []
    for k in range(directions):
        out = bias[k].expand_as(x)
        for w in range(width):
            start = w if k == 0 else 2 * (width - 1) - w
            out = out + weight[k, :, w] * past_and_future[:, start : start + length]
        outs.append(F.silu(out))
    return torch.stack(outs).to(x.dtype)  # (K, B, L, D)


def scan(inputs: ScanTensors, softplus: bool) -> Tensor:
    """The selective scan of every direction, their sum, and the gate (Mamba, arXiv 2312.00752, equations 2a, 2b, 4).

        h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t u_t,    y_t = C_t · h_t + D u_t,    out = (Σ_k y_k) ⊙ SiLU(z)

    A is discretised by the zero-order hold of equation 4, B by the Euler step Δ_t B_t, as Mamba's code does. With
    `softplus`, Δ is softplus(delta + delta_bias), else delta + delta_bias.

    Args:
        inputs: see `ScanTensors`; the state h has the parameters' type.

    Returns:
        (B, L, D) in u's type; without the term D u if D is None, without the gate if z is None.
    """
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


def norm(
    x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The RMS norm (arXiv 1910.07467, equation 4) of s = x + added, or of s = x.

        out = s / rms(s) ⊙ weight,    rms(s) = √(mean(s²) + eps)

    Args:
        x: (..., C). added: likewise, of any floating type, or None. weight: (C).
        dtype: of the result.

    Returns:
        out (..., C) in `dtype`; 1 / rms(s), (..., 1); s (..., C), x itself where nothing is added.
    """
    total = x if added is None else x + added
    rstd = torch.rsqrt(total.square().mean(dim=-1, keepdim=True) + eps)
    return (total * rstd * weight).to(dtype), rstd, total


def norm_backward(
    dout: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, rstd: Tensor, added_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `norm`: with n = s / rms(s) and g = dout ⊙ weight, ds = (g - n mean(g n)) / rms(s) + dtotal.

    Args:
        dout: (..., C), of out. dtotal: (..., C), of s from its other uses; None if it has none.
        total, weight, rstd: what `norm` took and returned. added_dtype: of the tensor that was added.

    Returns:
        ds (..., C), ds cast to `added_dtype`, and dweight = Σ dout n, (C).
    """
    n, g = total * rstd, dout * weight
    dx = (g - n * (g * n).mean(dim=-1, keepdim=True)) * rstd
    dx = dx if dtotal is None else dx + dtotal
    return dx, dx.to(added_dtype), (dout * n).reshape(-1, n.shape[-1]).sum(dim=0)


@torch.no_grad()
def match(metric: Tensor, r: int, cls: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bipartite soft matching (ToMe af95e4b, tome/merge.py:20-89), with the rules of `famba.fusion.match`.

    Args:
        metric: (B, T, C) in at least float32. cls: (B,) position of the class token, never matched, or None.
        r: pairs, at most half of the tokens that may be matched.

    Returns:
        Positions, int64:
        source (B, r): tokens that are fused away, strongest link first.
        target (B, r): the token that each of them joins.
        kept (B, T - r): the tokens that remain, ascending.
        tome (B, T - r): the same in ToMe's order.
    """
    batch, tokens, _ = metric.shape
    position = torch.arange(tokens, device=metric.device).expand(batch, -1)  # (B, T)
    target, strength = nearest(metric, cls) if tokens > 1 else (metric.new_zeros(batch, 1),) * 2  # (B, evens)
    edges = strength.argsort(dim=-1, descending=True, stable=True)  # (B, evens)
    fused, unfused = edges[:, :r], edges[:, r:]
    source = fused * 2
    target = target.gather(-1, fused).long() * 2 + 1
    # sort removed tokens to the end; a boolean mask would give a shape that depends on the data
    kept = position.scatter(1, source, tokens).sort(dim=1).values[:, : tokens - r]
    # ToMe keeps the unfused evens in descending similarity unless a class token must stay in front (merge.py:70)
    evens = unfused if cls is None else unfused.sort(dim=-1).values
    return source, target, kept, torch.cat([evens * 2, position[:, 1::2]], dim=1)


def nearest(metric: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, T, C), T of 2 or more -> of each even token the nearest odd one, counted among these, and the similarity.

    (B, evens) each. The similarity as in `match`: the least number where there is none, -inf of cls.
    """
    tokens, blocks = metric.shape[1], []
    size = max(1, PAIRS // (tokens // 2))  # evens of a block
    for first in range(0, tokens, 2 * size):
        similarity = _links(metric, cls, slice(first, first + 2 * size, 2))
        best = similarity.argmax(dim=-1)  # (B, size): the first of tied values
        blocks.append((best, similarity.gather(-1, best[..., None])[..., 0]))
    target, strength = (torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True))
    return target, strength


def _links(metric: Tensor, cls: Tensor | None, evens: slice) -> Tensor:
    """(B, T, C) -> (B, evens, odds), all similarities of these even tokens."""
    batch, tokens, _ = metric.shape  # not len(metric): torch.export would take it for a constant
    position = torch.arange(tokens, device=metric.device).expand(batch, -1)  # (B, T)
    with without_autocast(metric.device.type):
        squares = _rounded_sum(metric, lambda x: x.square().sum(dim=-1))
        # a token that is not finite gets the norm NaN, hence only similarities that are NaN
        inverse_norm = 1 / squares.sqrt().clamp_min(torch.finfo(metric.dtype).tiny).where(squares.isfinite(), torch.nan)
        products = _rounded_sum(metric, lambda x: x[:, evens] @ x[:, 1::2].transpose(1, 2))
        similarity = products * inverse_norm[:, evens, None] * inverse_norm[:, None, 1::2]  # (B, evens, odds)
    unknown = torch.finfo(metric.dtype).min  # below every real similarity, above the class token's -inf
    similarity = similarity.where(similarity == similarity, unknown)  # noqa: PLR0124 (false for NaN)
    if cls is not None:
        is_cls = position == cls[:, None]  # (B, T)
        similarity.masked_fill_(is_cls[:, evens, None] | is_cls[:, None, 1::2], -torch.inf)
    return similarity


def _rounded_sum(x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum in float64 and round once, so that identical tokens tie exactly and TF32 plays no part."""
    wide = torch.float64 if x.device.type in ("cpu", "cuda") else x.dtype
    return of(x.to(wide)).to(x.dtype)


def groups(
    places: Tensor, source: Tensor, target: Tensor, cls: Tensor | None, tokens: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The group that each of T tokens goes to, and the size of each group.

    Args:
        places: (B, T - r) positions of the tokens that remain, in output order. source, target: (B, r), of `match`.
        cls: (B,) position of the class token, or None. tokens: T.

    Returns:
        group (B T), int64: for each token, its row in the flattened result (B (T - r), C).
        size (B (T - r), 1), float32: tokens in each group.
        The class token's position after fusion (B,), or None.
    """
    batch, remaining = places.shape
    group = torch.empty(batch, tokens, dtype=torch.long, device=places.device)
    group.scatter_(1, places, torch.arange(remaining, device=places.device).expand(batch, -1))
    of_target = group.gather(1, target)
    group.scatter_(1, source, of_target)
    size = torch.ones(batch, remaining, dtype=torch.float32, device=places.device)
    size.scatter_add_(1, of_target, torch.ones_like(of_target, dtype=size.dtype))
    after = None if cls is None else group.gather(1, cls[:, None])[:, 0]
    return _as_rows(group, remaining), size.view(-1, 1), after


def merge(x: Tensor, places: Tensor, source: Tensor, group: Tensor, size: Tensor) -> Tensor:
    """The mean of every group: (B, T, C) -> (B, T - r, C), in x's type (ToMe's mode="mean", tome/merge.py:83-89).

    index_select and index_add move whole rows of the flattened batch, where gather and scatter_reduce, which ToMe uses,
    would need an index per element. places, source: (B, T - r), (B, r); group, size: of `groups`.
    """
    batch, tokens, channels = x.shape
    flat, source_rows = x.reshape(batch * tokens, channels), _as_rows(source, tokens)
    out = flat.index_select(0, _as_rows(places, tokens))
    out.index_add_(0, group[source_rows], flat.index_select(0, source_rows))
    out /= size.to(out.dtype)
    return out.view(batch, places.shape[1], channels)


def merge_backward(dout: Tensor, group: Tensor, size: Tensor, tokens: int) -> Tensor:
    """The gradient of x (B, T, C) from that of its merging (B, T - r, C).

    Each token gets its group's gradient divided by the group's size.
    """
    batch, remaining, channels = dout.shape
    shared = dout.reshape(batch * remaining, channels) / size.to(dout.dtype)
    return shared.index_select(0, group).view(batch, tokens, channels)


def _as_rows(index: Tensor, tokens: int) -> Tensor:
    """(B, n) positions within sequences of `tokens` -> (B * n) rows of the flattened batch."""
    start = torch.arange(index.shape[0], device=index.device)[:, None] * tokens
    return (index + start).flatten()
