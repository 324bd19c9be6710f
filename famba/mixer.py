"""The bidirectional mixer of a Vision Mamba block (hustvl/Vim dd0358a; paper-facts §3)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famba import ops
from famba.ops import alignment, dispatch, fused_mixer
from famba.ops.precision import autocast_dtype, without_autocast
from famba.ops.recompute import Recompute
from famba.ops.types import Backend, Scanned

# What each direction has for itself: forward, backward, forward, ...
_PAIRS = attrgetter(
    *("x_proj.weight", "x_proj_b.weight", "dt_proj.weight", "dt_proj_b.weight", "dt_proj.bias", "dt_proj_b.bias"),
    *("conv1d.weight", "conv1d_b.weight", "conv1d.bias", "conv1d_b.bias", "A_log", "A_b_log", "D", "D_b"),
)


class Mixer(nn.Module):
    """Two selective scans over the tokens, one from each end, behind one gate.

    With [x; z] = W_in hidden, for direction k in {forward, backward}, each in its own time:
        x_k = SiLU(causal_conv1d_k(x));  [dt, B, C]_k = W_x,k x_k;  Δ_k = softplus(W_dt,k dt_k + b_dt,k)
        h_t = exp(Δ_t A_k) h_{t-1} + Δ_t B_t x_t;  y_t = C_t h_t + D_k x_t
    and out = W_out((y_f + y_b) SiLU(z) / 2): Vim gates each direction with the same z, so one gate serves both.

    Symbols, and the equations of Mamba (arXiv 2312.00752) that introduce them:
        x, z     (T, D) each, T tokens of D = expand * embed_dim channels: the branch that is scanned, and the gate
        u        x_k, the input of the scan; x_t in equations 2a and 2b
        h, Δ     state (2a), (D, N), N = d_state; step (4), (D): `delta` in the code, before its bias and softplus
        A, B, C  A_k = -exp(A_log_k), (D, N), diagonal (1a); B_t and C_t, (N), of each token (1a, 1b)
        D_k, dt  weight of the input in the output, (D), in Mamba's code only; dt_rank numbers of which Δ is made

    Parameter names are those of the official checkpoints: the backward direction's end in `_b`, but for `A_b_log`.
    """

    def __init__(
        self,
        embed_dim: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        d_inner = expand * embed_dim
        self.d_state = d_state
        self.dt_rank = math.ceil(embed_dim / 16) if dt_rank is None else dt_rank
        self.backend = backend
        self.in_proj = nn.Linear(embed_dim, 2 * d_inner, bias=False)
        for suffix in ("", "_b"):
            # a Conv1d for its parameters' names and initialisation only: the scan backend runs it, fused with SiLU
            self.add_module(f"conv1d{suffix}", nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner))
            self.add_module(f"x_proj{suffix}", nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False))
            self.add_module(f"dt_proj{suffix}", nn.Linear(self.dt_rank, d_inner))
        for name in ("A_log", "A_b_log"):
            self.register_parameter(name, nn.Parameter(torch.empty(d_inner, d_state)))
        for name in ("D", "D_b"):
            self.register_parameter(name, nn.Parameter(torch.empty(d_inner)))
        self.out_proj = nn.Linear(d_inner, embed_dim, bias=False)

    def reset_parameters(self, depth: int) -> None:
        """Vim's initialisation for a model of `depth` blocks (models_mamba.py:_init_weights; paper-facts §3).

        in_proj, x_proj and conv1d keep PyTorch's defaults.
        """
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(depth)
            bound = self.dt_rank**-0.5
            for suffix in ("", "_b"):
                nn.init.uniform_(self.get_parameter(f"dt_proj{suffix}.weight"), -bound, bound)
            # delta starts log-uniform in [1e-3, 0.1]: the bias is the inverse softplus of it
            delta = torch.empty_like(self.get_parameter("dt_proj.bias")).uniform_(math.log(1e-3), math.log(0.1)).exp()
            delta.clamp_(min=1e-4)
            self.get_parameter("dt_proj.bias").copy_(delta + torch.log(-torch.expm1(-delta)))
            # Vim means the same for the backward direction, but zeroes it again afterwards; so do its checkpoints
            self.get_parameter("dt_proj_b.bias").zero_()
            rates = torch.arange(1, self.d_state + 1, dtype=torch.float32).log()
            for name in ("A_log", "A_b_log"):
                self.get_parameter(name).copy_(rates.expand_as(self.get_parameter(name)))
            for name in ("D", "D_b"):
                self.get_parameter(name).fill_(1.0)

    @overload
    def __call__(self, hidden: Tensor, apart: Literal[False] = False, position: Tensor | None = None) -> Tensor: ...

    @overload
    def __call__(
        self, hidden: Tensor, apart: Literal[True], position: Tensor | None = None
    ) -> tuple[Tensor, Callable[[], Scanned]]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `forward`."""
        return super().__call__(*args, **kwargs)

    def forward(
        self, hidden: Tensor, apart: bool = False, position: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Callable[[], Scanned]]:
        """The mixer's output, (B, T, C) as hidden; or its directions apart.

        Args:
            hidden: (B, T, C).
            apart: return the gated outputs of the two directions (2, B, T, D), whose sum goes to `project`, and a
                function that returns what was scanned, without gradients.
            position: (B, T) ascending positions in the input sequence. Where they leave a gap, the state decays there,
                too, by the step of a token of zeros for each missing one. None: no gaps.

        Raises ValueError for an empty batch.
        """
        if 0 in hidden.shape:
            raise ValueError(f"the mixer got hidden states of shape {tuple(hidden.shape)}; none of its sizes may be 0")
        if apart or position is not None:
            y, z, scanned = self._apart(hidden, position)
            with without_autocast(hidden.device.type), Recompute() as recompute:
                gated = y * recompute(lambda: F.silu(z))  # (2, B, T, D)
            return (gated, scanned) if apart else self.project(gated.sum(dim=0))
        pairs = _PAIRS(self)
        stream = autocast_dtype(hidden) or hidden.dtype  # the type that will run decides about the backend
        hidden = hidden.to(stream)
        backend = dispatch.scan_backend(hidden.device, stream, self.backend)
        if backend.passes:
            return fused_mixer.mix(backend.passes, hidden, self.in_proj.weight, self.out_proj.weight, *pairs)
        # both directions of each, stacked: (2, ...)
        both = list(zip(pairs[::2], pairs[1::2], strict=True))
        with without_autocast(hidden.device.type):
            x_proj, to_dt, dt_bias, conv, conv_bias, A_log, D = map(torch.stack, both)
        x_proj, to_dt = x_proj.to(stream), to_dt.to(stream)
        x, z = F.linear(hidden, self.in_proj.weight.to(stream)).chunk(2, dim=-1)  # (B, T, D) each, D = d_inner
        with Recompute() as recompute:
            u = recompute(lambda: ops.causal_conv(x, conv.squeeze(2), conv_bias, backend))  # (2, B, T, D)
            # both directions in one batched product: (2, B T, D) -> (2, B T, dt_rank + 2 N)
            projected = torch.bmm(u.flatten(1, 2), x_proj.mT)
            dt, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
            delta = recompute(lambda: torch.bmm(dt, to_dt.mT))  # (2, B T, D)
            B, C = (t.unflatten(1, u.shape[1:3]) for t in (B, C))  # (2, B, T, N)
            y = ops.directional_scan(u, delta.view_as(u), -A_log.exp(), B, C, D, z, dt_bias, backend)  # (B, T, D)
        return self.project(y)

    @torch.no_grad()
    def scanned(self, hidden: Tensor) -> Scanned:
        """What `forward` scans, for methods of token reduction that look into the mixer; computed a second time.

        So the mixer itself keeps its fused kernel, and nothing of it is saved for the backward pass.
        """
        return self._apart(hidden, None)[2]()

    def _apart(self, hidden: Tensor, position: Tensor | None) -> tuple[Tensor, Tensor, Callable[[], Scanned]]:
        """The outputs of both scans (2, B, T, D), their gate z (B, T, D), and what was scanned; see `forward`.

        The same arithmetic as in `forward`, one direction after the other: the backward one runs forward over reversed
        tokens. As there, the backward pass recomputes what is cheap to compute.
        """
        stream = autocast_dtype(hidden) or hidden.dtype
        backend = dispatch.scan_backend(hidden.device, stream, self.backend)
        x, z = F.linear(hidden.to(stream), self.in_proj.weight.to(stream)).chunk(2, dim=-1)
        gaps = (None, None) if position is None else _gaps(position)
        with without_autocast(hidden.device.type):
            made = [self._direction(k, x, gaps[k], backend) for k in (0, 1)]
            y = _both(made, 0)

        def scanned() -> Scanned:
            with torch.no_grad():
                bias = torch.stack([self.get_parameter("dt_proj.bias"), self.get_parameter("dt_proj_b.bias")])
                bias = bias.to(torch.promote_types(stream, torch.float32))[:, None, None]
                return Scanned(y.detach(), F.softplus(_both(made, 1) + bias), _both(made, 2), _both(made, 3))

        return y, z, scanned

    def _direction(self, k: int, x: Tensor, gap: Tensor | None, backend: Backend) -> tuple[Tensor, ...]:
        """Direction k, in its own time: y before the gate and delta before its bias, (B, T, D); B and C, (B, T, N).

        x and gap (B, T), see `_gaps`, are in the order of the tokens. Only y has a gradient.
        """
        x_proj, to_dt, dt_bias, conv, conv_bias, A_log, D = (pair[None] for pair in _PAIRS(self)[k::2])
        x_proj, to_dt, conv, A = x_proj.to(x.dtype), to_dt.to(x.dtype), conv.squeeze(2), -A_log.exp()
        with Recompute() as recompute:
            own = recompute(lambda: _in_time(x, k)) if k else x  # the convolution saves it
            convolved = partial(ops.causal_conv, weight=conv, bias=conv_bias, backend=backend)
            u = recompute(lambda: convolved(_in_time(x, k)), convolved(own))  # (1, B, T, D)
            projected = torch.bmm(u.flatten(1, 2), x_proj.mT).unflatten(1, u.shape[1:3])
            dt, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
            delta = recompute(lambda: dt @ to_dt.mT[:, None])  # (1, B, T, D)
            if gap is None:
                y = ops.directional_scan(u, delta, A, B, C, D, None, dt_bias, backend)
            else:
                inputs, steps = alignment.align(u, delta, dt_bias, _in_time(gap, k)[..., None])
                y = ops.directional_scan(inputs, steps, A, B, C, None, None, None, backend, delta_softplus=False)
                y = (y + D * u[0]).to(x.dtype)
        return y, delta[0].detach(), B[0].detach(), C[0].detach()

    def project(self, gated: Tensor) -> Tensor:
        """The sum of the directions (B, T, D) -> the mixer's output (B, T, C): W_out of their mean."""
        return F.linear(gated, (self.out_proj.weight / 2).to(gated.dtype))


def _both(made: Sequence[tuple[Tensor, ...]], part: int) -> Tensor:
    """That part of both directions, each in its own time, (B, T, ...) -> (2, B, T, ...) in the order of the tokens."""
    return torch.stack([_in_time(one[part], k) for k, one in enumerate(made)])


def _in_time(x: Tensor, direction: int) -> Tensor:
    """(B, T, ...) in the direction's own time, and back."""
    return x.flip(1) if direction else x


def _gaps(position: Tensor) -> Tensor:
    """(B, T) ascending -> (2, B, T): positions that are missing just before each token, in each direction's time."""
    missing = position.diff(dim=1) - 1  # (B, T - 1)
    return torch.stack([F.pad(missing, (1, 0)), F.pad(missing, (0, 1))])
