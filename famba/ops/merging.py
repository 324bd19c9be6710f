"""What becomes of the tokens of a sequence in a reduction, and its arithmetic over a backend."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.ops import dispatch
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


@dataclass(frozen=True, eq=False)
class Reduction:
    """Of T tokens, T' remain: some as they are, some as the mean of a group; the others are merged or dropped.

    Attributes:
        kept: (B, T') positions of the tokens that remain, int64, in the order of the result.
        source, target: (B, s) positions, s = 0 to T - T': each source joins its target, which is a kept token. What is
            neither kept nor a source is dropped.
        tokens: T.
        cls: (B,) position of the class token before the reduction, a kept one; None if there is none.
        weight: (B, T) positive, of each token in the mean of its group; None: the plain mean.
        pruned: (B, s), whether a source joins its target in the residual stream alone; None: every one joins in both.
    """

    kept: Tensor
    source: Tensor
    target: Tensor
    tokens: int
    cls: Tensor | None = None
    weight: Tensor | None = None
    pruned: Tensor | None = None

    @property
    def removed(self) -> int:
        """T - T'."""
        return self.tokens - self.kept.shape[1]

    @property
    def cls_after(self) -> Tensor | None:
        """(B,) position of the class token in the result."""
        if self._merges_all:
            return self._groups[3]
        return None if self.cls is None else self.destination.gather(1, self.cls[:, None])[:, 0]

    @property
    def _merges_all(self) -> bool:
        """Whether what goes is merged, all of it, and something is."""
        return 0 < self.removed == self.source.shape[1]

    @cached_property
    def destination(self) -> Tensor:
        """(B, T) position of each token in the result: its own or its group's; -1 for what is dropped."""
        if self._merges_all:
            group = self._groups[1].view(-1, self.tokens)
            return group - torch.arange(group.shape[0], device=group.device)[:, None] * self.kept.shape[1]
        place = torch.arange(self.kept.shape[1], device=self.kept.device).expand_as(self.kept)
        destination = torch.full((self.kept.shape[0], self.tokens), -1, device=self.kept.device).scatter(
            1, self.kept, place
        )
        return destination.scatter(1, self.source, destination.gather(1, self.target))

    def streams(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """hidden, residual (B, T, C) -> (B, T', C) each. Differentiable in both."""
        if self.weight is None and self.pruned is None:
            reduced = self._means([hidden, residual])
            return reduced[0], reduced[1]
        joins = None
        if self.pruned is not None:
            joins = torch.ones_like(self.destination, dtype=torch.bool).scatter(1, self.source, ~self.pruned)
        return self._weighted(hidden, joins), self._weighted(residual, None)

    def merge(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T', C), as the residual stream is reduced. Differentiable in x."""
        return self._weighted(x, None)

    def sizes(self, size: Tensor) -> Tensor:
        """(B, T) input tokens in each token -> (B, T') in each that remains; those of dropped tokens are lost."""
        total = size.gather(1, self.kept)
        joined = self.destination.gather(1, self.source)
        return total.scatter_add(1, joined, size.gather(1, self.source))

    def _weighted(self, x: Tensor, joins: Tensor | None) -> Tensor:
        """The weighted mean of every group. `joins` (B, T): which tokens take part."""
        if self.weight is None and joins is None:
            return self._means([x])[0]
        if self.source.shape[1] == 0:
            return self._means([x])[0]
        wide = torch.promote_types(x.dtype, torch.float32)  # a share in bfloat16 would be off by up to 0.4 %
        weight = torch.ones_like(self.destination, dtype=wide) if self.weight is None else self.weight.to(wide)
        if joins is not None:
            weight = weight * joins
        # a token that no other joins has the share w / w = 1 exactly, so it is not changed
        total = self._merged([weight[..., None]], weighted=True)[0][..., 0]  # (B, T')
        share = weight / total.gather(1, self.destination.clamp_min(0))
        return self._merged([x * share[..., None]], weighted=True)[0].to(x.dtype)

    def _means(self, xs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The plain mean of every group, in several tensors."""
        batch, remaining = self.kept.shape
        if self.source.shape[1] == 0:
            rows = (self.kept + torch.arange(batch, device=self.kept.device)[:, None] * self.tokens).flatten()
            return tuple(x.flatten(0, 1).index_select(0, rows).view(batch, remaining, -1) for x in xs)
        return self._merged(xs)

    def _merged(self, xs: Sequence[Tensor], weighted: bool = False) -> tuple[Tensor, ...]:
        """The mean of every group; its sum where the tokens carry weights already."""
        remaining, backend = self.kept.shape[1], dispatch.token_backend(self.kept.device)
        places, group, size, _ = self._groups
        if weighted:
            size = torch.ones_like(size)
        reduced: tuple[Tensor, ...] = MergeFn.apply(backend, places, self.source, group, size, *xs)
        return reduced if self._merges_all else tuple(x[:, :remaining] for x in reduced)

    @cached_property
    def _groups(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What `Backend.merge` takes, and the class token's new position.

        It knows no dropped tokens: they are merged with nothing, and cut off at the end.
        """
        backend = dispatch.token_backend(self.kept.device)
        places = self.kept
        if not self._merges_all:
            dropped = self.removed - self.source.shape[1]
            gone = (self.destination < 0).sort(dim=1, descending=True, stable=True).indices[:, :dropped]
            places = torch.cat([places, gone], dim=1)
        return places, *backend.groups(places, self.source, self.target, self.cls, self.tokens)
