"""The Triton kernels of matching: the nearest token of each, and the r strongest of these links."""

# mypy: allow-untyped-defs, disable-error-code=assignment
# an annotation of a kernel's parameter is an instruction to Triton's compiler

import triton
import triton.language as tl


@triton.jit
def _inverse_norm(squares):
    """NaN for what is not finite. Rounded as IEEE 754 says, which rsqrt is not: see `famba.fusion.match`."""
    norm = tl.maximum(tl.sqrt_rn(squares), 1.1754943508222875e-38)  # the smallest normal number: no norm is 0
    return tl.where(squares < float("inf"), tl.div_rn(tl.full(norm.shape, 1.0, tl.float32), norm), float("nan"))


@triton.jit
def nearest(
    metric,  # (B, T, C)
    cls,  # (B)
    target,  # (B, A): of each even token the nearest odd one, as the half of its position
    strength,  # (B, A): the cosine of the two
    tokens,
    channels,
    CLS: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The first of equals is the nearest. Last come similarities that are no number, and after them the class token."""
    b = tl.program_id(1).to(tl.int64)
    evens, odds = (tokens + 1) // 2, tokens // 2
    metric += b * tokens * channels
    i = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)
    best, found = tl.zeros((BLOCK_A,), tl.int32), tl.full((BLOCK_A,), float("-inf"), tl.float32)
    for first in range(0, odds, BLOCK_B):
        j = first + tl.arange(0, BLOCK_B)
        dot = tl.zeros((BLOCK_A, BLOCK_B), tl.float32)
        squares_a, squares_b = tl.zeros((BLOCK_A,), tl.float32), tl.zeros((BLOCK_B,), tl.float32)
        for channel in range(0, channels, BLOCK_C):
            c = channel + tl.arange(0, BLOCK_C)
            ok_a, ok_b = (i < evens)[:, None] & (c < channels)[None, :], (j < odds)[None, :] & (c < channels)[:, None]
            a = tl.load(metric + 2 * i[:, None] * channels + c[None, :], mask=ok_a, other=0.0)
            o = tl.load(metric + (2 * j[None, :] + 1) * channels + c[:, None], mask=ok_b, other=0.0)
            dot = tl.dot(a, o, dot, input_precision="ieee")  # tf32 would create ties and pair the wrong tokens
            squares_a += tl.sum(a * a, 1)
            squares_b += tl.sum(o * o, 0)
        cosine = dot * _inverse_norm(squares_a)[:, None] * _inverse_norm(squares_b)[None, :]
        cosine = tl.where(cosine == cosine, cosine, -3.4028234663852886e38)  # noqa: PLR0124 (NaN to the lowest)
        allowed = j < odds
        if CLS:
            allowed = allowed & (2 * j + 1 != tl.load(cls + b))
        cosine = tl.where(allowed[None, :], cosine, float("-inf"))
        largest, place = tl.max(cosine, 1, return_indices=True)  # the first of equals
        nearer = largest > found
        best = tl.where(nearer, first + place, best)
        found = tl.where(nearer, largest, found)
    if CLS:
        found = tl.where(2 * i == tl.load(cls + b), float("-inf"), found)
    tl.store(target + b * evens + i, best, mask=i < evens)
    tl.store(strength + b * evens + i, found, mask=i < evens)


@triton.jit(do_not_specialize=["r"])
def choose(
    target,  # (B, A), as `nearest` left them
    strength,
    source,  # (B, r), as joined
    joined,
    kept,  # (B, T - r), as tome
    tome,
    tokens,
    r,
    CLS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """The r strongest links and where the other tokens go. Of equals the earlier is the stronger."""
    b = tl.program_id(0).to(tl.int64)
    evens, odds = (tokens + 1) // 2, tokens // 2
    i = tl.arange(0, BLOCK)
    own = tl.load(strength + b * evens + i, mask=i < evens, other=float("-inf"))[:, None]
    rank = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, evens, STEP):
        k = first + tl.arange(0, STEP)
        others = tl.load(strength + b * evens + k, mask=k < evens, other=float("-inf"))[None, :]
        stronger = (others > own) | ((others == own) & (k[None, :] < i[:, None]))
        rank += tl.sum((stronger & (k < evens)[None, :]).to(tl.int32), 1)
    fused, rest = (i < evens) & (rank < r), (i < evens) & (rank >= r)
    up_to = tl.cumsum(fused.to(tl.int32), 0)  # tokens fused away at or before this even one, so before its odd one
    before = up_to - fused.to(tl.int32)

    tl.store(source + b * r + rank, (2 * i).to(tl.int64), mask=fused)
    nearest_odd = 2 * tl.load(target + b * evens + i, mask=fused, other=0) + 1
    tl.store(joined + b * r + rank, nearest_odd.to(tl.int64), mask=fused)
    kept += b * (tokens - r)
    tl.store(kept + 2 * i - before, (2 * i).to(tl.int64), mask=rest)
    tl.store(kept + 2 * i + 1 - up_to, (2 * i + 1).to(tl.int64), mask=i < odds)
    # ToMe leaves the unfused evens by falling similarity unless a class token must stay in front (merge.py:70)
    place = i - before if CLS else rank - r
    tome += b * (tokens - r)
    tl.store(tome + place, (2 * i).to(tl.int64), mask=rest)
    tl.store(tome + (evens - r) + i, (2 * i + 1).to(tl.int64), mask=i < odds)
