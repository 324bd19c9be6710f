"""The Triton kernels of the depthwise causal convolution with SiLU, both directions in one pass over x.

Tap w of direction 0 reads x_{t-(W-1)+w}; in direction 1, which is causal in reversed time, it reads x_{t+(W-1)-w}. So
the window x_l .. x_{l+W-1} is all that output l+W-1 of direction 0 and output l of direction 1 depend on. A program,
one warp, iterates along l with the windows of its channels in registers and forms each pre-activation once.
"""

# mypy: allow-untyped-defs, disable-error-code=assignment
# an annotation of a kernel's parameter is an instruction to Triton's compiler; a tuple grows as a loop is unrolled

import triton
import triton.language as tl

from famba.ops.triton.lanes import exists, sigmoid

AT_ONCE = tl.constexpr(4)  # positions whose loads are under way together


@triton.jit
def _values(x, stride, first, L, d, dim, COUNT: tl.constexpr):
    """x at COUNT positions from `first`, each (BLOCK_D) in float32; 0 outside of the sequence."""
    values = ()
    for i in tl.static_range(COUNT):
        ok = exists(d, dim, (first + i >= 0) & (first + i < L))
        values += (tl.load(x + (first + i) * stride + d, mask=ok, other=0.0).to(tl.float32),)
    return values


@triton.jit
def _taps(weight, bias, d, dim, k: tl.constexpr, W: tl.constexpr):
    """The weights of direction k in the order in which a window meets them, then its bias."""
    taps = ()
    for w in tl.static_range(W):
        taps += (tl.load(weight + (k * dim + d) * W + (w if k == 0 else W - 1 - w), mask=d < dim, other=0.0),)
    taps += (tl.load(bias + k * dim + d, mask=d < dim, other=0.0),)
    return taps


@triton.jit
def _preactivation(window, taps, W: tl.constexpr):
    pre = taps[W]
    for w in tl.static_range(W):
        pre += taps[w] * window[w]
    return pre


@triton.jit
def _dpre(dout, window, taps, W: tl.constexpr):
    """The gradient of the pre-activation."""
    pre = _preactivation(window, taps, W)
    sigma = sigmoid(pre)
    return dout * sigma * (1.0 + pre * (1.0 - sigma))


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
    """The programs share out the windows that begin at -(W-1) to L-1."""
    b, batch = tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    start = tl.program_id(1) * BLOCK_L - (W - 1)
    x += b * x_b
    out += b * L * dim
    taps = ()
    for k in tl.static_range(K):
        taps += (_taps(weight, bias, d, dim, k, W),)
    window = _values(x, x_l, start, L, d, dim, W - 1)
    for first in range(start, tl.minimum(start + BLOCK_L, L), AT_ONCE):
        ahead = _values(x, x_l, first + (W - 1), L, d, dim, AT_ONCE)
        for i in tl.static_range(AT_ONCE):
            window += (ahead[i],)
            for k in tl.static_range(K):
                pre = _preactivation(window, taps[k], W)
                t = first + i + (W - 1) * (1 - k)
                ok = exists(d, dim, (t >= 0) & (t < L))
                tl.store(out + k * batch * L * dim + t * dim + d, pre * sigmoid(pre), mask=ok)
            window = window[1:]


@triton.jit
def _before(dout, dout_k, dout_l, x, x_l, start, L, d, dim, taps, K: tl.constexpr, W: tl.constexpr):
    """What the W - 1 windows before `start` lead to: ∂loss/∂pre of so many outputs, direction after direction."""
    values = _values(x, x_l, start - (W - 1), L, d, dim, 2 * (W - 1))
    dpre = ()
    for k in tl.static_range(K):
        douts = _values(dout + k * dout_k, dout_l, start - (W - 1) * k, L, d, dim, W - 1)
        for i in tl.static_range(W - 1):
            dpre += (_dpre(douts[i], values[i : i + W], taps[k], W),)
    return dpre


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
    dx,  # (B, L, D), strides as x
    dx_b,
    dx_l,
    parameters,  # (B, blocks of positions, K, D W + D): the gradients of weight and bias
    L,
    dim,
    K: tl.constexpr,
    W: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """x_l meets the outputs l to l+W-1 of direction 0 and l-(W-1) to l of direction 1, each at another tap.

    With the window at l the last of either become known; the W - 1 before them are at hand. All are 0 outside of the
    sequence, as x_l is.
    """
    b = tl.program_id(2).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    start = tl.program_id(1) * BLOCK_L
    x += b * x_b
    dx += b * dx_b
    dout += b * dout_b
    taps = ()
    for k in tl.static_range(K):
        taps += (_taps(weight, bias, d, dim, k, W),)
    window = _values(x, x_l, start, L, d, dim, W - 1)
    dpre = _before(dout, dout_k, dout_l, x, x_l, start, L, d, dim, taps, K, W)
    sums = ()  # of each direction: over its taps, then of its bias
    for _ in tl.static_range(K * (W + 1)):
        sums += (tl.zeros((BLOCK_D,), tl.float32),)
    for first in range(start, tl.minimum(start + BLOCK_L, L), AT_ONCE):
        ahead = _values(x, x_l, first + (W - 1), L, d, dim, AT_ONCE)
        douts = ()
        for k in tl.static_range(K):
            douts += (_values(dout + k * dout_k, dout_l, first + (W - 1) * (1 - k), L, d, dim, AT_ONCE),)
        for i in tl.static_range(AT_ONCE):
            window += (ahead[i],)
            dx_t = tl.zeros((BLOCK_D,), tl.float32)
            known, added = (), ()
            for k in tl.static_range(K):
                met = dpre[k * (W - 1) : (k + 1) * (W - 1)]
                met += (_dpre(douts[k][i], window, taps[k], W),)
                for w in tl.static_range(W):
                    dx_t += taps[k][w] * met[W - 1 - w]
                    added += (sums[k * (W + 1) + w] + window[0] * met[W - 1 - w],)
                added += (sums[k * (W + 1) + W] + met[(W - 1) * k],)
                known += met[1:]
            dpre, sums = known, added
            tl.store(dx + (first + i) * dx_l + d, dx_t, mask=exists(d, dim, first + i < L))
            window = window[1:]
    parameters += (b * tl.num_programs(1) + tl.program_id(1)) * K * dim * (W + 1)
    for k in tl.static_range(K):
        for w in tl.static_range(W):
            tap = w if k == 0 else W - 1 - w
            tl.store(parameters + d * W + tap, sums[k * (W + 1) + w], mask=d < dim)
        tl.store(parameters + dim * W + d, sums[k * (W + 1) + W], mask=d < dim)
        parameters += dim * (W + 1)
