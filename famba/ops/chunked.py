"""The scan in torch, on any device and in any floating type, in O(√L) of the reference's memory.

All channels of all directions step through time together, a chunk at a time. The decays exp(Δ_t A) and the inputs
Δ_t B_t u_t of one chunk are formed at once; only the recurrence itself is a loop, two operands per step. The forward
pass saves the state at the start of each chunk; the backward pass iterates over the chunks in reverse and recomputes
each from there, so (B, L, D, N) never exists for the whole sequence. Nothing is computed in log space, where long
products of small decays overflow.

Norm, matching and merging are the reference's.

Inside, tensors are time-first and the channels come last, (T, K, B, N, D): every elementwise operation runs over
contiguous channels. Time is scan time: step t of direction 1 is position L-1-t.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops.reference import groups, match, merge, merge_backward, norm, norm_backward, unavailable  # noqa: F401
from famba.ops.types import ScanTensors

passes = None


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out: Tensor = _Conv.apply(x, weight, bias)
    return out


def scan(inputs: ScanTensors, softplus: bool) -> Tensor:
    out: Tensor = _Scan.apply(softplus, *inputs)
    return out


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, softplus: bool, *inputs: Tensor | None) -> Tensor:
        u, delta, A, B, C, D, z, delta_bias = ScanTensors(*inputs)  # type: ignore[arg-type]
        directions, batch, length, dim = u.shape
        state = A.shape[2]
        chunk = _chunk_length(length)
        starts = range(0, length, chunk)
        A_nd = A.mT[:, None]  # (K, 1, N, D)

        decay = A.new_empty(chunk, directions, batch, state, dim)
        states = torch.empty_like(decay)
        h = A.new_zeros(directions, batch, state, dim)
        checkpoints = A.new_empty(len(starts), *h.shape)  # the state before each chunk
        y = A.new_zeros(batch, length, dim)
        for i, start in enumerate(starts):
            stop = min(start + chunk, length)
            checkpoints[i] = h
            u_c, delta_c, _ = _inputs(u, delta, delta_bias, softplus, start, stop, A.dtype)
            B_c, C_c = _take(B, start, stop, A.dtype), _take(C, start, stop, A.dtype)  # (T, K, B, N)
            h = _advance(decay, states, checkpoints[i], u_c, delta_c, A_nd, B_c)
            _add_directions(y, _read(C_c, states[: stop - start]), start, stop)
            if D is not None:
                _add_directions(y, u_c * D[:, None], start, stop)

        ctx.save_for_backward(*inputs, checkpoints)
        ctx.softplus = softplus
        return (y if z is None else y * F.silu(z.to(y.dtype))).to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, checkpoints = ctx.saved_tensors
        with torch.autocast(dout.device.type, enabled=False):
            return None, *_scan_backward(dout, ScanTensors(*inputs), checkpoints, ctx.softplus)


def _scan_backward(dout: Tensor, inputs: ScanTensors, checkpoints: Tensor, softplus: bool) -> tuple[Tensor | None, ...]:
    u, delta, A, B, C, D, z, delta_bias = inputs
    directions, batch, length, dim = u.shape
    state = A.shape[2]
    chunk = _chunk_length(length)
    A_nd = A.mT[:, None]  # (K, 1, N, D)
    dy = dout.to(A.dtype)  # (B, L, D), the same for every direction: the gate follows their sum
    if z is not None:
        dy = dy * F.silu(z.to(A.dtype))

    du, ddelta, dB, dC = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta, B, C))
    dA = torch.zeros_like(A_nd)
    dD, dbias = A.new_zeros(directions, dim), A.new_zeros(directions, dim)
    y = A.new_zeros(batch, length, dim)  # recomputed for the gate's gradient

    decay = A.new_empty(chunk, directions, batch, state, dim)
    states, dstates = torch.empty_like(decay), torch.empty_like(decay)
    carry = A.new_zeros(directions, batch, state, dim)  # what later chunks say of this one's last state
    for i in reversed(range(len(checkpoints))):
        start, stop = i * chunk, min((i + 1) * chunk, length)
        steps = stop - start
        a, h, g = decay[:steps], states[:steps], dstates[:steps]  # (T, K, B, N, D)
        u_c, delta_c, slope = _inputs(u, delta, delta_bias, softplus, start, stop, A.dtype)
        B_c, C_c = _take(B, start, stop, A.dtype), _take(C, start, stop, A.dtype)  # (T, K, B, N)
        dy_c = _take(dy.expand(directions, -1, -1, -1), start, stop, A.dtype)  # (T, K, B, D)
        _advance(decay, states, checkpoints[i], u_c, delta_c, A_nd, B_c)
        if z is not None:
            _add_directions(y, _read(C_c, h), start, stop)
            if D is not None:
                _add_directions(y, u_c * D[:, None], start, stop)

        # g_t = ∂loss/∂h_t = C_t dy_t + a_{t+1} g_{t+1}
        torch.mul(C_c.unsqueeze(-1), dy_c.unsqueeze(-2), out=g)
        g[-1] += carry
        for t in reversed(range(steps - 1)):
            g[t].addcmul_(a[t + 1], g[t + 1])
        torch.mul(a[0], g[0], out=carry)

        _put(dC, (h @ dy_c.unsqueeze(-1)).squeeze(-1), start, stop)
        _put(dB, (g @ (delta_c * u_c).unsqueeze(-1)).squeeze(-1), start, stop)
        dinput = _read(B_c, g)  # ∂loss/∂(Δ_t u_t), (T, K, B, D)
        du_c = dinput * delta_c
        if D is not None:
            du_c.addcmul_(dy_c, D[:, None])
            dD += (dy_c * u_c).sum((0, 2))
        _put(du, du_c, start, stop)

        # ∂loss/∂(Δ_t A) = g_t a_t h_{t-1}, in the place of a
        a.mul_(g)
        a[1:].mul_(h[:-1])
        a[0].mul_(checkpoints[i])
        ddelta_c = torch.mul(a, A_nd, out=g).sum(-2).addcmul_(dinput, u_c)
        dA += a.mul_(delta_c.unsqueeze(-2)).sum((0, 2), keepdim=True)[0]
        if slope is not None:
            ddelta_c.mul_(slope)
        dbias += ddelta_c.sum((0, 2))
        _put(ddelta, ddelta_c, start, stop)

    dz = None
    if z is not None:
        gate = torch.sigmoid(z.to(A.dtype))
        # SiLU'(z) = σ(z) (1 + z (1 - σ(z)))
        dz = (y.mul_(dout) * gate * (1 + z * (1 - gate))).to(z.dtype)
    return (
        du,
        ddelta,
        dA.squeeze(1).mT,
        dB,
        dC,
        None if D is None else dD,
        dz,
        None if delta_bias is None else dbias,
    )


def _chunk_length(length: int) -> int:
    """√L balances the memory of one chunk against that of the checkpoints."""
    return math.isqrt(max(length - 1, 0)) + 1


def _inputs(
    u: Tensor, delta: Tensor, delta_bias: Tensor | None, softplus: bool, start: int, stop: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """u and Δ of one chunk, (T, K, B, D), and softplus' slope where it applies."""
    delta_c = _take(delta, start, stop, dtype)
    if delta_bias is not None:
        delta_c += delta_bias[:, None]
    slope = None
    if softplus:
        slope = torch.sigmoid(delta_c)
        delta_c = F.softplus(delta_c)
    return _take(u, start, stop, dtype), delta_c, slope


def _advance(decay: Tensor, states: Tensor, h: Tensor, u: Tensor, delta: Tensor, A_nd: Tensor, B: Tensor) -> Tensor:
    """Fill `decay` and `states` for one chunk that starts from the state `h`; returns its last state."""
    steps = u.shape[0]
    torch.mul(delta.unsqueeze(-2), A_nd, out=decay[:steps]).exp_()
    torch.mul((delta * u).unsqueeze(-2), B.unsqueeze(-1), out=states[:steps])
    for a_t, h_t in zip(decay[:steps], states, strict=False):
        h = h_t.addcmul_(a_t, h)
    return h


def _read(weights: Tensor, states: Tensor) -> Tensor:
    """Σ_n weights_n states_n: (T, K, B, N), (T, K, B, N, D) -> (T, K, B, D)."""
    return (weights.unsqueeze(-2) @ states).squeeze(-2)


def _span(k: int, start: int, stop: int, length: int) -> slice:
    """Where steps [start, stop) of direction k lie in natural order."""
    return slice(start, stop) if k == 0 else slice(length - stop, length - start)


def _take(x: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Steps [start, stop) of (K, B, L, F) in scan order, (T, K, B, F)."""
    directions, batch, length, features = x.shape
    out = x.new_empty(stop - start, directions, batch, features, dtype=dtype)
    for k in range(directions):
        part = x[k, :, _span(k, start, stop, length)]
        out[:, k] = (part if k == 0 else part.flip(1)).transpose(0, 1)
    return out


def _put(x: Tensor, steps: Tensor, start: int, stop: int) -> None:
    """The inverse of `_take`: write (T, K, B, F) into (K, B, L, F)."""
    for k in range(x.shape[0]):
        part = steps[:, k] if k == 0 else steps[:, k].flip(0)
        x[k, :, _span(k, start, stop, x.shape[2])] = part.transpose(0, 1)


def _add_directions(y: Tensor, steps: Tensor, start: int, stop: int) -> None:
    """Add every direction of (T, K, B, D) to (B, L, D) in natural order."""
    for k in range(steps.shape[1]):
        part = steps[:, k] if k == 0 else steps[:, k].flip(0)
        y[:, _span(k, start, stop, y.shape[1])] += part.transpose(0, 1)


class _Conv(torch.autograd.Function):
    """Saves only its input; the backward pass recomputes the pre-activation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        padded = _pad(x, weight)
        out = x.new_empty(weight.shape[0], *x.shape)
        for k in range(weight.shape[0]):
            out[k] = F.silu(_preactivation(padded, weight, bias, k))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        directions, _, width = weight.shape
        padded = _pad(x, weight)
        dpadded, dweight, dbias = (torch.zeros_like(t) for t in (padded, weight, bias))
        for k in range(directions):
            pre = _preactivation(padded, weight, bias, k)
            gate = torch.sigmoid(pre)
            dpre = dout[k].to(pre.dtype) * gate * (1 + pre * (1 - gate))
            dbias[k] = dpre.sum((0, 1))
            for w in range(width):
                window = _window(k, w, width, x.shape[1])
                dweight[k, :, w] = (dpre * padded[:, window]).sum((0, 1))
                dpadded[:, window].addcmul_(dpre, weight[k, :, w])
        return dpadded[:, width - 1 : width - 1 + x.shape[1]].to(x.dtype), dweight, dbias


def _pad(x: Tensor, weight: Tensor) -> Tensor:
    """Zeros for the past and the future: (B, L + 2(W-1), D)."""
    reach = weight.shape[2] - 1
    return F.pad(x.to(weight.dtype), (0, 0, reach, reach))


def _window(k: int, w: int, width: int, length: int) -> slice:
    """What tap w of direction k sees: x_{t-(W-1)+w}, or x_{t+(W-1)-w} in reversed time."""
    start = w if k == 0 else 2 * (width - 1) - w
    return slice(start, start + length)


def _preactivation(padded: Tensor, weight: Tensor, bias: Tensor, k: int) -> Tensor:
    """Σ_w weight_w x_{…} + bias for one direction, (B, L, D)."""
    width = weight.shape[2]
    length = padded.shape[1] - 2 * (width - 1)
    out = bias[k].expand(padded.shape[0], length, -1).clone()
    for w in range(width):
        out.addcmul_(padded[:, _window(k, w, width, length)], weight[k, :, w])
    return out
