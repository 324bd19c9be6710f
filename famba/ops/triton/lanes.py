"""Functions that Triton kernels share: a tile of whole rows, how a tile lies in the lanes of a warp, sums over lanes,
sigmoid, SiLU, softplus.
"""

# mypy: allow-untyped-defs, disable-error-code=assignment
# an annotation of a kernel's parameter is an instruction to Triton's compiler; a tuple grows as a loop is unrolled

import triton
import triton.language as tl

ADJOINING = tl.constexpr(4)  # float32s of one load: the states, and the channels, that adjoin in a lane
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def tile_of_rows(block, count, channels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Rows (BLOCK_R, 1) and channels (1, BLOCK_C) of a block of rows, and where they exist."""
    r = block * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    c = tl.arange(0, BLOCK_C)[None, :]
    return r, c, (r < count) & (c < channels)


@triton.jit
def _reciprocal(x):
    """1 / x for x >= 1: two instructions, where a division would also look after the largest and smallest of floats."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def sigmoid(x):
    return _reciprocal(1.0 + tl.exp2(x * -LOG2_E))


@triton.jit
def silu(x):
    return x * sigmoid(x)


@triton.jit
def softplus(x):
    """max(x, 0) + log(1 + e^-|x|), accurate also where it is small: log(1 + e) = e p(e).

    p is a polynomial fitted to e in [0, 1], where it is off by less than 2e-7 of its value.
    """
    e = tl.exp2(tl.abs(x) * -LOG2_E)
    p = -0.008539208
    p = p * e + 0.04408963
    p = p * e - 0.107681714
    p = p * e + 0.17745242
    p = p * e - 0.24495463
    p = p * e + 0.3327548
    p = p * e - 0.49997404
    p = p * e + 0.99999982
    return tl.maximum(x, 0.0) + p * e


@triton.jit
def exists(index, size, condition):
    """index < size where the scalar condition holds. Triton's interpreter cannot mask with a scalar."""
    return index < tl.where(condition, size, 0)


@triton.jit
def by_row(x):
    """A tile of channels in the order of a state tile's rows, in which the compiler deals them out to the lanes.

    A lane has every (BLOCK_D / ADJOINING)-th row; its channels shall adjoin, for their exchange takes one access then.
    """
    x = tl.reshape(x, (x.shape[0] // ADJOINING, ADJOINING, x.shape[1]))
    return tl.reshape(tl.permute(x, (1, 0, 2)), (x.shape[0] * ADJOINING, x.shape[2]))


@triton.jit
def by_channel(x):
    x = tl.reshape(x, (ADJOINING, x.shape[0] // ADJOINING, x.shape[1]))
    return tl.reshape(tl.permute(x, (1, 0, 2)), (x.shape[1] * ADJOINING, x.shape[2]))


@triton.jit
def columns_of(x):
    """The columns of (BLOCK, SEGMENT), each (BLOCK)."""
    if x.shape[1] == 1:
        return (tl.reshape(x, (x.shape[0],)),)
    else:
        early, late = tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2)), (0, 2, 1)))
        return columns_of(early) + columns_of(late)


@triton.jit
def _stack(tensors):
    """Tensors of two axes side by side on a third."""
    if len(tensors) == 2:
        return tl.join(tensors[0], tensors[1])
    else:
        x = tl.join(_stack(tensors[0::2]), _stack(tensors[1::2]))
        return tl.reshape(x, (x.shape[0], x.shape[1], len(tensors)))


@triton.jit
def sum_of_states(x):
    """(BLOCK_D, BLOCK_N) summed over the states of each lane: (BLOCK_D, lanes)."""
    return tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] // ADJOINING, ADJOINING)), 2)


@triton.jit
def sum_of_channels(x):
    """(BLOCK_D, BLOCK_N) summed over the channels of each lane: (lanes, BLOCK_N)."""
    return tl.sum(tl.reshape(x, (ADJOINING, x.shape[0] // ADJOINING, x.shape[1])), 0)


@triton.jit
def _sum_of_lanes(x):
    """The sum over the last axis by halves. A lane can only split what it has, so it is given all lanes' parts first.

    That is one exchange for (BLOCK, SEGMENT, lanes); `tl.sum` would need one for each element and half.
    """
    if x.shape[2] == 1:
        return tl.reshape(x, (x.shape[0], x.shape[1]))
    else:
        a, b = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2] // 2, 2)))
        return _sum_of_lanes(a + b)


@triton.jit
def over_states(parts):
    """The sums that `sum_of_states` began, of SEGMENT steps: (BLOCK_D, SEGMENT) in the order of the channels."""
    return by_channel(_sum_of_lanes(tl.permute(_stack(parts), (0, 2, 1))))


@triton.jit
def over_channels(parts):
    """The sums that `sum_of_channels` began, of SEGMENT steps: (BLOCK_N, SEGMENT)."""
    return _sum_of_lanes(tl.permute(_stack(parts), (1, 2, 0)))
