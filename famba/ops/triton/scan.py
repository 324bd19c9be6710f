"""The scan and the convolution in Triton, for CUDA devices: one launch for both directions, channels-last, no flips.

For sequences longer than CHUNK the forward pass saves the state at the start of each further chunk. The backward pass
recomputes the states chunk by chunk. Sums that cross programs go through partial sums that are added in a fixed order:
no atomics, so two runs agree to the last bit. float32, bfloat16 and float16 go in and out; the state, the parameters
and all sums are float32. Each direction's y is rounded to the streams' type before the two are added, as in mamba-ssm,
and their sum before z gates it. Nothing here waits for the device, so a step can be captured as a CUDA graph.

With TRITON_INTERPRET=1 in the environment the same kernels run on CPU tensors, slowly: for tests.
"""

import torch
from torch import Tensor

from famba.errors import InputError
from famba.ops.memory import expect
from famba.ops.triton.launch import OPTIONS, grid_and_blocks, strided, strided_or_none
from famba.ops.types import ParameterGrads, Saved, ScanTensors, StreamGrads

CHUNK = 256  # steps between stored states, a multiple of 16: 224-pixel images of 16-pixel patches store none
TILE = 512  # states per program: 16 in each lane of its warp, as much as the registers of the backward pass hold
CONVOLVED = (32, 64)  # positions and channels per program of the convolution: the positions of its loop, a warp's width
GATED = (16, 64)  # positions and channels per program of the gate
SUMMED = 1024  # elements per program that adds partial sums: positions times states
MAX_STATE, MAX_WIDTH = 256, 8


def scan_forward(inputs: ScanTensors, softplus: bool) -> tuple[Tensor, Saved]:
    """See `types.Passes`. A sequence of up to CHUNK steps has no states."""
    from famba.ops.triton import gate_kernels as gates  # noqa: PLC0415
    from famba.ops.triton import scan_kernels as kernels  # noqa: PLC0415

    _expect_scan(inputs)
    u, delta, A, B, C, D, z, bias = inputs
    directions, batch, length, dim = u.shape
    state = A.shape[2]
    if state > MAX_STATE:
        raise InputError(
            f"scan backend 'triton': state size {state}, expected at most {MAX_STATE}; choose another backend"
        )
    blocks = _states(state)
    y, out = u.new_empty(u.shape), u.new_empty(u.shape[1:])
    total = None if z is None else torch.empty_like(out)
    states = A.new_empty((length - 1) // CHUNK, directions, batch, dim, blocks["BLOCK_N"])
    with torch.cuda.device_of(u):
        kernels.scan_forward[-(-dim // blocks["BLOCK_D"]), batch, directions](
            *(argument for stream in (u, delta, B, C) for argument in strided(stream)),
            *(A, D, bias, y, states, length, CHUNK, dim, state),
            HAS_D=D is not None,
            HAS_BIAS=bias is not None,
            SOFTPLUS=softplus,
            **blocks,
            **OPTIONS,
            num_warps=1,
        )
        grid, blocks = grid_and_blocks(GATED, batch, length, dim)
        gates.gate_forward[grid](
            *(y, *strided_or_none(z), out, total, length, dim), K=directions, HAS_Z=z is not None, **blocks, **OPTIONS
        )
    return out, (total, states)


def scan_backward(
    dout: Tensor,
    inputs: ScanTensors,
    saved: Saved,
    softplus: bool,
    grads: StreamGrads,
    recomputed_out: Tensor | None = None,
) -> ParameterGrads:
    """See `types.Passes`."""
    from famba.ops.triton import gate_kernels as gates  # noqa: PLC0415
    from famba.ops.triton import scan_kernels as kernels  # noqa: PLC0415

    u, delta, A, B, C, D, z, bias = inputs
    total, states = saved
    directions, batch, length, dim = u.shape
    state, rows = A.shape[2], directions * batch * length
    blocks = _states(state)
    _expect_scan(inputs)
    kind, full, gated = u.dtype, u.shape, u.shape[1:]
    shape = ((length - 1) // CHUNK, directions, batch, dim, blocks["BLOCK_N"])
    if not (z is None) == (total is None) == (grads.z is None) or (z is None and recomputed_out is not None):
        raise TypeError("a Triton kernel needs z, the sum before the gate and the gradient of z, or none of them")
    expect(u.device, (dout, kind, gated), (total, kind, gated), (recomputed_out, kind, gated), (grads.z, kind, gated))
    expect(u.device, (grads.u, kind, full), (grads.delta, kind, full), (grads.B, kind, B.shape))
    expect(u.device, (grads.C, kind, C.shape), (states, torch.float32, shape))
    for x in (grads.u, grads.delta):
        _expect_rows(x, dim)
    for x in (grads.B, grads.C):
        _expect_rows(x, x.stride(2))
    programs = -(-dim // blocks["BLOCK_D"])
    chunk = min(CHUNK, -(-length // 16) * 16)  # no more scratch than the sequence needs
    segments = chunk // kernels.SEGMENT.value
    scratch = A.new_empty(directions, batch, programs, segments, blocks["BLOCK_N"] * blocks["BLOCK_D"])
    # partial sums: over channels within a program, over time for the parameters
    dB_dC = A.new_empty(programs, 2, rows, state)
    parameters = A.new_empty(batch, directions, dim * (state + 2))
    with torch.cuda.device_of(u):
        kernels.scan_backward[programs, batch, directions](
            *(*strided(dout), *strided_or_none(z)),
            *(argument for stream in (u, delta, B, C) for argument in strided(stream)),
            *(A, D, bias, states, scratch, grads.u, grads.delta, dB_dC, parameters, length, chunk, dim, state),
            HAS_Z=z is not None,
            HAS_D=D is not None,
            HAS_BIAS=bias is not None,
            SOFTPLUS=softplus,
            **blocks,
            **OPTIONS,
            num_warps=1,
        )
        rows_at_once = SUMMED // blocks["BLOCK_N"]
        kernels.add_partial_sums[-(-rows // rows_at_once), 2](
            *(dB_dC, grads.B, grads.B.stride(2), grads.C, grads.C.stride(2), programs, rows, state),
            BLOCK_R=rows_at_once,
            BLOCK_N=blocks["BLOCK_N"],
            **OPTIONS,
        )
        if z is not None:
            grid, blocks = grid_and_blocks(GATED, batch, length, dim)
            gates.gate_backward[grid](
                *(*strided(dout), total, *strided(z), *strided_or_none(grads.z), recomputed_out, length, dim),
                RECOMPUTED=recomputed_out is not None,
                **blocks,
                **OPTIONS,
            )
    dA, dD, dbias = parameters.sum(0).split([dim * state, dim, dim], dim=1)
    return dA.view(A.shape), None if D is None else dD, None if bias is None else dbias


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `types.Passes`."""
    from famba.ops.triton import conv_kernels  # noqa: PLC0415

    directions, _, width = weight.shape
    _expect_conv(x, weight, bias)
    if width > MAX_WIDTH:
        raise InputError(
            f"scan backend 'triton': convolution width {width}, expected at most {MAX_WIDTH}; choose another backend"
        )
    batch, length, dim = x.shape
    out = x.new_empty(directions, *x.shape)
    grid, blocks = grid_and_blocks(CONVOLVED, batch, length + width - 1, dim)
    with torch.cuda.device_of(x):
        conv_kernels.conv_forward[grid](
            *(*strided(x), weight, bias, out, length, dim), K=directions, W=width, **blocks, **OPTIONS, num_warps=1
        )
    return out


def conv_backward(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """See `types.Passes`."""
    from famba.ops.triton import conv_kernels  # noqa: PLC0415

    directions, _, width = weight.shape
    _expect_conv(x, weight, bias)
    expect(x.device, (dout, x.dtype, (directions, *x.shape)), (dx, x.dtype, x.shape))
    batch, length, dim = x.shape
    grid, blocks = grid_and_blocks(CONVOLVED, batch, length, dim)
    parameters = weight.new_empty(batch, grid[1], directions, dim * (width + 1))  # partial sums
    with torch.cuda.device_of(x):
        conv_kernels.conv_backward[grid](
            *(*strided(dout), *strided(x), weight, bias, *strided(dx), parameters, length, dim),
            K=directions,
            W=width,
            **blocks,
            **OPTIONS,
            num_warps=1,
        )
    dweight, dbias = parameters.sum((0, 1)).split([dim * width, dim], dim=1)
    return dweight.view(weight.shape), dbias


def _expect_scan(inputs: ScanTensors) -> None:
    u, delta, A, B, C, D, z, bias = inputs
    directions, _, _, dim = u.shape
    of_state, real = (*u.shape[:3], A.shape[2]), torch.float32
    expect(u.device, (u, None, u.shape), (delta, u.dtype, u.shape), (B, u.dtype, of_state), (C, u.dtype, of_state))
    expect(u.device, (A, real, (directions, dim, A.shape[2])), (D, real, (directions, dim)))
    expect(u.device, (z, u.dtype, u.shape[1:]), (bias, real, (directions, dim)))


def _expect_conv(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    directions, _, width = weight.shape
    expect(x.device, (x, None, x.shape), (weight, torch.float32, (directions, x.shape[2], width)))
    expect(x.device, (bias, torch.float32, (directions, x.shape[2])))


def _expect_rows(x: Tensor, step: int) -> None:
    """Rows (k, b, l) of (K, B, L, F) follow each other at that one distance, as the kernels write them."""
    (directions, batch, length, _), (k, b, row, _) = x.shape, x.stride()
    apart = ((length, row, step), (batch, b, length * step), (directions, k, batch * length * step))
    if any(size > 1 and found != expected for size, found, expected in apart):
        raise TypeError(f"a Triton kernel writes rows at equal steps, found strides {x.stride()} of {tuple(x.shape)}")


def _states(state: int) -> dict[str, int]:
    """The tile of a scan program: all states, padded to a power of two, of as many channels as TILE has room for."""
    states = max(4, 1 << (state - 1).bit_length())
    return {"BLOCK_D": max(8, TILE // states), "BLOCK_N": states}
