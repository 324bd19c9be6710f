"""A Vision Mamba run as the released Famba-V code runs one: the comparison of gpu.py.

mamba-ssm's kernels on channels-first tensors, one call per direction on a flipped copy, two gates, ToMe's gather and
scatter_reduce for the merge of hidden states and residual, each operator launched on its own, in fp32. The fusion is
the one that the paper describes (block placement), which the released code has commented out. Where mamba-ssm is not
installed, torch's convolution and this package's scan take the places of its kernels: `kernels` says which ran.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famba.mixer import Mixer
from famba.model import VisionMamba
from famba.ops import mamba_ssm, selective_scan


def kernels(device: torch.device) -> str:
    """Whose kernels run on this device."""
    reason = mamba_ssm.unavailable(device, torch.float32)
    return "mamba-ssm's" if reason is None else f"torch's convolution and famba's scan: mamba_ssm {reason}"


class Released(nn.Module):
    """The same parameters as `model`, and another way through them."""

    def __init__(self, model: VisionMamba) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, classes)."""
        model = self.model
        hidden = model.patch_embed(images)
        cls_token = model.cls_token.expand(len(hidden), -1, -1)
        hidden = torch.cat([hidden[:, : model.cls_index], cls_token, hidden[:, model.cls_index :]], dim=1)
        hidden, residual = hidden + model.pos_embed, None
        place = torch.full((len(hidden), 1, 1), model.cls_index, device=hidden.device)
        for block in model.blocks:
            residual = hidden if residual is None else residual + hidden
            hidden, _ = block.norm(residual)
            if block.r:
                merge, place = tome(hidden, block.r, place)
                hidden, residual = merge(hidden), merge(residual)
            hidden = mix(block.mixer, hidden)
        out = model.norm_f(residual + hidden)
        return model.head(out.gather(1, place.expand(-1, -1, out.shape[-1]))[:, 0])


def mix(mixer: Mixer, hidden: Tensor) -> Tensor:
    """Vim's "v2" bidirectional mixer (hustvl/Vim dd0358a, mamba_simple.py), its fused kernel taken apart."""
    xz = mixer.in_proj(hidden).transpose(1, 2)  # (B, 2 D, T)
    out = direction(mixer, xz, "", "A_log", "D") + direction(mixer, xz.flip(-1), "_b", "A_b_log", "D_b").flip(-1)
    return mixer.out_proj(out.transpose(1, 2) / 2)


def direction(mixer: Mixer, xz: Tensor, suffix: str, A_log: str, D: str) -> Tensor:
    """One scan in its own time: (B, 2 D, T) -> (B, D, T)."""
    part = mixer.get_submodule
    x, z = xz.chunk(2, dim=1)
    x = causal_conv(x.contiguous(), part(f"conv1d{suffix}"))
    low = part(f"x_proj{suffix}")(x.transpose(1, 2).reshape(-1, x.shape[1]))  # (B T, R + 2 N)
    dt, B, C = low.split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
    weight, bias = (mixer.get_parameter(f"dt_proj{suffix}.{name}") for name in ("weight", "bias"))
    delta = (weight @ dt.t()).view(-1, len(x), x.shape[2]).transpose(0, 1).contiguous()  # (B, D, T)
    B, C = (t.view(len(x), -1, mixer.d_state).transpose(1, 2).contiguous() for t in (B, C))  # (B, N, T)
    A = -torch.exp(mixer.get_parameter(A_log))
    return scanned(x, delta, A, B, C, mixer.get_parameter(D), z.contiguous(), bias)


def causal_conv(x: Tensor, conv: nn.Module) -> Tensor:
    """SiLU of the depthwise causal convolution, (B, D, T)."""
    weight, bias = conv.weight, conv.bias
    if mamba_ssm.unavailable(x.device, x.dtype) is None:
        from causal_conv1d import causal_conv1d_fn  # noqa: PLC0415

        return causal_conv1d_fn(x, weight[:, 0], bias, activation="silu")
    return F.silu(F.conv1d(x, weight, bias, padding=weight.shape[-1] - 1, groups=len(weight))[..., : x.shape[-1]])


def scanned(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
    """y ⊙ SiLU(z), (B, D, T)."""
    if mamba_ssm.unavailable(x.device, x.dtype) is None:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: PLC0415

        return selective_scan_fn(x, delta, A, B, C, D.float(), z=z, delta_bias=bias.float(), delta_softplus=True)
    return selective_scan(x, delta, A, B, C, D, z, bias, delta_softplus=True)


def tome(metric: Tensor, r: int, place: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """ToMe's matching and merging (facebookresearch/ToMe af95e4b, tome/merge.py:20-104), the class token kept out.

    `place`: (B, 1, 1) index of the class token. Returns the merge, and the class token's place after it.
    """
    tokens = metric.shape[1]
    r = min(r, (tokens - 1) // 2)
    with torch.no_grad():
        metric = metric / metric.norm(dim=-1, keepdim=True)
        scores = metric[..., ::2, :] @ metric[..., 1::2, :].transpose(-1, -2)  # (B, A, B)
        is_cls = torch.arange(tokens, device=metric.device) == place[:, 0]  # (B, T)
        scores = scores.masked_fill(is_cls[:, ::2, None] | is_cls[:, None, 1::2], -math.inf)
        best, target = scores.max(dim=-1)
        edges = best.argsort(dim=-1, descending=True)[..., None]
        unfused, fused = edges[..., r:, :].sort(dim=1)[0], edges[..., :r, :]
        joined = target[..., None].gather(dim=-2, index=fused)
        left = torch.cat(
            [unfused[..., 0] * 2, torch.arange(1, tokens, 2, device=metric.device).expand(len(metric), -1)], 1
        )
        after = (left == place[:, 0]).int().argmax(dim=1)[:, None, None]

    def merge(x: Tensor) -> Tensor:
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        kept = even.gather(-2, unfused.expand(-1, -1, x.shape[-1]))
        source = even.gather(-2, fused.expand(-1, -1, x.shape[-1]))
        odd = odd.scatter_reduce(-2, joined.expand(-1, -1, x.shape[-1]), source, reduce="mean")
        return torch.cat([kept, odd], dim=1)

    return merge, after
