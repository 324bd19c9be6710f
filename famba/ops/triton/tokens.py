"""Norm, matching and merging in Triton, for CUDA devices; see `types.Backend`.

The kernels read float32, and bfloat16 and float16 where these are added or merged; the reference takes the other types.
No atomics, so two runs agree to the last bit; nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from famba.ops import reference
from famba.ops.memory import expect
from famba.ops.triton.launch import DTYPES, OPTIONS

TILE = 2048  # elements that a program holds of each tensor
NORM_TILES = 8  # tiles of rows per program of the norm's backward pass, which sums the weight's gradient over them
NEAREST = (32, 64, 32)  # even tokens per program; odd tokens, channels at once
RANKED = 32  # pairs that a lane compares at once, of strengths or of groups: more would spill its registers


def _power_of_two(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


def _tile(channels: int) -> dict[str, int]:
    """Whole rows, padded to a power of two, and as many as fit."""
    block = _power_of_two(channels)
    return {"BLOCK_R": max(1, TILE // block), "BLOCK_C": block}


def _ranking(size: int) -> dict[str, int]:
    """One program compares all of them with all others, some at once; a longer sequence has more lanes, up to 512."""
    block = _power_of_two(size)
    warps = min(16, max(4, block // 128))
    return {"BLOCK": block, "STEP": min(32, max(1, 32 * warps * RANKED // block)), "num_warps": warps}


def norm(
    x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    if x.dtype != torch.float32 or not (added is None or added.dtype in DTYPES):
        return reference.norm(x, added, weight, eps, dtype)
    from famba.ops.triton import norm_kernels  # noqa: PLC0415

    x, weight = x.contiguous(), weight.contiguous()
    added = None if added is None else added.contiguous()
    expect(x.device, (x, torch.float32, x.shape), (weight, torch.float32, x.shape[-1:]), (added, None, x.shape))
    out, rstd = torch.empty_like(x, dtype=dtype), x.new_empty(*x.shape[:-1], 1)
    total = x if added is None else torch.empty_like(x)
    tile, rows = _tile(x.shape[-1]), rstd.numel()
    with torch.cuda.device_of(x):
        norm_kernels.norm_forward[(-(-rows // tile["BLOCK_R"]),)](
            *(x, added, weight, out, rstd, total, rows, x.shape[-1], eps),
            ADDED=added is not None,
            **tile,
            **OPTIONS,
        )
    return out, rstd, total


def norm_backward(
    dout: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, rstd: Tensor, added_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    if total.dtype != torch.float32:
        return reference.norm_backward(dout, dtotal, total, weight, rstd, added_dtype)
    from famba.ops.triton import norm_kernels  # noqa: PLC0415

    dout, total, weight = dout.contiguous(), total.contiguous(), weight.contiguous()
    dout = dout.float() if dout.dtype == torch.float64 else dout  # of a layer with float64 parameters
    dtotal = None if dtotal is None else dtotal.contiguous()
    shape, real = total.shape, torch.float32
    expect(total.device, (total, real, shape), (dout, None, shape), (dtotal, real, shape))
    expect(total.device, (weight, real, shape[-1:]), (rstd, real, (*shape[:-1], 1)))
    dx = torch.empty_like(total)
    dadded = dx if added_dtype == dx.dtype else torch.empty_like(dx, dtype=added_dtype)
    tile, rows = _tile(total.shape[-1]), rstd.numel()
    programs = -(-rows // (tile["BLOCK_R"] * NORM_TILES))
    dweight = total.new_empty(programs, total.shape[-1])
    with torch.cuda.device_of(total):
        norm_kernels.norm_backward[(programs,)](
            *(dout, dtotal, total, weight, rstd, dx, dadded, dweight, rows, total.shape[-1]),
            DTOTAL=dtotal is not None,
            NARROW=dadded is not dx,
            TILES=NORM_TILES,
            **tile,
            **OPTIONS,
        )
    return dx, dadded, dweight.sum(0)


def match(metric: Tensor, r: int, cls: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if metric.dtype == torch.float64:
        return reference.match(metric, r, cls)
    from famba.ops.triton import matching_kernels  # noqa: PLC0415

    batch, tokens, channels = metric.shape
    metric = metric.contiguous()
    cls = None if cls is None else cls.contiguous()
    expect(metric.device, (metric, torch.float32, metric.shape), (cls, torch.long, (batch,)))
    _expect_fused(r, tokens // 2)
    evens, (block_a, block_b, block_c) = (tokens + 1) // 2, NEAREST
    target = torch.empty(batch, evens, dtype=torch.int32, device=metric.device)
    strength = metric.new_empty(batch, evens)
    source, joined, kept, tome = (
        torch.empty(batch, size, dtype=torch.long, device=metric.device) for size in (r, r, tokens - r, tokens - r)
    )
    with torch.cuda.device_of(metric):
        matching_kernels.nearest[-(-evens // block_a), batch](
            *(metric, cls, target, strength, tokens, channels),
            CLS=cls is not None,
            BLOCK_A=block_a,
            BLOCK_B=block_b,
            BLOCK_C=block_c,
            **OPTIONS,
        )
        matching_kernels.choose[(batch,)](
            *(target, strength, source, joined, kept, tome, tokens, r),
            CLS=cls is not None,
            **_ranking(evens),
            **OPTIONS,
        )
    return source, joined, kept, tome


def groups(
    places: Tensor, source: Tensor, target: Tensor, cls: Tensor | None, tokens: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    from famba.ops.triton import merging_kernels  # noqa: PLC0415

    batch, remaining = places.shape
    places, source, target = places.contiguous(), source.contiguous(), target.contiguous()
    cls = None if cls is None else cls.contiguous()
    r = tokens - remaining
    expect(places.device, (places, torch.long, places.shape), (cls, torch.long, (batch,)))
    expect(places.device, (source, torch.long, (batch, r)), (target, torch.long, (batch, r)))
    _expect_fused(r, tokens - 1)
    group = places.new_empty(batch * tokens)
    size = torch.empty(batch * remaining, 1, dtype=torch.float32, device=places.device)
    after = None if cls is None else torch.empty_like(cls)
    with torch.cuda.device_of(places):
        merging_kernels.group[(batch,)](
            *(places, source, target, cls, group, size, after, tokens, tokens - remaining),
            CLS=cls is not None,
            **_ranking(remaining),
            **OPTIONS,
        )
    return group, size, after


def merge(x: Tensor, places: Tensor, source: Tensor, group: Tensor, size: Tensor) -> Tensor:
    if x.dtype not in DTYPES:
        return reference.merge(x, places, source, group, size)
    from famba.ops.triton import merging_kernels  # noqa: PLC0415

    x, places, source = x.contiguous(), places.contiguous(), source.contiguous()
    batch, tokens, channels = x.shape
    remaining = places.shape[1]
    expect(x.device, (x, None, x.shape), (places, torch.long, (batch, remaining)))
    _expect_groups(source, group, size, (batch, tokens, remaining), x.device)
    out, tile = x.new_empty(batch, remaining, channels), _tile(channels)
    with torch.cuda.device_of(x):
        merging_kernels.merge_forward[-(-remaining // tile["BLOCK_R"]), batch](
            *(x, places, source, group, size, out, tokens, tokens - remaining, channels), **tile, **OPTIONS
        )
    return out


def merge_backward(dout: Tensor, group: Tensor, size: Tensor, tokens: int) -> Tensor:
    if dout.dtype not in DTYPES:
        return reference.merge_backward(dout, group, size, tokens)
    from famba.ops.triton import merging_kernels  # noqa: PLC0415

    dout = dout.contiguous()
    batch, remaining, channels = dout.shape
    expect(dout.device, (dout, None, dout.shape))
    _expect_groups(None, group, size, (batch, tokens, remaining), dout.device)
    rows, tile = len(group), _tile(channels)
    dx = dout.new_empty(batch, tokens, channels)
    with torch.cuda.device_of(dout):
        merging_kernels.merge_backward[(-(-rows // tile["BLOCK_R"]),)](
            *(dout, group, size, dx, rows, channels), **tile, **OPTIONS
        )
    return dx


def _expect_groups(
    source: Tensor | None, group: Tensor, size: Tensor, sizes: tuple[int, int, int], device: torch.device
) -> None:
    batch, tokens, remaining = sizes
    _expect_fused(tokens - remaining, tokens - 1)
    expect(device, (source, torch.long, (batch, tokens - remaining)), (group, torch.long, (batch * tokens,)))
    expect(device, (size, torch.float32, (batch * remaining, 1)))


def _expect_fused(r: int, most: int) -> None:
    if not 0 <= r <= most:
        raise ValueError(f"{r} tokens to fuse, expected 0 to {most}")
