"""Token fusion: which tokens are alike, and their merging. (Which layers fuse how many: schedule.py.)

Famba-V (arXiv 2409.09808) fuses similar tokens of Vision Mamba in chosen layers. The similarity and the pairing are
ToMe's bipartite soft matching (facebookresearch/ToMe af95e4b, tome/merge.py:20-104).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba.precision import without_autocast
from famba.rows import kernels
from famba.schedule import STRATEGIES, capped, strategy, tokens_per_layer

__all__ = ["STRATEGIES", "Match", "match", "strategy", "tokens_per_layer"]


@dataclass(frozen=True, eq=False)
class Match:
    """r pairs of tokens to fuse, in each sequence of a batch.

    Attributes:
        source: (B, r) positions of the tokens that are fused away, strongest link first.
        target: (B, r) position of the token that each of them joins.
        kept: (B, T - r) positions of the remaining tokens, ascending.
        tome: (B, T - r) the same positions in ToMe's order [unfused evens, odds].
        tokens: T, the length before fusion.
        cls: (B,) index of the class token before fusion; None if no token is protected.
    """

    source: Tensor
    target: Tensor
    kept: Tensor
    tome: Tensor
    tokens: int
    cls: Tensor | None

    @property
    def protected(self) -> Tensor | None:
        """(B,) index of the class token after fusion in sequence order; None if no token is protected."""
        return self.protected_in("sequence")

    def protected_in(self, order: str) -> Tensor | None:
        """(B,) index of the class token after fusion in that order; None if no token is protected."""
        return self._rows(order)[2]

    def destination(self, order: str) -> Tensor:
        """(B, T) position after fusion in that order of every token before it: where `merge` has put it."""
        group = self._rows(order)[0]
        start = torch.arange(len(self.kept), device=group.device)[:, None] * self.kept.shape[1]
        return group.view(len(self.kept), self.tokens) - start

    @property
    def r(self) -> int:
        """Tokens removed from each sequence."""
        return self.source.shape[1]

    def merge(self, x: Tensor, order: str = "sequence") -> Tensor:
        """Fuse the tokens of x.

        Args:
            x: (B, T, C), any C.
            order: "sequence" keeps the order in which the tokens are scanned; a fused group stands at the place of its
                member in the odd set. "tome" is [unfused evens, odds] (tome/merge.py:83-89).

        Returns:
            (B, T - r, C), each token the plain mean of its group (ToMe's mode="mean"). Differentiable in x.

        Raises:
            ValueError: x does not have the matched shape or device or a floating type, or the order is unknown.
        """
        return self.merge_all([x], order)[0]

    def merge_all(self, xs: Sequence[Tensor], order: str = "sequence") -> tuple[Tensor, ...]:
        """Fuse the tokens of several tensors alike, as `merge` does each: hidden states and residual stream."""
        for x in xs:
            if x.ndim != 3 or x.shape[:2] != (self.kept.shape[0], self.tokens):
                raise ValueError(f"matched ({self.kept.shape[0]}, {self.tokens}, C), got {tuple(x.shape)} to merge")
            if x.device != self.kept.device or not x.is_floating_point():
                raise ValueError(
                    f"matched on {self.kept.device}, got {x.dtype} on {x.device} to merge; "
                    "expected floating-point numbers on the same device"
                )
        if self.r == 0 and order == "sequence":
            return tuple(xs)
        group, size, _ = self._rows(order)
        merged: tuple[Tensor, ...] = _Merge.apply(self._places(order), self.source, group, size, *xs)
        return merged

    @cached_property
    def _row_cache(self) -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
        return {}

    def _places(self, order: str) -> Tensor:
        """(B, T - r) positions of the remaining tokens in that order."""
        if order not in ("sequence", "tome"):
            raise ValueError(f"order must be 'sequence' or 'tome', found {order!r}")
        return self.kept if order == "sequence" else self.tome

    def _rows(self, order: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Row arithmetic of a merge, worked out once per order: hidden states and residual share it.

        Returns:
            group (B * T): the row of the flattened result (B * (T - r), C) that each token goes to; size
            (B * (T - r), 1): tokens in each group; the class token's index after fusion (B,), or None.
        """
        if order not in self._row_cache:
            places = self._places(order)
            rows = kernels(places.device)
            self._row_cache[order] = (rows.groups if rows else _groups)(
                places, self.source, self.target, self.cls, self.tokens
            )
        return self._row_cache[order]


def _groups(
    places: Tensor, source: Tensor, target: Tensor, cls: Tensor | None, tokens: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `Match._rows`."""
    batch, remaining = places.shape
    group = torch.empty(batch, tokens, dtype=torch.long, device=places.device)
    group.scatter_(1, places, torch.arange(remaining, device=places.device).expand(batch, -1))
    joined = group.gather(1, target)
    group.scatter_(1, source, joined)
    size = torch.ones(batch, remaining, dtype=torch.float32, device=places.device)
    size.scatter_add_(1, joined, torch.ones_like(joined, dtype=size.dtype))
    after = None if cls is None else group.gather(1, cls[:, None])[:, 0]
    return _as_rows(group, remaining), size.view(-1, 1), after


class _Merge(torch.autograd.Function):
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
            rows = kernels(x.device, x.dtype, merging=True)
            merged.append((rows.merge if rows else _means)(x, places, source, group, size))
        return tuple(merged)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        group, size = ctx.saved_tensors
        shared = []
        for grad in grads:
            rows = kernels(grad.device, grad.dtype, merging=True)
            shared.append((rows.merge_backward if rows else _shares)(grad, group, size, ctx.tokens))
        return None, None, None, None, *shared


def _means(x: Tensor, places: Tensor, source: Tensor, group: Tensor, size: Tensor) -> Tensor:
    """See `rows.Rows.merge`."""
    batch, tokens, channels = x.shape
    flat, source_rows = x.reshape(batch * tokens, channels), _as_rows(source, tokens)
    out = flat.index_select(0, _as_rows(places, tokens))
    out.index_add_(0, group[source_rows], flat.index_select(0, source_rows))
    out /= size.to(out.dtype)
    return out.view(batch, places.shape[1], channels)


def _shares(grad: Tensor, group: Tensor, size: Tensor, tokens: int) -> Tensor:
    """See `rows.Rows.merge_backward`."""
    batch, remaining, channels = grad.shape
    shared = grad.reshape(batch * remaining, channels) / size.to(grad.dtype)
    return shared.index_select(0, group).view(batch, tokens, channels)


def match(metric: Tensor, r: int, protected: int | Tensor | None = None) -> Match:
    """Find the r most similar pairs of tokens (bipartite soft matching).

    The tokens at even and odd positions of the sequence, class token counted, form sets A and B. Each token of A is
    linked to the token of B with the largest cosine similarity; the r strongest links are fused.

    The outcome is the same in every backend, for any values:
        - Equal similarities go to the earlier position, in A and in B alike. The similarity is (a·b) (1/|a|) (1/|b|),
          rounded in this order. So where a·b and |a|² are exact in float32 (signs, small integers), backends agree to
          the last bit, in whatever order they add. Where these are rounded, backends may differ in the last bit.
        - A token with a NaN or an infinity, or whose |a|² overflows, has no similarity. Its links come after all
          others, with the earlier position first. A token of zeros has similarity 0 to every token.
        - The class token is never fused, and r tokens are: the links of non-finite tokens are used where r asks for
          them.

    Args:
        metric: (B, T, C) vectors whose cosine is the similarity. No gradient flows through the matching.
        r: tokens to remove, capped at half of the unprotected tokens.
        protected: index of the class token, one for all sequences or one each (B,); it is neither source nor target,
            in whichever set it falls. None: no token is protected.

    Raises:
        ValueError: metric is not (B, T, C), r is negative, or a protected index lies outside the sequence (indices on
            a GPU are taken as they are).
    """
    if metric.ndim != 3 or metric.is_complex():
        raise ValueError(f"metric must be (B, T, C) of real numbers, got {metric.dtype} {tuple(metric.shape)}")
    if r < 0:
        raise ValueError(f"r must not be negative, got {r}")
    batch, tokens, _ = metric.shape
    place = None if protected is None or isinstance(protected, Tensor) else int(protected)
    if place is not None and not 0 <= place < tokens:
        raise ValueError(f"protected token {place} lies outside a sequence of {tokens}")
    r = capped(r, tokens, protected is not None, place)
    cls = None
    if isinstance(protected, Tensor):
        cls = _class_tokens(protected, batch, tokens).to(metric.device)
    elif place is not None:  # filled on the device: a copy from the host could not be captured in a CUDA graph
        cls = torch.full((batch,), place, dtype=torch.long, device=metric.device)
    # in at least float32, under autocast too: bfloat16 similarities tie and would pair the wrong tokens
    metric = metric.detach().to(torch.promote_types(metric.dtype, torch.float32))
    rows = kernels(metric.device, metric.dtype)
    return Match(*(rows.match if rows else _pairs)(metric, r, cls), tokens, cls)


def _class_tokens(protected: Tensor, batch: int, tokens: int) -> Tensor:
    """One index per sequence, (B,) int64, checked where that does not mean to wait for a GPU."""
    if protected.is_floating_point() or protected.shape not in ((), (1,), (batch,)):
        raise ValueError(
            f"protected must be one index or ({batch},) of them, got {protected.dtype} {tuple(protected.shape)}"
        )
    if protected.device.type == "cpu" and not ((protected >= 0) & (protected < tokens)).all():
        raise ValueError(f"protected tokens {protected.tolist()} lie outside sequences of {tokens}")
    return protected.to(torch.long).expand(batch)


@torch.no_grad()
def _pairs(metric: Tensor, r: int, cls: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """source, target, kept and tome of `Match`, for a metric in at least float32 and an r that fits."""
    batch, tokens, _ = metric.shape
    position = torch.arange(tokens, device=metric.device).expand(batch, -1)  # (B, T)
    with without_autocast(metric.device.type):
        squares = _rounded_sum(metric, lambda x: x.square().sum(dim=-1))
        # what is not finite has no norm, so that none of its similarities is a number
        scale = 1 / squares.sqrt().clamp_min(torch.finfo(metric.dtype).tiny).where(squares.isfinite(), torch.nan)
        products = _rounded_sum(metric, lambda x: x[:, ::2] @ x[:, 1::2].transpose(1, 2))
        similarity = products * scale[:, ::2, None] * scale[:, None, 1::2]  # (B, A, B)
    unknown = torch.finfo(metric.dtype).min  # last of all, but before the class token
    similarity = similarity.where(similarity == similarity, unknown)  # noqa: PLR0124 (false for NaN)
    if cls is not None:
        is_cls = position == cls[:, None]  # (B, T)
        similarity.masked_fill_(is_cls[:, ::2, None] | is_cls[:, None, 1::2], -torch.inf)
    if tokens > 1:
        target = similarity.argmax(dim=-1)  # (B, A): the first of equals
        strength = similarity.gather(-1, target[..., None])[..., 0]
    else:
        target = strength = similarity.new_zeros(batch, 1)
    edges = strength.argsort(dim=-1, descending=True, stable=True)  # (B, A)
    fused, unfused = edges[:, :r], edges[:, r:]
    source = fused * 2
    joined = target.gather(-1, fused).long() * 2 + 1
    # sorted to the end rather than masked out: a mask's result has no static shape
    kept = position.scatter(1, source, tokens).sort(dim=1).values[:, : tokens - r]
    # ToMe leaves the unfused evens by falling similarity unless a class token must stay in front (merge.py:70)
    evens = unfused if cls is None else unfused.sort(dim=-1).values
    return source, joined, kept, torch.cat([evens * 2, position[:, 1::2]], dim=1)


def _rounded_sum(x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """A sum of products of float32, taken in float64 and rounded once: equal tokens tie, and no TF32 is at work."""
    wide = torch.float64 if x.device.type in ("cpu", "cuda") else x.dtype
    return of(x.to(wide)).to(x.dtype)


def _as_rows(index: Tensor, tokens: int) -> Tensor:
    """(B, n) positions within sequences of `tokens` -> (B * n) rows of the flattened batch."""
    start = torch.arange(index.shape[0], device=index.device)[:, None] * tokens
    return (index + start).flatten()
