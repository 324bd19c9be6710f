"""What kernels check of tensors before they read or write them: C++ and Triton check nothing themselves."""

from collections.abc import Sequence

import torch
from torch import Tensor


def address(tensor: Tensor | None, dtype: torch.dtype, shape: Sequence[int]) -> int | None:
    """Address of a contiguous tensor on the CPU; None of none. Raises TypeError if it is of another kind."""
    if tensor is None:
        return None
    if not tensor.is_contiguous():
        raise TypeError(f"a C++ kernel needs a contiguous tensor, found strides {tensor.stride()} of {_words(tensor)}")
    _check(tensor, dtype, shape)
    return tensor.data_ptr()


def stream(
    tensor: Tensor | None, dtype: torch.dtype, shape: Sequence[int], written: bool = False
) -> tuple[int | None, int, int, int]:
    """Address and strides, in elements, of a (K, B, L, F) or (B, L, F) tensor with contiguous features; the stride of K
    is 0 where there is none. Raises TypeError if it is of another kind, is empty, or is to be written and overlaps."""
    if tensor is None:
        return None, 0, 0, 0
    strides = tensor.stride()
    if len(strides) not in (3, 4) or (strides[-1] != 1 and tensor.shape[-1] > 1):
        raise TypeError(f"a C++ kernel needs contiguous features, found strides {strides} of {_words(tensor)}")
    _check(tensor, dtype, shape)
    if not tensor.numel():
        raise TypeError(f"a C++ kernel needs at least one element, found {_words(tensor)}")
    if written and 0 in strides and any(n > 1 and step == 0 for n, step in zip(tensor.shape, strides, strict=True)):
        raise TypeError(f"a C++ kernel cannot write to strides {strides} of {_words(tensor)}: elements overlap")
    k, b, length, _ = (0, *strides) if len(strides) == 3 else strides
    return tensor.data_ptr(), k, b, length


def sizes(tensor: Tensor, axes: int) -> Sequence[int]:
    """The tensor's shape. Raises TypeError if it has another number of axes."""
    if tensor.dim() != axes:
        raise TypeError(f"a C++ kernel needs {axes} axes, found {_words(tensor)}")
    return tensor.shape


def _check(tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    # `is_cpu` takes a fifth of the time of `device.type`, and a step of Vim-Ti has 1,474 checks
    if not tensor.is_cpu or tensor.dtype != dtype or tensor.shape != tuple(shape) or tensor.is_neg():
        sign = ", negated when it is read" if tensor.is_neg() else ""  # such as the imaginary part of a conjugate
        raise TypeError(f"a C++ kernel needs a {dtype} tensor {tuple(shape)} on the CPU, found {_words(tensor)}{sign}")


def expect(device: torch.device, *expected: tuple[Tensor | None, torch.dtype | None, Sequence[int]]) -> None:
    """For Triton, which reads a tensor in its own type: each is on that device and has that shape, and that type unless
    it is None. Raises TypeError."""
    for tensor, dtype, shape in expected:
        if tensor is None:
            continue
        if tensor.device != device or dtype not in (None, tensor.dtype) or tensor.shape != tuple(shape):
            kind = "floating" if dtype is None else dtype
            raise TypeError(f"a Triton kernel needs a {kind} tensor {tuple(shape)} on {device}, found {_words(tensor)}")
        if dtype is None and tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"a Triton kernel needs float32, bfloat16 or float16, found {_words(tensor)}")


def _words(tensor: Tensor) -> str:
    return f"a {tensor.dtype} tensor {tuple(tensor.shape)} on {tensor.device}"
