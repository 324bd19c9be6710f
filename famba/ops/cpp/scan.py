"""The scan and the convolution in C++: OpenMP over batch and channels; AVX-512, AVX2 or portable from one source.

The kernels (scan_forward.cpp, scan_backward.cpp, conv.cpp) read and write torch's memory through pointers and strides.
float32 and bfloat16 go in and out; the state and all sums are float32. The backward pass recomputes the states instead
of saving them, and its result does not depend on the number of threads.
"""

import ctypes

import torch
from torch import Tensor

from famba.ops.cpp.build import library
from famba.ops.memory import address, sizes, stream
from famba.ops.types import ParameterGrads, Saved, ScanTensors, StreamGrads


class _Stream(ctypes.Structure):
    """`Stream` of tensors.h."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("k", "b", "l")))


class _ScanArgs(ctypes.Structure):
    """`ScanArgs` of scan.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("directions", "batch", "length", "dim", "state")),
        *((name, ctypes.c_int64) for name in ("bf16", "softplus", "threads")),
        *((name, _Stream) for name in ("u", "delta", "B", "C", "z", "out", "y", "recomputed_out")),
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


def _scan_args(
    inputs: ScanTensors, softplus: bool, out: Tensor, total: Tensor | None, recomputed_out: Tensor | None = None
) -> _ScanArgs:
    u, delta, A, B, C, D, z, bias = inputs
    (directions, batch, length, dim), (_, _, state), kind = sizes(u, 4), sizes(A, 3), _kind(u)
    _expect_sizes(directions, state)
    numbers = (directions, batch, length, dim, state, kind == torch.bfloat16, softplus, torch.get_num_threads())
    full, of_state, gated = (directions, batch, length, dim), (directions, batch, length, state), (batch, length, dim)
    shapes = (full, full, of_state, of_state, gated, gated, gated, gated)
    streams = (
        _Stream(*stream(x, kind, shape))
        for x, shape in zip((u, delta, B, C, z, out, total, recomputed_out), shapes, strict=True)
    )
    parameters = (
        address(A, torch.float32, (directions, dim, state)),
        *(address(x, torch.float32, (directions, dim)) for x in (D, bias)),
    )
    return _ScanArgs(*numbers, *streams, *parameters)


def _expect_sizes(directions: int, inner: int) -> None:
    if directions not in (1, 2) or inner < 1:
        raise TypeError(
            f"a C++ kernel needs 1 or 2 directions and a state or width of at least 1: {directions}, {inner}"
        )


def _kind(x: Tensor) -> torch.dtype:
    """The type of the streams: bfloat16 or float32, which `stream` then requires of all of them."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


def _room(args: _ScanArgs) -> tuple[int, int]:
    """Floats for the checkpoints and for the partial sums."""
    checkpoints, partial = ctypes.c_int64(), ctypes.c_int64()
    library().scan_sizes(ctypes.byref(args), ctypes.byref(checkpoints), ctypes.byref(partial))
    return checkpoints.value, partial.value


def scan_forward(inputs: ScanTensors, softplus: bool) -> tuple[Tensor, Saved]:
    """See `types.Passes`. A sequence that is not long has no states."""
    out = inputs.u.new_empty(sizes(inputs.u, 4)[1:])  # (B, L, D)
    total = None if inputs.z is None else torch.empty_like(out)
    args = _scan_args(inputs, softplus, out, total)
    states = inputs.A.new_empty(_room(args)[0])
    args.checkpoints = states.data_ptr()
    library().scan_forward(ctypes.byref(args))
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
    total, states = saved
    if not (inputs.z is None) == (total is None) == (grads.z is None) or (
        inputs.z is None and recomputed_out is not None
    ):
        raise TypeError("a C++ kernel needs z, the sum before the gate and the gradient of z together, or none of them")
    args = _scan_args(inputs, softplus, dout, total, recomputed_out)
    checkpoints, floats = _room(args)
    partial = states.new_empty(floats)
    args.checkpoints = address(states, torch.float32, (checkpoints,))
    args.partial = address(partial, torch.float32, (floats,))
    u, kind = inputs.u, _kind(inputs.u)
    shapes = (u.shape, u.shape, inputs.B.shape, inputs.C.shape, u.shape[1:])
    args.du, args.ddelta, args.dB, args.dC, args.dz = (
        _Stream(*stream(x, kind, shape, written=True))
        for x, shape in zip((grads.u, grads.delta, grads.B, grads.C, grads.z), shapes, strict=True)
    )
    dA = torch.empty_like(inputs.A)
    dD, dbias = (None if x is None else torch.empty_like(x) for x in (inputs.D, inputs.delta_bias))
    args.dA = address(dA, torch.float32, inputs.A.shape)
    args.dD, args.dbias = (address(x, torch.float32, inputs.A.shape[:2]) for x in (dD, dbias))
    library().scan_backward(ctypes.byref(args))
    return dA, dD, dbias


def _conv_args(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> _ConvArgs:
    (directions, dim, width), (batch, length, _) = sizes(weight, 3), sizes(x, 3)
    _expect_sizes(directions, width)
    kind, shape = _kind(x), (batch, length, dim)
    numbers = (directions, batch, length, dim, width, kind == torch.bfloat16, torch.get_num_threads())
    streams = _Stream(*stream(x, kind, shape)), _Stream(*stream(out, kind, (directions, *shape)))
    parameters = address(weight, torch.float32, weight.shape), address(bias, torch.float32, (directions, dim))
    return _ConvArgs(*numbers, *streams, *parameters)


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `types.Passes`."""
    out = x.new_empty(sizes(weight, 3)[0], *x.shape)
    library().conv_forward(ctypes.byref(_conv_args(x, weight, bias, out)))
    return out


def conv_backward(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """See `types.Passes`."""
    args = _conv_args(x, weight, bias, dout)
    floats = ctypes.c_int64()
    library().conv_sizes(ctypes.byref(args), ctypes.byref(floats))
    partial = weight.new_empty(floats.value)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    args.partial = address(partial, torch.float32, (floats.value,))
    args.dx = _Stream(*stream(dx, _kind(x), x.shape, written=True))
    args.dweight = address(dweight, torch.float32, weight.shape)
    args.dbias = address(dbias, torch.float32, bias.shape)
    library().conv_backward(ctypes.byref(args))
    return dweight, dbias
