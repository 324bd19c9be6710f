"""The scan and the convolution in C++: OpenMP over batch and channels; AVX-512, AVX2 or portable from one source.

The kernels (`native/scan_*.cpp`, `native/conv.cpp`) read and write torch's memory through pointers and strides. float32
and bfloat16 go in and out; the state and all sums are float32. The backward pass rebuilds the states instead of storing
them, and its result does not depend on the number of threads.
"""

import ctypes

import torch
from torch import Tensor

from famba.native.build import BuildError, library
from famba.scan.autograd import Kept, ParameterGrads, ScanTensors, StreamGrads

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


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _scan_args(
    inputs: ScanTensors, softplus: bool, out: Tensor, total: Tensor | None, again: Tensor | None = None
) -> _ScanArgs:
    u, delta, A, B, C, D, z, bias = inputs
    sizes = (*u.shape, A.shape[2], u.dtype == torch.bfloat16, softplus, torch.get_num_threads())
    streams = (_stream(x) for x in (u, delta, B, C, z, out, total, again))
    return _ScanArgs(*sizes, *streams, *(_pointer(x) for x in (A, D, bias)))


def _room(args: _ScanArgs) -> tuple[int, int]:
    """Floats for the checkpoints and for the partial sums."""
    checkpoints, partial = ctypes.c_int64(), ctypes.c_int64()
    library().scan_sizes(ctypes.byref(args), ctypes.byref(checkpoints), ctypes.byref(partial))
    return checkpoints.value, partial.value


def scan_forward(inputs: ScanTensors, softplus: bool) -> tuple[Tensor, Kept]:
    """See `autograd.Kernels`. A sequence that is not long has no states."""
    out = inputs.u.new_empty(inputs.u.shape[1:])  # (B, L, D)
    total = None if inputs.z is None else torch.empty_like(out)
    args = _scan_args(inputs, softplus, out, total)
    states = inputs.A.new_empty(_room(args)[0])
    args.checkpoints = _pointer(states)
    library().scan_forward(ctypes.byref(args))
    return out, (total, states)


def scan_backward(
    dout: Tensor, inputs: ScanTensors, kept: Kept, softplus: bool, grads: StreamGrads, again: Tensor | None = None
) -> ParameterGrads:
    """See `autograd.Kernels`."""
    total, states = kept
    args = _scan_args(inputs, softplus, dout, total, again)
    partial = states.new_empty(_room(args)[1])
    args.checkpoints, args.partial = _pointer(states), _pointer(partial)
    args.du, args.ddelta, args.dB, args.dC, args.dz = (
        _stream(x) for x in (grads.u, grads.delta, grads.B, grads.C, grads.z)
    )
    dA = torch.empty_like(inputs.A)
    dD, dbias = (None if x is None else torch.empty_like(x) for x in (inputs.D, inputs.delta_bias))
    args.dA, args.dD, args.dbias = (_pointer(x) for x in (dA, dD, dbias))
    library().scan_backward(ctypes.byref(args))
    return dA, dD, dbias


def _conv_args(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> _ConvArgs:
    directions, dim, width = weight.shape
    sizes = (directions, x.shape[0], x.shape[1], dim, width, x.dtype == torch.bfloat16, torch.get_num_threads())
    return _ConvArgs(*sizes, _stream(x), _stream(out), _pointer(weight), _pointer(bias))


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `autograd.Kernels`."""
    out = x.new_empty(weight.shape[0], *x.shape)
    library().conv_forward(ctypes.byref(_conv_args(x, weight, bias, out)))
    return out


def conv_backward(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """See `autograd.Kernels`."""
    args = _conv_args(x, weight, bias, dout)
    floats = ctypes.c_int64()
    library().conv_sizes(ctypes.byref(args), ctypes.byref(floats))
    partial = weight.new_empty(floats.value)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    args.partial, args.dx = _pointer(partial), _stream(dx)
    args.dweight, args.dbias = _pointer(dweight), _pointer(dbias)
    library().conv_backward(ctypes.byref(args))
    return dweight, dbias
