"""The merging of tokens as an autograd function over a backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops.types import Backend


class MergeFn(torch.autograd.Function):
    """The means of groups of tokens, in several tensors alike."""

    @staticmethod
    def forward(
        ctx: Any, backend: Backend, places: Tensor, source: Tensor, group: Tensor, size: Tensor, *xs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(group, size)
        ctx.backend, ctx.tokens = backend, xs[0].shape[1]
        return tuple(backend.merge(x, places, source, group, size) for x in xs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        group, size = ctx.saved_tensors
        shared = (ctx.backend.merge_backward(grad, group, size, ctx.tokens) for grad in grads)
        return None, None, None, None, None, *shared
