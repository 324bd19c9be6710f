"""mamba-ssm's CUDA kernels, both directions in one call: the scan of the released code, for comparison.

The kernels know one direction of time and channels-first tensors. Direction 1 is therefore flipped in memory, and the
directions lie side by side as channels: dim = K·D in K groups, each with its own B and C. The kernels' backward passes
add with atomics, so two runs need not agree in the last bits.

Written against mamba-ssm 2.3.2 (`mamba_ssm/ops/selective_scan_interface.py`) and causal-conv1d 1.7.0
(`causal_conv1d/causal_conv1d_interface.py`). Norm, matching and merging are the reference's.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from famba.errors import InputError
from famba.ops.reference import groups, match, merge, merge_backward, norm, norm_backward  # noqa: F401
from famba.ops.types import ScanTensors

passes = None  # its kernels come with autograd functions of their own
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def kernels() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """(selective_scan_fn, causal_conv1d_fn). Neither package imports without its CUDA extension."""
    from causal_conv1d import causal_conv1d_fn  # noqa: PLC0415
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: PLC0415

    return selective_scan_fn, causal_conv1d_fn


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return "needs a CUDA device"
    if not torch.cuda.is_available():
        return "needs a CUDA device and torch sees none"
    if dtype not in DTYPES:
        return f"takes float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    try:
        kernels()
    except (ImportError, OSError) as error:  # OSError: a library the extension was linked with is missing
        reason = str(error).partition("\n")[0]
        return f"needs mamba-ssm and causal-conv1d built for this torch ({reason})"
    return None


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    directions, dim, width = weight.shape
    if not 2 <= width <= 4:
        raise InputError(
            f"scan backend 'mamba_ssm': convolution width {width}, expected 2 to 4; choose another backend"
        )
    _, causal_conv1d_fn = kernels()
    both = _channels_first(x.expand(directions, *x.shape)).flatten(1, 2)  # (B, K·D, L)
    out = causal_conv1d_fn(both, weight.flatten(0, 1), bias.flatten(), activation="silu")
    return _natural_order(out.unflatten(1, (directions, dim)))  # (K, B, L, D)


def scan(inputs: ScanTensors, softplus: bool) -> Tensor:
    u, delta, A, B, C, D, z, delta_bias = inputs
    directions, _, _, dim = u.shape
    if A.shape[2] > 256:
        raise InputError(
            f"scan backend 'mamba_ssm': state size {A.shape[2]}, expected at most 256; choose another backend"
        )
    selective_scan_fn, _ = kernels()
    out = selective_scan_fn(
        _channels_first(u).flatten(1, 2),  # (B, K·D, L)
        _channels_first(delta).flatten(1, 2),
        A.flatten(0, 1),  # (K·D, N)
        _channels_first(B),  # (B, K, N, L): one group per direction
        _channels_first(C),
        None if D is None else D.flatten(),
        None,  # the gate acts on the sum of the directions, below
        None if delta_bias is None else delta_bias.flatten(),
        softplus,
    )
    y = _natural_order(out.unflatten(1, (directions, dim))).to(A.dtype).sum(0)  # (B, L, D)
    if z is not None:
        y = y * F.silu(z.to(A.dtype))
    return y.to(u.dtype)


def _channels_first(x: Tensor) -> Tensor:
    """(K, B, L, F) -> (B, K, F, L), contiguous, direction 1 in reversed time."""
    if x.shape[0] == 2:
        x = torch.stack([x[0], x[1].flip(1)])
    return x.permute(1, 0, 3, 2).contiguous()


def _natural_order(x: Tensor) -> Tensor:
    """(B, K, D, L) -> (K, B, L, D), the flip of direction 1 undone."""
    x = x.permute(1, 0, 3, 2)
    return x if x.shape[0] == 1 else torch.stack([x[0], x[1].flip(1)])
