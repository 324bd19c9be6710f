"""The Triton kernels of the scan: one program, one warp per (block of channels, sample, direction).

A program walks over time with the states of its channels in registers, a tile of (BLOCK_D, BLOCK_N). Everything shaped
like a state lies in memory with n contiguous; loaded four at a time, 16 states spread over 4 lanes of the warp and the
channels over the other 8, so that sums over either axis shuffle two or three times and not five.

Time is scan time: step t of direction 1 is position L-1-t. Steps past the end have Δ = 0, which leaves the state alone.
"""

# mypy: allow-untyped-defs
# an annotation of a kernel's parameter is an instruction to Triton's compiler

import triton
import triton.language as tl

SEGMENT = tl.constexpr(4)  # steps whose states the backward pass holds in registers; it is written for 4
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _softplus(x):
    """max(x, 0) + log(1 + e^-|x|), accurate also where it is small: log(1 + e) = 2 artanh(e / (2 + e))."""
    e = tl.exp(-tl.abs(x))
    r = e / (2.0 + e)  # at most 1/3, so seven terms of the series reach float32's precision
    q = r * r
    series = 1 / 15
    series = series * q + 1 / 13
    series = series * q + 1 / 11
    series = series * q + 1 / 9
    series = series * q + 1 / 7
    series = series * q + 1 / 5
    series = series * q + 1 / 3
    return tl.maximum(x, 0.0) + 2.0 * (r + r * q * series)


@triton.jit
def _exists(index, size, condition):
    """index < size where the scalar condition holds. Triton's interpreter cannot mask with a scalar."""
    return index < tl.where(condition, size, 0)


@triton.jit
def _inputs(t, u, u_l, delta, delta_l, bias, first, step, L, d, dim, SOFTPLUS: tl.constexpr):
    """u_t, Δ_t and softplus' slope there, (BLOCK_D)."""
    ok = _exists(d, dim, t < L)
    position = first + step * t
    u_t = tl.load(u + position * u_l + d, mask=ok, other=0.0).to(tl.float32)
    x = tl.load(delta + position * delta_l + d, mask=ok, other=0.0).to(tl.float32) + bias
    if SOFTPLUS:
        return u_t, tl.where(ok, _softplus(x), 0.0), tl.where(ok, sigmoid(x), 0.0)
    else:
        return u_t, tl.where(ok, x, 0.0), tl.where(ok, 1.0, 0.0)


@triton.jit
def _advance(
    h, t, u, u_l, delta, delta_l, B, B_l, rate, bias, first, step, L, d, dim, n, state, SOFTPLUS: tl.constexpr
):
    """h_t from h_{t-1}. `rate` is A log2(e), for exp2."""
    u_t, delta_t, _ = _inputs(t, u, u_l, delta, delta_l, bias, first, step, L, d, dim, SOFTPLUS)
    B_t = tl.load(B + (first + step * t) * B_l + n, mask=_exists(n, state, t < L), other=0.0).to(tl.float32)
    return tl.exp2(delta_t[:, None] * rate) * h + (delta_t * u_t)[:, None] * B_t[None, :]


@triton.jit
def _output_side(t, C, C_l, dout, dout_l, z, z_l, first, step, L, d, dim, n, state, HAS_Z: tl.constexpr):
    """C_t, (BLOCK_N), and the gradient of the ungated output, ∂loss/∂y_t, (BLOCK_D)."""
    ok = _exists(d, dim, t < L)
    position = first + step * t
    C_t = tl.load(C + position * C_l + n, mask=_exists(n, state, t < L), other=0.0).to(tl.float32)
    dy = tl.load(dout + position * dout_l + d, mask=ok, other=0.0).to(tl.float32)
    if HAS_Z:
        z_t = tl.load(z + position * z_l + d, mask=ok, other=0.0).to(tl.float32)
        dy *= z_t * sigmoid(z_t)
    return C_t, dy


@triton.jit(do_not_specialize=["L"])  # fusion gives every layer its own length
def scan_forward(
    u,  # the streams start with their strides over direction, sample and position; features are contiguous
    u_k,
    u_b,
    u_l,
    delta,
    delta_k,
    delta_b,
    delta_l,
    B,
    B_k,
    B_b,
    B_l,
    C,
    C_k,
    C_b,
    C_l,
    A,  # (K, D, N)
    D,  # (K, D)
    delta_bias,  # (K, D)
    y,  # (K, B, L, D)
    checkpoints,  # (chunks - 1, K, B, D, BLOCK_N): the state before each chunk but the first
    L,
    chunk,
    dim,
    state,
    HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    k, b = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    batch, directions = tl.num_programs(1).to(tl.int64), tl.num_programs(2)
    first, step = tl.program_id(2) * (L - 1), 1 - 2 * tl.program_id(2)
    d, n = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    d_ok, n_ok = d < dim, n < state
    u += k * u_k + b * u_b
    delta += k * delta_k + b * delta_b
    B += k * B_k + b * B_b
    C += k * C_k + b * C_b
    y += (k * batch + b) * L * dim
    checkpoints += ((k * batch + b) * dim + d[:, None]) * BLOCK_N + n[None, :]
    rate = tl.load(A + (k * dim + d[:, None]) * state + n[None, :], mask=d_ok[:, None] & n_ok[None, :], other=0.0)
    rate *= LOG2_E
    bias = tl.load(delta_bias + k * dim + d, mask=d_ok, other=0.0) if HAS_BIAS else 0.0
    skip = tl.load(D + k * dim + d, mask=d_ok, other=0.0) if HAS_D else 0.0

    h = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)
    for c in range(tl.cdiv(L, chunk)):
        if c > 0:
            tl.store(checkpoints + (c - 1) * directions * batch * dim * BLOCK_N, h, mask=d_ok[:, None])
        for t in range(c * chunk, tl.minimum(c * chunk + chunk, L)):
            position = first + step * t
            u_t, delta_t, _ = _inputs(t, u, u_l, delta, delta_l, bias, first, step, L, d, dim, SOFTPLUS)
            B_t = tl.load(B + position * B_l + n, mask=n_ok, other=0.0).to(tl.float32)
            C_t = tl.load(C + position * C_l + n, mask=n_ok, other=0.0).to(tl.float32)
            h = tl.exp2(delta_t[:, None] * rate) * h + (delta_t * u_t)[:, None] * B_t[None, :]
            tl.store(y + position * dim + d, tl.sum(h * C_t[None, :], 1) + skip * u_t, mask=d_ok)


@triton.jit(do_not_specialize=["L"])  # fusion gives every layer its own length
def scan_backward(
    dout,  # (B, L, D), as z: strides over sample and position
    dout_b,
    dout_l,
    z,
    z_b,
    z_l,
    u,
    u_k,
    u_b,
    u_l,
    delta,
    delta_k,
    delta_b,
    delta_l,
    B,
    B_k,
    B_b,
    B_l,
    C,
    C_k,
    C_b,
    C_l,
    A,
    D,
    delta_bias,
    checkpoints,
    scratch,  # per program: the states before each segment of one chunk
    y,  # (K, B, L, D), made again for the gate's gradient
    du,  # (K, B, L, D)
    ddelta,  # (K, B, L, D)
    dA,  # (B, K, D, BLOCK_N)
    dB,  # (blocks of channels, K, B, L, N)
    dC,  # (blocks of channels, K, B, L, N)
    dD,  # (B, K, D)
    dbias,  # (B, K, D)
    L,
    chunk,
    dim,
    state,
    HAS_Z: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    k, b, block = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    batch, directions = tl.num_programs(1).to(tl.int64), tl.num_programs(2)
    first, step = tl.program_id(2) * (L - 1), 1 - 2 * tl.program_id(2)
    d, n = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    d_ok, n_ok = d < dim, n < state
    u += k * u_k + b * u_b
    delta += k * delta_k + b * delta_b
    B += k * B_k + b * B_b
    C += k * C_k + b * C_b
    dout += b * dout_b
    rows = (k * batch + b) * L
    du += rows * dim
    ddelta += rows * dim
    partial = (block * directions * batch * L + rows) * state
    dB += partial
    dC += partial
    if HAS_Z:
        z += b * z_b
        y += rows * dim
    checkpoints += ((k * batch + b) * dim + d[:, None]) * BLOCK_N + n[None, :]
    scratch += ((k * batch + b) * tl.num_programs(0) + block) * (chunk // SEGMENT) * BLOCK_D * BLOCK_N
    scratch += tl.arange(0, BLOCK_D)[:, None] * BLOCK_N + n[None, :]
    rate = tl.load(A + (k * dim + d[:, None]) * state + n[None, :], mask=d_ok[:, None] & n_ok[None, :], other=0.0)
    rate *= LOG2_E
    bias = tl.load(delta_bias + k * dim + d, mask=d_ok, other=0.0) if HAS_BIAS else 0.0
    skip = tl.load(D + k * dim + d, mask=d_ok, other=0.0) if HAS_D else 0.0

    carry = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)  # a_{t+1} g_{t+1}
    sum_A = tl.zeros_like(carry)
    sum_D = tl.zeros((BLOCK_D,), tl.float32)
    sum_bias = tl.zeros_like(sum_D)
    chunks = tl.cdiv(L, chunk)
    for i in range(chunks):
        c = chunks - 1 - i
        start = c * chunk
        segments = tl.cdiv(tl.minimum(chunk, L - start), SEGMENT)
        before = checkpoints + (c - 1) * directions * batch * dim * BLOCK_N
        h = tl.load(before, mask=_exists(d, dim, c > 0)[:, None], other=0.0)
        for s in range(segments):
            tl.store(scratch + s * BLOCK_D * BLOCK_N, h)
            for j in tl.static_range(SEGMENT):
                t = start + s * SEGMENT + j
                h = _advance(
                    h, t, u, u_l, delta, delta_l, B, B_l, rate, bias, first, step, L, d, dim, n, state, SOFTPLUS
                )
        tl.debug_barrier()  # another lane may read what this one wrote

        for r in range(segments):
            t0 = start + (segments - 1 - r) * SEGMENT
            h0 = tl.load(scratch + (segments - 1 - r) * BLOCK_D * BLOCK_N)
            # all reads of the segment come before its first write, behind which the compiler must hold them back
            C0, dy0 = _output_side(t0, C, C_l, dout, dout_l, z, z_l, first, step, L, d, dim, n, state, HAS_Z)
            C1, dy1 = _output_side(t0 + 1, C, C_l, dout, dout_l, z, z_l, first, step, L, d, dim, n, state, HAS_Z)
            C2, dy2 = _output_side(t0 + 2, C, C_l, dout, dout_l, z, z_l, first, step, L, d, dim, n, state, HAS_Z)
            C3, dy3 = _output_side(t0 + 3, C, C_l, dout, dout_l, z, z_l, first, step, L, d, dim, n, state, HAS_Z)
            h1 = _advance(
                h0, t0, u, u_l, delta, delta_l, B, B_l, rate, bias, first, step, L, d, dim, n, state, SOFTPLUS
            )
            h2 = _advance(
                h1, t0 + 1, u, u_l, delta, delta_l, B, B_l, rate, bias, first, step, L, d, dim, n, state, SOFTPLUS
            )
            h3 = _advance(
                h2, t0 + 2, u, u_l, delta, delta_l, B, B_l, rate, bias, first, step, L, d, dim, n, state, SOFTPLUS
            )
            for j in tl.static_range(SEGMENT):
                previous, h3, h2, h1 = h3, h2, h1, h0
                dy, dy3, dy2, dy1 = dy3, dy2, dy1, dy0
                C_t, C3, C2, C1 = C3, C2, C1, C0
                t = t0 + (SEGMENT - 1 - j)
                ok = _exists(d, dim, t < L)
                position = first + step * t
                u_t, delta_t, slope = _inputs(t, u, u_l, delta, delta_l, bias, first, step, L, d, dim, SOFTPLUS)
                B_t = tl.load(B + position * B_l + n, mask=_exists(n, state, t < L), other=0.0).to(tl.float32)
                a = tl.exp2(delta_t[:, None] * rate)
                h = a * previous + (delta_t * u_t)[:, None] * B_t[None, :]
                if HAS_Z:
                    tl.store(y + position * dim + d, tl.sum(h * C_t[None, :], 1) + skip * u_t, mask=ok)

                g = carry + dy[:, None] * C_t[None, :]  # ∂loss/∂h_t
                carry = a * g
                q = carry * previous  # ∂loss/∂(Δ_t A)
                dinput = tl.sum(g * B_t[None, :], 1)  # ∂loss/∂(Δ_t u_t)
                ddelta_t = (tl.sum(q * rate, 1) * LN_2 + dinput * u_t) * slope
                tl.store(du + position * dim + d, dinput * delta_t + skip * dy, mask=ok)
                tl.store(ddelta + position * dim + d, ddelta_t, mask=ok)
                ok = _exists(n, state, t < L)
                tl.store(dB + position * state + n, tl.sum(g * (delta_t * u_t)[:, None], 0), mask=ok)
                tl.store(dC + position * state + n, tl.sum(h * dy[:, None], 0), mask=ok)
                sum_A += q * delta_t[:, None]
                sum_D += dy * u_t
                sum_bias += ddelta_t
        tl.debug_barrier()  # all lanes have read this chunk's states

    tl.store(dA + ((b * directions + k) * dim + d[:, None]) * BLOCK_N + n[None, :], sum_A, mask=d_ok[:, None])
    if HAS_D:
        tl.store(dD + (b * directions + k) * dim + d, sum_D, mask=d_ok)
    if HAS_BIAS:
        tl.store(dbias + (b * directions + k) * dim + d, sum_bias, mask=d_ok)


@triton.jit
def tile(L, dim, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sample, positions (BLOCK_L, 1) and channels (1, BLOCK_D) of an elementwise program, and where they exist."""
    b = tl.program_id(2).to(tl.int64)
    position = tl.program_id(1).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)[:, None]
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    return b, position, d, (position < L) & (d < dim)


@triton.jit(do_not_specialize=["L"])
def gate_forward(
    y, z, z_b, z_l, out, L, dim, K: tl.constexpr, HAS_Z: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr
):
    """out = Σ_k y_k SiLU(z); y (K, B, L, D) and out (B, L, D) are contiguous."""
    b, position, d, ok = tile(L, dim, BLOCK_L, BLOCK_D)
    at = (b * L + position) * dim + d
    total = tl.load(y + at, mask=ok, other=0.0).to(tl.float32)
    if K == 2:
        total += tl.load(y + tl.num_programs(2).to(tl.int64) * L * dim + at, mask=ok, other=0.0).to(tl.float32)
    if HAS_Z:
        gate = tl.load(z + b * z_b + position * z_l + d, mask=ok, other=0.0).to(tl.float32)
        total *= gate * sigmoid(gate)
    tl.store(out + at, total, mask=ok)


@triton.jit(do_not_specialize=["L"])
def gate_backward(
    dout, dout_b, dout_l, y, z, z_b, z_l, dz, L, dim, K: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr
):
    """dz = dout Σ_k y_k SiLU'(z), with SiLU'(z) = σ(z) (1 + z (1 - σ(z)))."""
    b, position, d, ok = tile(L, dim, BLOCK_L, BLOCK_D)
    at = (b * L + position) * dim + d
    total = tl.load(y + at, mask=ok, other=0.0).to(tl.float32)
    if K == 2:
        total += tl.load(y + tl.num_programs(2).to(tl.int64) * L * dim + at, mask=ok, other=0.0).to(tl.float32)
    gate = tl.load(z + b * z_b + position * z_l + d, mask=ok, other=0.0).to(tl.float32)
    g = tl.load(dout + b * dout_b + position * dout_l + d, mask=ok, other=0.0).to(tl.float32)
    sigma = sigmoid(gate)
    tl.store(dz + at, g * total * sigma * (1.0 + gate * (1.0 - sigma)), mask=ok)
