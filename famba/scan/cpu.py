"""The scan and the convolution in C++: OpenMP over batch and channels; AVX-512, AVX2 or portable from one source.

The kernels (`native/scan_*.cpp`, `native/conv.cpp`) read and write torch's memory through pointers and strides. float32
and bfloat16 go in and out; the state and all sums are float32. The backward pass rebuilds the states instead of storing
them, and its result does not depend on the number of threads.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.native.build import BuildError, library

DTYPES = (torch.float32, torch.bfloat16)


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"runs on the CPU, not on {device.type}"
    if torch.compiler.is_compiling():
        return "is C++ that torch.compile cannot see into"
    if dtype not in DTYPES:
        return f"takes float32 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    try:
        library()
    except BuildError as error:
        return str(error)
    return None


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
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
    out: Tensor = _Scan.apply(u, delta, A, B, C, D, z, delta_bias, softplus)
    return out


class _Stream(ctypes.Structure):
    """`Stream` of simd.h."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("k", "b", "l")))


class _ScanArgs(ctypes.Structure):
    """`ScanArgs` of scan.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("directions", "batch", "length", "dim", "state")),
        *((name, ctypes.c_int64) for name in ("bf16", "softplus", "threads")),
        *((name, _Stream) for name in ("u", "delta", "B", "C", "z", "out", "y", "again")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "bias", "checkpoints", "partial")),
        *((name, _Stream) for name in ("du", "ddelta", "dB", "dC", "dz")),
        *((name, ctypes.c_void_p) for name in ("dA", "dD", "dbias")),
    )


class _ConvArgs(ctypes.Structure):
    """`ConvArgs` of conv.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("directions", "batch", "length", "dim", "width", "bf16", "threads")),
        *((name, _Stream) for name in ("x", "out")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "partial")),
        ("dx", _Stream),
        *((name, ctypes.c_void_p) for name in ("dweight", "dbias")),
    )


def _stream(x: Tensor | None) -> _Stream:
    """(K, B, L, F) or (B, L, F) with contiguous features."""
    if x is None:
        return _Stream(None, 0, 0, 0)
    k, b, length, _ = (0, *x.stride()) if x.dim() == 3 else x.stride()
    return _Stream(x.data_ptr(), k, b, length)


def _dense(x: Tensor | None) -> Tensor | None:
    """The same tensor with contiguous features; the other axes may be strided."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _scan_args(
    inputs: Sequence[Tensor | None], softplus: bool, out: Tensor, y: Tensor | None, again: Tensor | None = None
) -> _ScanArgs:
    """`inputs` as `_Scan.forward` has them: u, delta, A, B, C, D, z, bias."""
    u, delta, A, B, C, D, z, bias = inputs
    assert u is not None
    assert A is not None
    directions, batch, length, dim = u.shape
    sizes = (directions, batch, length, dim, A.shape[2], u.dtype == torch.bfloat16, softplus, torch.get_num_threads())
    streams = (_stream(x) for x in (u, delta, B, C, z, out, y, again))
    return _ScanArgs(*sizes, *streams, *(_pointer(x) for x in (A, D, bias)))


def _room(args: _ScanArgs) -> tuple[int, int]:
    """Floats for the checkpoints and for the partial sums."""
    checkpoints, partial = ctypes.c_int64(), ctypes.c_int64()
    library().scan_sizes(ctypes.byref(args), ctypes.byref(checkpoints), ctypes.byref(partial))
    return checkpoints.value, partial.value


def scan_forward(inputs: Sequence[Tensor | None], softplus: bool) -> tuple[Tensor, tuple[Tensor | None, Tensor]]:
    """The scan, and what its backward pass wants: the sum of the directions before the gate, and states of the past.

    `inputs` are u, delta, A, B, C, D, z, bias as `chooser.Backend.scan` describes them, features contiguous, A, D and
    bias wholly. So they are in `scan_backward`, and its `grads`, which are written to, in the same order. Without a
    gate there is no sum to keep; a sequence that is not long has no states.
    """
    u, A, z = inputs[0], inputs[2], inputs[6]
    assert u is not None
    assert A is not None
    out = u.new_empty(u.shape[1:])  # (B, L, D)
    y = None if z is None else torch.empty_like(out)
    args = _scan_args(inputs, softplus, out, y)
    checkpoints = A.new_empty(_room(args)[0])
    args.checkpoints = _pointer(checkpoints)
    library().scan_forward(ctypes.byref(args))
    return out, (y, checkpoints)


def scan_backward(
    dout: Tensor,
    inputs: Sequence[Tensor | None],
    kept: tuple[Tensor | None, Tensor],
    softplus: bool,
    grads: Sequence[Tensor | None],
    again: Tensor | None = None,
) -> None:
    """Write the gradients of all inputs of `scan_forward` into `grads`, and what it returned into `again`.

    `kept` is as it was returned there. Without a gate `again` must be None.
    """
    y, checkpoints = kept
    args = _scan_args(inputs, softplus, dout, y, again)
    partial = checkpoints.new_empty(_room(args)[1])
    args.checkpoints, args.partial = _pointer(checkpoints), _pointer(partial)
    du, ddelta, dA, dB, dC, dD, dz, dbias = grads
    args.du, args.ddelta, args.dB, args.dC, args.dz = (_stream(x) for x in (du, ddelta, dB, dC, dz))
    args.dA, args.dD, args.dbias = (_pointer(x) for x in (dA, dD, dbias))
    library().scan_backward(ctypes.byref(args))


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
        A, D, delta_bias = (None if x is None else x.contiguous() for x in (A, D, delta_bias))  # type: ignore[assignment]
        u, delta, B, C, z = (_dense(x) for x in (u, delta, B, C, z))  # type: ignore[assignment]
        inputs = (u, delta, A, B, C, D, z, delta_bias)
        out, kept = scan_forward(inputs, softplus)
        ctx.save_for_backward(*inputs, *kept)
        ctx.softplus = softplus
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, y, checkpoints = ctx.saved_tensors
        grads = [None if x is None else x.new_empty(x.shape) for x in inputs]
        scan_backward(_dense(dout), inputs, (y, checkpoints), ctx.softplus, grads)  # type: ignore[arg-type]
        return (*grads, None)


def _conv_args(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> _ConvArgs:
    directions, dim, width = weight.shape
    sizes = (directions, x.shape[0], x.shape[1], dim, width, x.dtype == torch.bfloat16, torch.get_num_threads())
    return _ConvArgs(*sizes, _stream(x), _stream(out), _pointer(weight), _pointer(bias))


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `chooser.Backend.conv`; the features of x are contiguous, weight and bias wholly."""
    out = x.new_empty(weight.shape[0], *x.shape)
    library().conv_forward(ctypes.byref(_conv_args(x, weight, bias, out)))
    return out


def conv_backward(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """Write the gradient of x into `dx`; returns those of weight and bias."""
    args = _conv_args(x, weight, bias, dout)
    floats = ctypes.c_int64()
    library().conv_sizes(ctypes.byref(args), ctypes.byref(floats))
    partial = weight.new_empty(floats.value)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    args.partial, args.dx = _pointer(partial), _stream(dx)
    args.dweight, args.dbias = _pointer(dweight), _pointer(dbias)
    library().conv_backward(ctypes.byref(args))
    return dweight, dbias


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, weight, bias = _dense(x), weight.contiguous(), bias.contiguous()  # type: ignore[assignment]
        ctx.save_for_backward(x, weight, bias)
        return conv_forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        dx = x.new_empty(x.shape)
        return dx, *conv_backward(_dense(dout), x, weight, bias, dx)  # type: ignore[arg-type]
