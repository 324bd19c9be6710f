"""Whether the Triton kernels run here, and how they are launched: strides, grids, options."""

import functools
import os
import subprocess
from typing import Any

import torch
from torch import Tensor

from famba.errors import InputError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
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


def strided(x: Tensor) -> tuple[Any, ...]:
    """A stream as the kernels take it: the tensor, then its strides but the last."""
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        raise TypeError(f"a Triton kernel needs contiguous features, found strides {x.stride()} of {tuple(x.shape)}")
    if x.shape[-2] * x.stride(-2) >= 2**31:
        raise InputError(
            "scan backend 'triton': a sample spans 2^31 elements or more, which its indices cannot reach; "
            "choose another backend"
        )
    return x, *x.stride()[:-1]


def strided_or_none(z: Tensor | None) -> tuple[Any, ...]:
    return (None, 0, 0) if z is None else strided(z)


def grid_and_blocks(
    block: tuple[int, int], batch: int, length: int, dim: int
) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Grid and block sizes of kernels whose programs have `block` positions and channels of one sample each."""
    block_l, block_d = block
    return (-(-dim // block_d), -(-length // block_l), batch), {"BLOCK_L": block_l, "BLOCK_D": block_d}
