"""Addresses of tensors for the C++ kernels, which read and write memory as told: no tensor goes there unchecked."""

from __future__ import annotations

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


def stream(tensor: Tensor | None, dtype: torch.dtype, shape: Sequence[int]) -> tuple[int | None, int, int, int]:
    """Address and strides, in elements, of a (K, B, L, F) or (B, L, F) tensor with contiguous features; the stride of K
    is 0 where there is none. Raises TypeError if it is of another kind."""
    if tensor is None:
        return None, 0, 0, 0
    if tensor.dim() not in (3, 4) or (tensor.stride(-1) != 1 and tensor.shape[-1] > 1):
        raise TypeError(f"a C++ kernel needs contiguous features, found strides {tensor.stride()} of {_words(tensor)}")
    _check(tensor, dtype, shape)
    k, b, length, _ = (0, *tensor.stride()) if tensor.dim() == 3 else tensor.stride()
    return tensor.data_ptr(), k, b, length


def _check(tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    if tensor.device.type != "cpu" or tensor.dtype != dtype or tensor.shape != tuple(shape):
        raise TypeError(f"a C++ kernel needs a {dtype} tensor {tuple(shape)} on the CPU, found {_words(tensor)}")


def _words(tensor: Tensor) -> str:
    return f"a {tensor.dtype} tensor {tuple(tensor.shape)} on {tensor.device}"
