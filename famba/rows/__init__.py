"""What a block does to rows of tokens besides mixing: RMS norm, matching, merging. One pass each, in C++ or Triton.

torch composes each of three to twenty operators; that stays beside the kernels, for other devices, types and machines
without a compiler, in model.py and fusion.py.
"""

from typing import Protocol, cast

import torch
from torch import Tensor

from famba.rows import cpu, triton

__all__ = ["Rows", "kernels"]


class Rows(Protocol):
    """What a module of kernels offers.

    Each checks type, device and size of its tensors and raises TypeError or ValueError for what it does not take.
    """

    def norm(
        self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The norm of x, or of x + added.

        Args:
            x, weight: (..., C) and (C), float32. added: as x, float32, bfloat16 or float16.

        Returns:
            sum / rms(sum) * weight in `dtype`, 1 / rms(sum) (..., 1), and the sum itself; x where nothing is added.
        """

    def norm_backward(
        self, dout: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, rstd: Tensor, added: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the sum, of the same in `added`'s type, and of the weight.

        From those of the norm and, unless it is None, of the sum.
        """

    def match(self, metric: Tensor, r: int, cls: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """metric (B, T, C) float32, cls (B,) int64 -> source, target, kept and tome of `famba.fusion.Match`."""

    def groups(
        self, places: Tensor, source: Tensor, target: Tensor, cls: Tensor | None, tokens: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """places (B, T - r), source and target (B, r), cls (B,) -> group (B T), size (B (T - r), 1), cls after (B,)."""

    def merge(self, x: Tensor, places: Tensor, source: Tensor, group: Tensor, size: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T - r, C), the mean of every group."""

    def merge_backward(self, dout: Tensor, group: Tensor, size: Tensor, tokens: int) -> Tensor:
        """dout (B, T - r, C) -> the gradient of x (B, T, C)."""


def kernels(device: torch.device, dtype: torch.dtype = torch.float32, merging: bool = False) -> Rows | None:
    """The kernels that run here, if any do. They take float32; merging also takes what the scan does."""
    if torch.compiler.is_compiling() or not (merging or dtype == torch.float32):
        return None
    module = cpu if device.type == "cpu" else triton
    return cast(Rows, module) if module.unavailable(device, dtype) is None else None
