"""The Triton kernels of the gate, which acts on the sum of the directions: y SiLU(z), element by element."""

# mypy: allow-untyped-defs

import triton
import triton.language as tl

from famba.ops.triton.lanes import sigmoid, silu


@triton.jit
def _tile(L, dim, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sample, positions (BLOCK_L, 1) and channels (1, BLOCK_D) of an elementwise program, and where they exist."""
    b = tl.program_id(2).to(tl.int64)
    position = tl.program_id(1).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)[:, None]
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    return b, position, d, (position < L) & (d < dim)


@triton.jit(do_not_specialize=["L"])
def gate_forward(
    y,  # (K, B, L, D)
    z,
    z_b,
    z_l,
    out,  # (B, L, D)
    total,  # (B, L, D)
    L,
    dim,
    K: tl.constexpr,
    HAS_Z: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """total = Σ_k y_k, rounded to the streams' type, and out = total SiLU(z); without z, out = Σ_k y_k."""
    b, position, d, ok = _tile(L, dim, BLOCK_L, BLOCK_D)
    at = (b * L + position) * dim + d
    x = tl.load(y + at, mask=ok, other=0.0)
    if K == 2:
        other = tl.load(y + tl.num_programs(2).to(tl.int64) * L * dim + at, mask=ok, other=0.0)
        x = (x.to(tl.float32) + other.to(tl.float32)).to(y.dtype.element_ty)
    if HAS_Z:
        tl.store(total + at, x, mask=ok)
        gate = tl.load(z + b * z_b + position * z_l + d, mask=ok, other=0.0).to(tl.float32)
        x = x.to(tl.float32) * silu(gate)
    tl.store(out + at, x, mask=ok)


@triton.jit(do_not_specialize=["L"])
def gate_backward(
    dout,  # (B, L, D), as z and dz: strides over sample and position
    dout_b,
    dout_l,
    total,  # (B, L, D), as recomputed_out
    z,
    z_b,
    z_l,
    dz,
    dz_b,
    dz_l,
    recomputed_out,
    L,
    dim,
    RECOMPUTED: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """dz = dout total SiLU'(z), with SiLU'(z) = σ(z) (1 + z (1 - σ(z))); recomputed_out = total SiLU(z), as
    `gate_forward`.
    """
    b, position, d, ok = _tile(L, dim, BLOCK_L, BLOCK_D)
    at = (b * L + position) * dim + d
    x = tl.load(total + at, mask=ok, other=0.0).to(tl.float32)
    gate = tl.load(z + b * z_b + position * z_l + d, mask=ok, other=0.0).to(tl.float32)
    g = tl.load(dout + b * dout_b + position * dout_l + d, mask=ok, other=0.0).to(tl.float32)
    sigma = sigmoid(gate)
    tl.store(dz + b * dz_b + position * dz_l + d, g * x * sigma * (1.0 + gate * (1.0 - sigma)), mask=ok)
    if RECOMPUTED:
        tl.store(recomputed_out + at, x * silu(gate), mask=ok)
