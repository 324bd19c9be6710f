"""The merging of tokens as one autograd function: over the kernels, or `reference` where none run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops import dispatch, reference


class MergeFn(torch.autograd.Function):
    """Means of groups of rows: the forward adds r rows to the kept ones, the backward is one gather.

    Written over rows of the flattened batch because index_select and index_add move whole rows, where gather and
    scatter_reduce, which ToMe uses, would need an index per element.
    """

    @staticmethod
    def forward(
        ctx: Any, places: Tensor, source: Tensor, group: Tensor, size: Tensor, *xs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(group, size)
        ctx.tokens = xs[0].shape[1]
        merged = []
        for x in xs:
            rows = dispatch.kernels(x.device, x.dtype, merging=True)
            merged.append((rows.merge if rows else reference.merge)(x, places, source, group, size))
        return tuple(merged)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        group, size = ctx.saved_tensors
        shared = []
        for grad in grads:
            rows = dispatch.kernels(grad.device, grad.dtype, merging=True)
            shared.append((rows.merge_backward if rows else reference.merge_backward)(grad, group, size, ctx.tokens))
        return None, None, None, None, *shared
