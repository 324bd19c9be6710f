"""The Triton kernels of merging. A tile is some whole rows, (BLOCK_R, BLOCK_C)."""

# mypy: allow-untyped-defs, disable-error-code=assignment
# an annotation of a kernel's parameter is an instruction to Triton's compiler

import triton
import triton.language as tl

from famba.ops.triton.lanes import tile_of_rows


@triton.jit(do_not_specialize=["r"])
def group(
    places,  # (B, T - r)
    source,  # (B, r), as target
    target,
    cls,  # (B), as after
    group,  # (B, T): the row that each token goes to
    size,  # (B, T - r)
    after,
    tokens,
    r,
    CLS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    remaining = tokens - r
    group += b * tokens
    i = tl.arange(0, BLOCK)
    row = b * remaining + i
    tl.store(group + tl.load(places + row, mask=i < remaining, other=0), row, mask=i < remaining)
    tl.debug_barrier()  # other lanes read it
    sizes = tl.full((BLOCK,), 1.0, tl.float32)
    for first in range(0, r, STEP):
        k = first + tl.arange(0, STEP)
        joined = tl.load(group + tl.load(target + b * r + k, mask=k < r, other=0), mask=k < r, other=-1)
        tl.store(group + tl.load(source + b * r + k, mask=k < r, other=0), joined, mask=k < r)
        sizes += tl.sum((joined[None, :] == row[:, None]).to(tl.float32), 1)
    tl.store(size + row, sizes, mask=i < remaining)
    if CLS:
        tl.store(after + b, tl.load(group + tl.load(cls + b)) - b * remaining)


@triton.jit(do_not_specialize=["r"])
def merge_forward(
    x,  # (B, T, C)
    places,  # (B, T - r)
    source,  # (B, r)
    group,  # (B, T)
    size,  # (B, T - r)
    out,  # (B, T - r, C)
    tokens,
    r,
    channels,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Each row of the result fetches its own tokens, the fused ones in the order of their links."""
    b = tl.program_id(1).to(tl.int64)
    remaining = tokens - r
    i, c, ok = tile_of_rows(tl.program_id(0), remaining, channels, BLOCK_R, BLOCK_C)
    row = b * remaining + i
    x += b * tokens * channels
    own = tl.load(places + row, mask=i < remaining, other=0)
    total = tl.load(x + own * channels + c, mask=ok, other=0.0).to(tl.float32)
    for k in range(r):
        token = tl.load(source + b * r + k)
        mine = row == tl.load(group + b * tokens + token)
        total += tl.load(x + token * channels + c, mask=ok & mine, other=0.0).to(tl.float32)
    # rounded as IEEE 754 says, which `/` is not: a token that no other joins is divided by 1, and stays as it is
    mean = tl.div_rn(total, tl.load(size + row, mask=i < remaining, other=1.0))
    tl.store(out + row * channels + c, mean, mask=ok)


@triton.jit(do_not_specialize=["rows"])
def merge_backward(
    dout,  # (B, T - r, C)
    group,  # (rows)
    size,
    dx,  # (rows, C), rows = B T
    rows,
    channels,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    r, c, ok = tile_of_rows(tl.program_id(0).to(tl.int64), rows, channels, BLOCK_R, BLOCK_C)
    row = tl.load(group + r, mask=r < rows, other=0)
    share = tl.load(dout + row * channels + c, mask=ok, other=0.0).to(tl.float32)
    share = tl.div_rn(share, tl.load(size + row, mask=r < rows, other=1.0))
    tl.store(dx + r * channels + c, share, mask=ok)
