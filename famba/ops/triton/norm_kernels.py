"""The Triton kernels of the RMS norm. A tile is some whole rows, (BLOCK_R, BLOCK_C)."""

# mypy: allow-untyped-defs, disable-error-code=assignment
# an annotation of a kernel's parameter is an instruction to Triton's compiler

import triton
import triton.language as tl

from famba.ops.triton.lanes import tile_of_rows


@triton.jit(do_not_specialize=["rows"])  # fusion gives every layer its own number
def norm_forward(
    x,  # (rows, C), as added, out and total
    added,
    weight,  # (C)
    out,
    rstd,  # (rows)
    total,
    rows,
    channels,
    eps,
    ADDED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    r, c, ok = tile_of_rows(tl.program_id(0).to(tl.int64), rows, channels, BLOCK_R, BLOCK_C)
    at = r * channels + c
    stream = tl.load(x + at, mask=ok, other=0.0)
    if ADDED:
        stream += tl.load(added + at, mask=ok, other=0.0).to(tl.float32)
        tl.store(total + at, stream, mask=ok)
    scale = tl.rsqrt(tl.sum(stream * stream, 1, keep_dims=True) / channels + eps)
    tl.store(rstd + r, scale, mask=r < rows)
    tl.store(out + at, stream * scale * tl.load(weight + c, mask=c < channels, other=0.0), mask=ok)


@triton.jit(do_not_specialize=["rows"])
def norm_backward(
    dout,  # (rows, C), as dtotal, total, dx and dadded
    dtotal,
    total,
    weight,
    rstd,
    dx,
    dadded,
    dweight,  # (programs, C)
    rows,
    channels,
    DTOTAL: tl.constexpr,
    NARROW: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """With n = x / rms(x): dx = (w dout - n mean(w dout n)) / rms(x), and dw = Σ dout n over this program's rows."""
    program = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK_C)[None, :]
    w = tl.load(weight + c, mask=c < channels, other=0.0)
    sums = tl.zeros((1, BLOCK_C), tl.float32)
    for i in range(TILES):
        r, c, ok = tile_of_rows(program * TILES + i, rows, channels, BLOCK_R, BLOCK_C)
        at = r * channels + c
        scale = tl.load(rstd + r, mask=r < rows, other=0.0)
        unit = tl.load(total + at, mask=ok, other=0.0) * scale
        grad = tl.load(dout + at, mask=ok, other=0.0).to(tl.float32)
        along = grad * w
        mean = tl.sum(along * unit, 1, keep_dims=True) / channels
        result = (along - unit * mean) * scale
        if DTOTAL:
            result += tl.load(dtotal + at, mask=ok, other=0.0)
        tl.store(dx + at, result, mask=ok)
        if NARROW:
            tl.store(dadded + at, result, mask=ok)
        sums += tl.sum(grad * unit, 0, keep_dims=True)
    tl.store(dweight + program * channels + c, sums, mask=c < channels)
