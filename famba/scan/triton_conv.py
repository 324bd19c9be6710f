"""The Triton kernels of the depthwise causal convolution with SiLU, both directions in one pass over x.

Tap w of direction 0 reads x_{t-(W-1)+w}; in direction 1, which is causal in reversed time, it reads x_{t+(W-1)-w}.
A program has a tile of (BLOCK_L, BLOCK_D); neighbouring taps find their rows in the cache.
"""

# mypy: allow-untyped-defs
# an annotation of a kernel's parameter is an instruction to Triton's compiler

import triton
import triton.language as tl

from famba.scan.triton_scan import sigmoid, tile


@triton.jit
def _preactivation(x, x_l, weight, bias, position, d, L, dim, k: tl.constexpr, W: tl.constexpr):
    """Σ_w weight_w x + bias at `position` (BLOCK_L, 1), 0 taken for x outside of the sequence: (BLOCK_L, BLOCK_D)."""
    d_ok = d < dim
    out = tl.load(bias + k * dim + d, mask=d_ok, other=0.0)
    for w in tl.static_range(W):
        source = position - (W - 1 - w) if k == 0 else position + (W - 1 - w)
        x_w = tl.load(x + source * x_l + d, mask=d_ok & (source >= 0) & (source < L), other=0.0).to(tl.float32)
        out += tl.load(weight + (k * dim + d) * W + w, mask=d_ok, other=0.0) * x_w
    return out


@triton.jit(do_not_specialize=["L"])
def conv_forward(
    x,  # (B, L, D), strides over sample and position, features contiguous
    x_b,
    x_l,
    weight,  # (K, D, W)
    bias,  # (K, D)
    out,  # (K, B, L, D)
    L,
    dim,
    K: tl.constexpr,
    W: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    b, position, d, ok = tile(L, dim, BLOCK_L, BLOCK_D)
    x += b * x_b
    for k in tl.static_range(K):
        pre = _preactivation(x, x_l, weight, bias, position, d, L, dim, k, W)
        at = ((k * tl.num_programs(2).to(tl.int64) + b) * L + position) * dim + d
        tl.store(out + at, pre * sigmoid(pre), mask=ok)


@triton.jit(do_not_specialize=["L"])
def conv_backward(
    dout,  # (K, B, L, D), strides over direction, sample and position
    dout_k,
    dout_b,
    dout_l,
    x,
    x_b,
    x_l,
    weight,
    bias,
    dx,  # (B, L, D)
    dweight,  # (B, blocks of positions, K, W, D)
    dbias,  # (B, blocks of positions, K, D)
    L,
    dim,
    K: tl.constexpr,
    W: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Every x_l meets the W outputs of each direction that read it; their pre-activations are formed again for it."""
    b, position, d, ok = tile(L, dim, BLOCK_L, BLOCK_D)
    x += b * x_b
    x_0 = tl.load(x + position * x_l + d, mask=ok, other=0.0).to(tl.float32)
    row = b * tl.num_programs(1) + tl.program_id(1)
    dx_0 = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    for k in tl.static_range(K):
        for w in tl.static_range(W):
            reader = position + (W - 1 - w) if k == 0 else position - (W - 1 - w)
            pre = _preactivation(x, x_l, weight, bias, reader, d, L, dim, k, W)
            sigma = sigmoid(pre)
            g = tl.load(
                dout + k * dout_k + b * dout_b + reader * dout_l + d,
                mask=(d < dim) & (reader >= 0) & (reader < L),
                other=0.0,
            ).to(tl.float32)
            g *= sigma * (1.0 + pre * (1.0 - sigma))  # SiLU'
            dx_0 += tl.load(weight + (k * dim + d) * W + w, mask=d < dim, other=0.0) * g
            sums = tl.sum(x_0 * g, 0, keep_dims=True)  # (1, BLOCK_D)
            tl.store(dweight + ((row * K + k) * W + w) * dim + d, sums, mask=d < dim)
            if w == W - 1:  # each output is its own reader once
                sums = tl.sum(tl.where(ok, g, 0.0), 0, keep_dims=True)
                tl.store(dbias + (row * K + k) * dim + d, sums, mask=d < dim)
    tl.store(dx + (b * L + position) * dim + d, dx_0, mask=ok)
