"""Token fusion: finds similar tokens and merges them. (Which layers fuse how many: strategies.py.)

Famba-V (arXiv 2409.09808) fuses similar tokens of Vision Mamba in chosen layers. The similarity and the pairing are
ToMe's bipartite soft matching (facebookresearch/ToMe af95e4b, tome/merge.py:20-104).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import torch
from torch import Tensor

from famba.ops import dispatch, reference
from famba.ops.merging import MergeFn
from famba.strategies import STRATEGIES, capped, strategy, tokens_per_layer

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
        return self.protected_after("sequence")

    def protected_after(self, order: str) -> Tensor | None:
        """(B,) index of the class token after fusion in that order; None if no token is protected."""
        return self._groups(order)[2]

    def destination(self, order: str) -> Tensor:
        """(B, T): for each original token, its position in the output of `merge` in that order."""
        group = self._groups(order)[0]
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
            order: "sequence" keeps the order in which the tokens are scanned; a merged group takes the position of its
                member in the odd set. "tome" is [unfused evens, odds] (tome/merge.py:83-89).

        Returns:
            (B, T - r, C), each token the plain mean of its group (ToMe's mode="mean"). Differentiable in x.

        Raises:
            ValueError: x differs in shape or device from what was matched, or is not floating point, or the order is
                unknown.
        """
        return self.merge_all([x], order)[0]

    def merge_all(self, xs: Sequence[Tensor], order: str = "sequence") -> tuple[Tensor, ...]:
        """Apply the same merge to several tensors, such as hidden states and residual stream."""
        for x in xs:
            if x.ndim != 3 or x.shape[:2] != (self.kept.shape[0], self.tokens):
                matched = f"({self.kept.shape[0]}, {self.tokens}, C)"
                raise ValueError(f"cannot merge a {tuple(x.shape)} tensor: the match is for {matched}")
            if x.device != self.kept.device or not x.is_floating_point():
                raise ValueError(
                    f"cannot merge a {x.dtype} tensor on {x.device}: expected floating-point numbers on "
                    f"{self.kept.device}, as matched"
                )
        if self.r == 0 and order == "sequence":
            return tuple(xs)
        group, size, _ = self._groups(order)
        backend = dispatch.token_backend(self.kept.device)
        merged: tuple[Tensor, ...] = MergeFn.apply(backend, self._places(order), self.source, group, size, *xs)
        return merged

    @cached_property
    def _group_cache(self) -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
        return {}

    def _places(self, order: str) -> Tensor:
        """(B, T - r) positions of the remaining tokens in that order."""
        if order not in ("sequence", "tome"):
            raise ValueError(f"order must be 'sequence' or 'tome', found {order!r}")
        return self.kept if order == "sequence" else self.tome

    def _groups(self, order: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """What `Backend.groups` returns, computed once per order: hidden states and residual share it."""
        if order not in self._group_cache:
            places = self._places(order)
            backend = dispatch.token_backend(places.device)
            self._group_cache[order] = backend.groups(places, self.source, self.target, self.cls, self.tokens)
        return self._group_cache[order]


def match(metric: Tensor, r: int, protected: int | Tensor | None = None) -> Match:
    """Find the r most similar pairs of tokens (bipartite soft matching).

    The tokens at even and odd positions of the sequence, counting the class token, form sets A and B. Each token of A
    is linked to the token of B with the largest cosine similarity; the r strongest links are fused.

    Every backend follows the same rules:
        - Equal similarities go to the earlier position, in A and in B alike. The similarity is (a·b) (1/|a|) (1/|b|),
          rounded in this order. If a·b and |a|² are exact in float32 (signs, small integers), backends agree bit for
          bit, whatever the summation order; otherwise the similarities may differ in the last bit.
        - A token with a NaN or an infinity, or whose |a|² overflows, has no similarity. Its links come after all
          others, with the earlier position first. A token of zeros has similarity 0 to every token.
        - The class token is never fused. Exactly r other tokens are, non-finite ones only if nothing else is left.

    Args:
        metric: (B, T, C) vectors whose cosine is the similarity. No gradient flows through the matching.
        r: tokens to remove, capped at half of the unprotected tokens.
        protected: index of the class token, one for all sequences or one each (B,); it is never a source or target,
            whichever set it falls into. None: no token is protected.

    Raises:
        ValueError: metric is not (B, T, C), r is negative, or a protected index lies outside the sequence (indices on
            a GPU are not checked).
    """
    if not isinstance(metric, Tensor):
        raise ValueError(f"metric must be a tensor (B, T, C), got {type(metric).__name__}")
    if metric.ndim != 3 or metric.is_complex():
        raise ValueError(f"metric must be (B, T, C) of real numbers, got {metric.dtype} {tuple(metric.shape)}")
    for what, number in (("r", r), ("protected", 0 if protected is None else protected)):
        if not isinstance(number, Integral | torch.SymInt | Tensor) or (what == "r" and isinstance(number, Tensor)):
            raise ValueError(f"{what} must be a whole number, got {number!r}")
    if r < 0:
        raise ValueError(f"r must not be negative, got {r}")
    batch, tokens, _ = metric.shape
    index = None if protected is None or isinstance(protected, Tensor) else int(protected)
    if index is not None and not 0 <= index < tokens:
        raise ValueError(f"protected token {index} lies outside a sequence of {tokens}")
    r = capped(r, tokens, protected is not None, index)
    cls = None
    if isinstance(protected, Tensor):
        cls = _class_tokens(protected, batch, tokens).to(metric.device)
    elif index is not None:  # filled on the device: a copy from the host could not be captured in a CUDA graph
        cls = torch.full((batch,), index, dtype=torch.long, device=metric.device)
    # in at least float32, under autocast too: bfloat16 similarities tie and would pair the wrong tokens
    metric = metric.detach().to(torch.promote_types(metric.dtype, torch.float32))
    return Match(*dispatch.token_backend(metric.device).match(metric, r, cls), tokens, cls)


def more_similar(metric: Tensor, threshold: float, protected: Tensor | None = None) -> Tensor:
    """How many links of `match` are of a similarity above the threshold: (B,) int64.

    Each sequence by itself; metric and protected as for `match`. A class token has no link, nor has a token that is not
    finite. The reference's similarity, whatever the backend: another may differ in its last bit.
    """
    metric = metric.detach().to(torch.promote_types(metric.dtype, torch.float32))
    if metric.shape[1] < 2:
        return torch.zeros(len(metric), dtype=torch.long, device=metric.device)
    return (reference.nearest(metric, protected)[1] > threshold).sum(dim=1)


def _class_tokens(protected: Tensor, batch: int, tokens: int) -> Tensor:
    """One index per sequence, (B,) int64, checked unless that would wait for a GPU."""
    if protected.is_floating_point() or protected.shape not in ((), (1,), (batch,)):
        raise ValueError(
            f"protected must be one index or ({batch},) of them, got {protected.dtype} {tuple(protected.shape)}"
        )
    if protected.device.type == "cpu":
        inside = ((protected >= 0) & (protected < tokens)).all()
        if torch.compiler.is_compiling():  # a branch on values cannot be traced: the program itself asserts it
            torch._assert_async(inside, f"protected tokens lie outside sequences of {tokens}")
        elif not inside:
            raise ValueError(f"protected tokens {protected.tolist()} lie outside sequences of {tokens}")
    return protected.to(torch.long).expand(batch)
