"""The Triton kernels of the scan: one program, one warp per (block of channels, sample, direction).

A program iterates over time with the states of its channels in registers, a tile of (BLOCK_D, BLOCK_N). Everything
shaped like a state lies in memory with n contiguous; loaded four at a time, 16 states spread over 4 lanes of the warp
and the channels over the other 8.

The streams are read in tiles of SEGMENT steps, (BLOCK_D, SEGMENT), one segment ahead of the arithmetic. Of such a tile
every element belongs to one lane, so softplus and sigmoid are computed once. The lanes then exchange: before the steps
each gets the columns for the channels and states it holds; after them the sums over states or channels, formed by each
lane as far as it goes, are completed for all steps of the segment at once.

Time is scan time: step t of direction 1 is position L-1-t. Steps past the end have u = B = C = 0 and no gradient.
"""

# mypy: allow-untyped-defs, disable-error-code=assignment
# an annotation of a kernel's parameter is an instruction to Triton's compiler; a tuple grows as a loop is unrolled

import triton
import triton.language as tl

from famba.ops.triton.lanes import (
    ADJOINING,
    LN_2,
    LOG2_E,
    by_row,
    columns_of,
    exists,
    over_channels,
    over_states,
    sigmoid,
    silu,
    softplus,
    sum_of_channels,
    sum_of_states,
)

SEGMENT = tl.constexpr(4)  # a power of two; the backward pass holds the states of so many steps in registers


@triton.jit
def _time(L):
    """Position of step 0, positions from one step to the next, steps."""
    direction = tl.program_id(2)
    return direction * (L - 1), 1 - 2 * direction, L


@triton.jit
def _positions(t, time):
    """Of the SEGMENT steps from t, (1, SEGMENT), and whether they exist."""
    first, step, L = time
    t += tl.arange(0, SEGMENT)[None, :]
    return first + step * t, t < L


@triton.jit
def _read(stream, stride, t, time, feature, size):
    """SEGMENT steps from t of a stream's features (BLOCK, 1): (BLOCK, SEGMENT), 0 where they do not exist."""
    position, ok = _positions(t, time)
    return tl.load(stream + position * stride + feature, mask=ok & (feature < size), other=0.0)


@triton.jit
def _write(stream, stride, t, time, feature, size, value):
    position, ok = _positions(t, time)
    tl.store(stream + position * stride + feature, value, mask=ok & (feature < size))


@triton.jit
def _inputs(u_t, x_t, bias, SOFTPLUS: tl.constexpr):
    """u, Δ and softplus' slope in float32, from tiles of u and of what becomes Δ."""
    u_t, x_t = u_t.to(tl.float32), x_t.to(tl.float32) + bias
    if SOFTPLUS:
        return u_t, softplus(x_t), sigmoid(x_t)
    else:
        return u_t, x_t, tl.full(x_t.shape, 1.0, tl.float32)


@triton.jit
def _rows(BLOCK_D: tl.constexpr):
    """The channels of a state tile's rows, (BLOCK_D, 1): the order that `by_row` brings a tile into."""
    row = tl.arange(0, BLOCK_D)[:, None]
    channel = row % (BLOCK_D // ADJOINING) * ADJOINING + row // (BLOCK_D // ADJOINING)
    return tl.program_id(0) * BLOCK_D + channel


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
    time = _time(L)
    d, n = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)[:, None], tl.arange(0, BLOCK_N)[:, None]
    rows, columns = _rows(BLOCK_D), tl.arange(0, BLOCK_N)[None, :]
    u += k * u_k + b * u_b
    delta += k * delta_k + b * delta_b
    B += k * B_k + b * B_b
    C += k * C_k + b * C_b
    y += (k * batch + b) * L * dim
    checkpoints += ((k * batch + b) * dim + rows) * BLOCK_N + columns
    rate = tl.load(A + (k * dim + rows) * state + columns, mask=(rows < dim) & (columns < state), other=0.0) * LOG2_E
    bias = tl.load(delta_bias + k * dim + d, mask=d < dim, other=0.0) if HAS_BIAS else 0.0
    skip = tl.load(D + k * dim + d, mask=d < dim, other=0.0) if HAS_D else 0.0

    u_t, delta_t, _ = _inputs(_read(u, u_l, 0, time, d, dim), _read(delta, delta_l, 0, time, d, dim), bias, SOFTPLUS)
    B_t = _read(B, B_l, 0, time, n, state).to(tl.float32)
    C_t = _read(C, C_l, 0, time, n, state).to(tl.float32)
    h = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)
    for c in range(tl.cdiv(L, chunk)):
        if c > 0:
            tl.store(checkpoints + (c - 1) * directions * batch * dim * BLOCK_N, h, mask=rows < dim)
        for t in range(c * chunk, tl.minimum(c * chunk + chunk, L), SEGMENT):
            next_u = _read(u, u_l, t + SEGMENT, time, d, dim)
            next_delta = _read(delta, delta_l, t + SEGMENT, time, d, dim)
            next_B = _read(B, B_l, t + SEGMENT, time, n, state)
            next_C = _read(C, C_l, t + SEGMENT, time, n, state)

            deltas, inputs = columns_of(by_row(delta_t)), columns_of(by_row(delta_t * u_t))
            Bs, Cs = columns_of(B_t), columns_of(C_t)
            ys = ()
            for j in tl.static_range(SEGMENT):
                h = tl.exp2(deltas[j][:, None] * rate) * h + inputs[j][:, None] * Bs[j][None, :]
                ys += (sum_of_states(h * Cs[j][None, :]),)
            _write(y, dim, t, time, d, dim, over_states(ys) + skip * u_t)

            # Upcast here: otherwise the compiler shuffles in bf16 and every lane recomputes softplus for all steps.
            u_t, delta_t, _ = _inputs(next_u, next_delta, bias, SOFTPLUS)
            B_t, C_t = next_B.to(tl.float32), next_C.to(tl.float32)


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
    du,  # (K, B, L, D)
    ddelta,  # (K, B, L, D)
    dB,  # (blocks of channels, 2, K B L, N): the gradients of B, then those of C
    parameters,  # (B, K, D N + D + D): the gradients of A, D and delta_bias
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
    time = _time(L)
    d, n = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)[:, None], tl.arange(0, BLOCK_N)[:, None]
    rows, columns = _rows(BLOCK_D), tl.arange(0, BLOCK_N)[None, :]
    u += k * u_k + b * u_b
    delta += k * delta_k + b * delta_b
    B += k * B_k + b * B_b
    C += k * C_k + b * C_b
    dout += b * dout_b
    z = z + b * z_b if HAS_Z else z
    sequence = (k * batch + b) * L
    du += sequence * dim
    ddelta += sequence * dim
    dB += (2 * block * directions * batch * L + sequence) * state
    dC = dB + directions * batch * L * state
    checkpoints += ((k * batch + b) * dim + rows) * BLOCK_N + columns
    scratch += ((k * batch + b) * tl.num_programs(0) + block) * (chunk // SEGMENT) * BLOCK_D * BLOCK_N
    scratch += tl.arange(0, BLOCK_D)[:, None] * BLOCK_N + columns
    rate = tl.load(A + (k * dim + rows) * state + columns, mask=(rows < dim) & (columns < state), other=0.0) * LOG2_E
    bias = tl.load(delta_bias + k * dim + d, mask=d < dim, other=0.0) if HAS_BIAS else 0.0
    skip = tl.load(D + k * dim + d, mask=d < dim, other=0.0) if HAS_D else 0.0

    carry = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)  # a_{t+1} g_{t+1}
    sum_A = tl.zeros_like(carry)
    sum_D = tl.zeros((BLOCK_D, SEGMENT), tl.float32)
    sum_bias = tl.zeros_like(sum_D)
    chunks = tl.cdiv(L, chunk)
    for i in range(chunks):
        c = chunks - 1 - i
        start = c * chunk
        segments = tl.cdiv(tl.minimum(chunk, L - start), SEGMENT)

        # the state before every segment of the chunk
        before = checkpoints + (c - 1) * directions * batch * dim * BLOCK_N
        h_0 = tl.load(before, mask=exists(rows, dim, c > 0), other=0.0)
        first_u, first_delta = _read(u, u_l, start, time, d, dim), _read(delta, delta_l, start, time, d, dim)
        u_t, delta_t, _ = _inputs(first_u, first_delta, bias, SOFTPLUS)
        B_t = _read(B, B_l, start, time, n, state).to(tl.float32)
        for s in range(segments):
            t = start + s * SEGMENT
            tl.store(scratch + s * BLOCK_D * BLOCK_N, h_0)
            next_u = _read(u, u_l, t + SEGMENT, time, d, dim)
            next_delta = _read(delta, delta_l, t + SEGMENT, time, d, dim)
            next_B = _read(B, B_l, t + SEGMENT, time, n, state)
            deltas, inputs, Bs = columns_of(by_row(delta_t)), columns_of(by_row(delta_t * u_t)), columns_of(B_t)
            for j in tl.static_range(SEGMENT):
                h_0 = tl.exp2(deltas[j][:, None] * rate) * h_0 + inputs[j][:, None] * Bs[j][None, :]
            u_t, delta_t, _ = _inputs(next_u, next_delta, bias, SOFTPLUS)
            B_t = next_B.to(tl.float32)
        tl.debug_barrier()  # another lane may read what this one wrote

        # from the last segment to the first
        t = start + (segments - 1) * SEGMENT
        h_0 = tl.load(scratch + (segments - 1) * BLOCK_D * BLOCK_N)
        last_u, last_delta = _read(u, u_l, t, time, d, dim), _read(delta, delta_l, t, time, d, dim)
        u_t, delta_t, slope = _inputs(last_u, last_delta, bias, SOFTPLUS)
        dy = _read(dout, dout_l, t, time, d, dim).to(tl.float32)
        if HAS_Z:
            dy *= silu(_read(z, z_l, t, time, d, dim).to(tl.float32))
        B_t = _read(B, B_l, t, time, n, state).to(tl.float32)
        C_t = _read(C, C_l, t, time, n, state).to(tl.float32)
        for s in range(segments):
            t = start + (segments - 1 - s) * SEGMENT
            deltas, inputs, Bs = columns_of(by_row(delta_t)), columns_of(by_row(delta_t * u_t)), columns_of(B_t)
            h, a = (h_0,), ()
            for j in tl.static_range(SEGMENT):
                a += (tl.exp2(deltas[j][:, None] * rate),)
                h += (a[j] * h[j] + inputs[j][:, None] * Bs[j][None, :],)
            dys, Cs = columns_of(by_row(dy)), columns_of(C_t)

            dinputs, ddecays, dBs, dCs = (), (), (), ()
            for j in tl.static_range(SEGMENT - 1, -1, -1):
                g = carry + dys[j][:, None] * Cs[j][None, :]  # ∂loss/∂h_t
                carry = a[j] * g
                q = carry * h[j]  # ∂loss/∂(Δ_t A)
                sum_A += q * deltas[j][:, None]
                dinputs += (sum_of_states(g * Bs[j][None, :]),)
                ddecays += (sum_of_states(q * rate),)
                dBs += (sum_of_channels(g * inputs[j][:, None]),)
                dCs += (sum_of_channels(h[j + 1] * dys[j][:, None]),)
            _write(dB, state, t, time, n, state, over_channels(dBs[::-1]))

            # the next segment is read here, as soon as the states of this one have left their registers
            next_t = tl.maximum(t - SEGMENT, 0)
            next_h = tl.load(scratch + tl.maximum(segments - 2 - s, 0) * BLOCK_D * BLOCK_N)
            next_u = _read(u, u_l, next_t, time, d, dim)
            next_delta = _read(delta, delta_l, next_t, time, d, dim)
            next_dy = _read(dout, dout_l, next_t, time, d, dim)
            next_z = _read(z, z_l, next_t, time, d, dim) if HAS_Z else next_dy
            next_B = _read(B, B_l, next_t, time, n, state)
            next_C = _read(C, C_l, next_t, time, n, state)

            _write(dC, state, t, time, n, state, over_channels(dCs[::-1]))
            dinput = over_states(dinputs[::-1])  # ∂loss/∂(Δ_t u_t)
            ddelta_t = (over_states(ddecays[::-1]) * LN_2 + dinput * u_t) * slope
            _write(du, dim, t, time, d, dim, dinput * delta_t + skip * dy)
            _write(ddelta, dim, t, time, d, dim, ddelta_t)
            sum_D += dy * u_t
            sum_bias += ddelta_t

            h_0 = next_h
            u_t, delta_t, slope = _inputs(next_u, next_delta, bias, SOFTPLUS)
            dy = next_dy.to(tl.float32)
            if HAS_Z:
                dy *= silu(next_z.to(tl.float32))
            B_t, C_t = next_B.to(tl.float32), next_C.to(tl.float32)
        tl.debug_barrier()  # all lanes have read this chunk's states

    parameters += (b * directions + k) * dim * (state + 2)
    tl.store(parameters + rows * state + columns, sum_A, mask=(rows < dim) & (columns < state))
    if HAS_D:
        tl.store(parameters + dim * state + d, tl.sum(sum_D, 1, keep_dims=True), mask=d < dim)
    if HAS_BIAS:
        tl.store(parameters + dim * (state + 1) + d, tl.sum(sum_bias, 1, keep_dims=True), mask=d < dim)


@triton.jit(do_not_specialize=["rows"])
def add_partial_sums(
    partial,  # (parts, 2, rows, state)
    dB,  # rows of `state` adjoining elements, at equal steps
    dB_r,
    dC,
    dC_r,
    parts,
    rows,
    state,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dB = Σ_p partial_p0 or, in the second row of the grid, dC = Σ_p partial_p1; in the order of p."""
    which = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    n = tl.arange(0, BLOCK_N)[None, :]
    ok = (r < rows) & (n < state)
    partial += (which * rows + r) * state + n
    total = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    for _ in range(parts):
        total += tl.load(partial, mask=ok, other=0.0)
        partial += 2 * rows.to(tl.int64) * state
    if which == 0:
        tl.store(dB + r * dB_r + n, total, mask=ok)
    else:
        tl.store(dC + r * dC_r + n, total, mask=ok)
