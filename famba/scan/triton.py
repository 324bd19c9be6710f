"""The scan and the convolution in Triton, for CUDA devices: one launch for both directions, channels-last, no flips.

For sequences longer than CHUNK the forward pass keeps the state at the start of each further chunk. The backward pass
rebuilds the states chunk by chunk. Sums that cross programs go through partial sums that are added in a fixed order: no
atomics, so two runs agree to the last bit. float32, bfloat16 and float16 go in and out; the state, the parameters and
all sums are float32. Each direction's y is rounded to the streams' type before the two are added, as in mamba-ssm, and
their sum before z gates it. Nothing here waits for the device, so a step can be captured as a CUDA graph.

With TRITON_INTERPRET=1 in the environment the same kernels run on CPU tensors, slowly: for tests.
"""

import functools
import os
import subprocess
from typing import Any

import torch
from torch import Tensor

from famba.errors import InputError
from famba.native.memory import expect
from famba.scan.autograd import Kept, ParameterGrads, ScanTensors, StreamGrads

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHUNK = 256  # steps between stored states, a multiple of 16: 224-pixel images of 16-pixel patches store none
TILE = 512  # states per program: 16 in each lane of its warp, as much as the registers of the backward pass hold
CONVOLVED = (32, 64)  # positions and channels per program of the convolution: positions it walks over, a warp's width
GATED = (16, 64)  # positions and channels per program of the gate
SUMMED = 1024  # elements per program that adds partial sums: positions times states
MAX_STATE, MAX_WIDTH = 256, 8
OPTIONS = {"enable_fp_fusion": True}  # Triton 3.10 turns fused multiply-adds off unless asked for


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _not_working() -> str | None:
    """Why Triton's compiler cannot be used on this machine's GPU; None if it can."""
    try:
        import triton  # noqa: PLC0415

        triton.runtime.driver.active.get_current_target()  # builds its launcher: needs a driver and a C compiler
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = str(error).partition("\n")[0]
        return f"needs a working triton ({reason})"
    return None


def _no_gpu(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "needs a CUDA device"
    if not torch.cuda.is_available():
        return "needs a CUDA device and torch sees none"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "needs a GPU of compute capability 8.0 or higher"
    return _not_working()


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type not in ("cuda", "cpu"):
        return f"runs on CUDA devices, not on {device.type}"
    if _interpreted() and device.type == "cuda":
        return "is interpreted (TRITON_INTERPRET=1), on CPU tensors only"
    if not _interpreted() and (reason := _no_gpu(device)):
        return reason
    return None if dtype in DTYPES else f"takes float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"


def scan_forward(inputs: ScanTensors, softplus: bool) -> tuple[Tensor, Kept]:
    """See `autograd.Kernels`. A sequence of up to CHUNK steps has no states."""
    from famba.scan import triton_gate as gates  # noqa: PLC0415
    from famba.scan import triton_scan as kernels  # noqa: PLC0415

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
            *(argument for stream in (u, delta, B, C) for argument in _strided(stream)),
            *(A, D, bias, y, states, length, CHUNK, dim, state),
            HAS_D=D is not None,
            HAS_BIAS=bias is not None,
            SOFTPLUS=softplus,
            **blocks,
            **OPTIONS,
            num_warps=1,
        )
        grid, blocks = _blocks(GATED, batch, length, dim)
        gates.gate_forward[grid](
            *(y, *_strided_or_none(z), out, total, length, dim), K=directions, HAS_Z=z is not None, **blocks, **OPTIONS
        )
    return out, (total, states)


def scan_backward(
    dout: Tensor, inputs: ScanTensors, kept: Kept, softplus: bool, grads: StreamGrads, again: Tensor | None = None
) -> ParameterGrads:
    """See `autograd.Kernels`."""
    from famba.scan import triton_gate as gates  # noqa: PLC0415
    from famba.scan import triton_scan as kernels  # noqa: PLC0415

    u, delta, A, B, C, D, z, bias = inputs
    total, states = kept
    directions, batch, length, dim = u.shape
    state, rows = A.shape[2], directions * batch * length
    blocks = _states(state)
    _expect_scan(inputs)
    kind, full, gated = u.dtype, u.shape, u.shape[1:]
    shape = ((length - 1) // CHUNK, directions, batch, dim, blocks["BLOCK_N"])
    if not (z is None) == (total is None) == (grads.z is None) or (z is None and again is not None):
        raise TypeError("a Triton kernel needs z, the sum before the gate and the gradient of z, or none of them")
    expect(u.device, (dout, kind, gated), (total, kind, gated), (again, kind, gated), (grads.z, kind, gated))
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
            *(*_strided(dout), *_strided_or_none(z)),
            *(argument for stream in (u, delta, B, C) for argument in _strided(stream)),
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
            grid, blocks = _blocks(GATED, batch, length, dim)
            gates.gate_backward[grid](
                *(*_strided(dout), total, *_strided(z), *_strided_or_none(grads.z), again, length, dim),
                AGAIN=again is not None,
                **blocks,
                **OPTIONS,
            )
    dA, dD, dbias = parameters.sum(0).split([dim * state, dim, dim], dim=1)
    return dA.view(A.shape), None if D is None else dD, None if bias is None else dbias


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `autograd.Kernels`."""
    from famba.scan import triton_conv as kernels  # noqa: PLC0415

    directions, _, width = weight.shape
    _expect_conv(x, weight, bias)
    if width > MAX_WIDTH:
        raise InputError(
            f"scan backend 'triton': convolution width {width}, expected at most {MAX_WIDTH}; choose another backend"
        )
    batch, length, dim = x.shape
    out = x.new_empty(directions, *x.shape)
    grid, blocks = _blocks(CONVOLVED, batch, length + width - 1, dim)
    with torch.cuda.device_of(x):
        kernels.conv_forward[grid](
            *(*_strided(x), weight, bias, out, length, dim), K=directions, W=width, **blocks, **OPTIONS, num_warps=1
        )
    return out


def conv_backward(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """See `autograd.Kernels`."""
    from famba.scan import triton_conv as kernels  # noqa: PLC0415

    directions, _, width = weight.shape
    _expect_conv(x, weight, bias)
    expect(x.device, (dout, x.dtype, (directions, *x.shape)), (dx, x.dtype, x.shape))
    batch, length, dim = x.shape
    grid, blocks = _blocks(CONVOLVED, batch, length, dim)
    parameters = weight.new_empty(batch, grid[1], directions, dim * (width + 1))  # partial sums
    with torch.cuda.device_of(x):
        kernels.conv_backward[grid](
            *(*_strided(dout), *_strided(x), weight, bias, *_strided(dx), parameters, length, dim),
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


def _strided(x: Tensor) -> tuple[Any, ...]:
    """A stream as the kernels take it: the tensor, then its strides but the last."""
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        raise TypeError(f"a Triton kernel needs contiguous features, found strides {x.stride()} of {tuple(x.shape)}")
    if x.shape[-2] * x.stride(-2) >= 2**31:
        raise InputError(
            "scan backend 'triton': a sample spans 2^31 elements or more, which its indices cannot reach; "
            "choose another backend"
        )
    return x, *x.stride()[:-1]


def _strided_or_none(z: Tensor | None) -> tuple[Any, ...]:
    return (None, 0, 0) if z is None else _strided(z)


def _states(state: int) -> dict[str, int]:
    """The tile of a scan program: all states, padded to a power of two, of as many channels as TILE has room for."""
    states = max(4, 1 << (state - 1).bit_length())
    return {"BLOCK_D": max(8, TILE // states), "BLOCK_N": states}


def _blocks(block: tuple[int, int], batch: int, length: int, dim: int) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Grid and block sizes of kernels whose programs have `block` positions and channels of one sample each."""
    block_l, block_d = block
    return (-(-dim // block_d), -(-length // block_l), batch), {"BLOCK_L": block_l, "BLOCK_D": block_d}
