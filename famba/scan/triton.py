"""The scan and the convolution in Triton, for CUDA devices: one launch for both directions, channels-last, no flips.

The forward pass keeps nothing but its inputs and, for sequences longer than CHUNK, the state at the start of each
further chunk. The backward pass rebuilds the states chunk by chunk. Sums that cross programs go through partial sums
that are added in a fixed order: no atomics, so two runs agree to the last bit. float32, bfloat16 and float16 go in and
out; the state, the parameters and all sums are float32. Each direction's y is rounded to the streams' type before the
two are added, as in mamba-ssm. Nothing here waits for the device, so a step can be captured as a CUDA graph.

With TRITON_INTERPRET=1 in the environment the same kernels run on CPU tensors, slowly: for tests.
"""

import functools
import os
import subprocess
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.errors import InputError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHUNK = 256  # steps between stored states, a multiple of 16: 224-pixel images of 16-pixel patches store none
TILE = 512  # states per program: 16 in each lane of its warp, as much as the registers of the backward pass hold
ELEMENTWISE = (16, 64)  # positions and channels per program of the convolution and the gate
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
        return f"needs a working triton ({str(error).splitlines()[0]})"
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


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if weight.shape[2] > MAX_WIDTH:
        raise InputError(
            f"scan backend 'triton': convolution width {weight.shape[2]}, expected at most {MAX_WIDTH}; "
            "choose another backend"
        )
    out: Tensor = _Conv.apply(x, weight, bias)
    return out


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    if A.shape[2] > MAX_STATE:
        raise InputError(
            f"scan backend 'triton': state size {A.shape[2]}, expected at most {MAX_STATE}; choose another backend"
        )
    out: Tensor = _Scan.apply(u, delta, A, B, C, D, z, delta_bias, softplus)
    return out


def _dense(x: Tensor) -> Tensor:
    """The same tensor with contiguous features; the other axes may be strided."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strided(x: Tensor) -> tuple[Any, ...]:
    """A stream as the kernels take it: the tensor, then its strides but the last."""
    if x.shape[-2] * x.stride(-2) >= 2**31:
        raise InputError(
            "scan backend 'triton': a sample spans 2^31 elements or more, which its indices cannot reach; "
            "choose another backend"
        )
    return x, *x.stride()[:-1]


def _gate(z: Tensor | None) -> tuple[Any, ...]:
    return (None, 0, 0) if z is None else _strided(z)


def _blocks(state: int) -> dict[str, int]:
    """The tile of a scan program: all states, padded to a power of two, of as many channels as TILE has room for."""
    states = max(4, 1 << (state - 1).bit_length())
    return {"BLOCK_D": max(8, TILE // states), "BLOCK_N": states}


def _elementwise(batch: int, length: int, dim: int) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Grid and block sizes of the kernels that walk over (B, L, D)."""
    block_l, block_d = ELEMENTWISE
    return (-(-dim // block_d), -(-length // block_l), batch), {"BLOCK_L": block_l, "BLOCK_D": block_d}


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        softplus: bool,
    ) -> Tensor:
        from famba.scan import triton_scan as kernels  # noqa: PLC0415

        u, delta, B, C = _dense(u), _dense(delta), _dense(B), _dense(C)
        z = None if z is None else _dense(z)
        A = A.contiguous()
        D, delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
        directions, batch, length, dim = u.shape
        state = A.shape[2]
        blocks = _blocks(state)
        y, out = u.new_empty(u.shape), u.new_empty(u.shape[1:])
        checkpoints = A.new_empty((length - 1) // CHUNK, directions, batch, dim, blocks["BLOCK_N"])
        with torch.cuda.device_of(u):
            kernels.scan_forward[-(-dim // blocks["BLOCK_D"]), batch, directions](
                *(argument for stream in (u, delta, B, C) for argument in _strided(stream)),
                *(A, D, delta_bias, y, checkpoints, length, CHUNK, dim, state),
                HAS_D=D is not None,
                HAS_BIAS=delta_bias is not None,
                SOFTPLUS=softplus,
                **blocks,
                **OPTIONS,
                num_warps=1,
            )
            grid, blocks = _elementwise(batch, length, dim)
            kernels.gate_forward[grid](
                *(y, *_gate(z), out, length, dim), K=directions, HAS_Z=z is not None, **blocks, **OPTIONS
            )
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, checkpoints)
        ctx.softplus, ctx.chunk = softplus, CHUNK
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        from famba.scan import triton_scan as kernels  # noqa: PLC0415

        u, delta, A, B, C, D, z, delta_bias, checkpoints = ctx.saved_tensors
        dout = _dense(dout)
        directions, batch, length, dim = u.shape
        state = A.shape[2]
        blocks = _blocks(state)
        programs = -(-dim // blocks["BLOCK_D"])
        chunk = min(ctx.chunk, -(-length // 16) * 16)  # no more scratch than the sequence needs
        scratch = A.new_empty(directions, batch, programs, chunk // 4, blocks["BLOCK_N"] * blocks["BLOCK_D"])
        du, ddelta = u.new_empty(u.shape), delta.new_empty(delta.shape)
        y, dz = (None, None) if z is None else (u.new_empty(u.shape), z.new_empty(z.shape))
        # partial sums: over channels within a program, over time for the parameters
        dA = A.new_empty(batch, directions, dim, blocks["BLOCK_N"])
        dB, dC = (A.new_empty(programs, *B.shape) for _ in range(2))
        dD, dbias = (None if x is None else x.new_empty(batch, *x.shape) for x in (D, delta_bias))
        with torch.cuda.device_of(u):
            kernels.scan_backward[programs, batch, directions](
                *(*_strided(dout), *_gate(z)),
                *(argument for stream in (u, delta, B, C) for argument in _strided(stream)),
                *(
                    A,
                    D,
                    delta_bias,
                    checkpoints,
                    scratch,
                    y,
                    du,
                    ddelta,
                    dA,
                    dB,
                    dC,
                    dD,
                    dbias,
                    length,
                    chunk,
                    dim,
                    state,
                ),
                HAS_Z=z is not None,
                HAS_D=D is not None,
                HAS_BIAS=delta_bias is not None,
                SOFTPLUS=ctx.softplus,
                **blocks,
                **OPTIONS,
                num_warps=1,
            )
            if z is not None:
                grid, blocks = _elementwise(batch, length, dim)
                kernels.gate_backward[grid](
                    *(*_strided(dout), y, *_strided(z), dz, length, dim), K=directions, **blocks, **OPTIONS
                )
        return (
            du,
            ddelta,
            dA.sum(0)[..., :state],
            dB.sum(0).to(B.dtype),
            dC.sum(0).to(C.dtype),
            None if dD is None else dD.sum(0),
            dz,
            None if dbias is None else dbias.sum(0),
            None,
        )


class _Conv(torch.autograd.Function):
    """Saves only its input; the pre-activation is formed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from famba.scan import triton_conv as kernels  # noqa: PLC0415

        x, weight, bias = _dense(x), weight.contiguous(), bias.contiguous()
        directions, _, width = weight.shape
        batch, length, dim = x.shape
        out = x.new_empty(directions, *x.shape)
        grid, blocks = _elementwise(batch, length, dim)
        with torch.cuda.device_of(x):
            kernels.conv_forward[grid](
                *(*_strided(x), weight, bias, out, length, dim), K=directions, W=width, **blocks, **OPTIONS
            )
        ctx.save_for_backward(x, weight, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from famba.scan import triton_conv as kernels  # noqa: PLC0415

        x, weight, bias = ctx.saved_tensors
        dout = _dense(dout)
        directions, _, width = weight.shape
        batch, length, dim = x.shape
        grid, blocks = _elementwise(batch, length, dim)
        dx = x.new_empty(x.shape)
        dweight = weight.new_empty(batch, grid[1], directions, width, dim)
        dbias = bias.new_empty(batch, grid[1], directions, dim)
        with torch.cuda.device_of(x):
            kernels.conv_backward[grid](
                *(*_strided(dout), *_strided(x), weight, bias, dx, dweight, dbias, length, dim),
                K=directions,
                W=width,
                **blocks,
                **OPTIONS,
            )
        return dx, dweight.sum((0, 1)).mT, dbias.sum((0, 1))
