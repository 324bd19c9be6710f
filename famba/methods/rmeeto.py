"""R-MeeTo (arXiv 2412.12496): merges or prunes by the similarity of what the mixer before has computed."""

import math
from typing import Literal

import torch
from torch import Tensor

from famba.config import Architecture
from famba.config.settings import Cosine
from famba.fusion import match, more_similar
from famba.methods.interface import Method, Seen, compared, rows_at
from famba.ops.merging import Reduction


class RMeeTo(Method):
    """Patches at even places of the sequence without the class token are linked to their most similar odd ones.

    The r strongest links are merged by size-weighted means; the order is the original one, and the class token stays at
    the same share of the sequence, rounded down (R-MeeTo 535a826c, image_task/R_MeeTo/merge.py).

    Args:
        feature: what is compared: the mixer's output "X", or "B", "C" or "delta" of its scan, both directions side by
            side.
        prune: the sources are dropped instead of merged (its `if_prune`).
        threshold: only links of a larger cosine count, at most r of them; None: the r strongest ones.
    """

    placement = "input"

    def __init__(
        self,
        feature: Literal["X", "B", "C", "delta"] = "X",
        prune: bool = False,
        threshold: Cosine | None = None,
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.feature, self.prune = feature, prune
        self.needs_scanned = feature != "X"

    def flops(self, tokens: int, r: int, architecture: Architecture) -> int:
        """Every patch at an even place with every one at an odd one."""
        inner = architecture.expand * architecture.embed_dim
        widths = {"X": self.width(architecture), "delta": 2 * inner}  # of both directions, as B and C
        patches = tokens - 1
        return compared(math.ceil(patches / 2), patches // 2, widths.get(self.feature, 2 * architecture.d_state))

    def counts(self, seen: Seen) -> Tensor:
        """Links above the threshold."""
        assert self.threshold is not None
        return more_similar(rows_at(self._feature(seen), seen.patches), self.threshold)

    def reduce(self, seen: Seen) -> Reduction:
        """See the class."""
        patches = seen.patches  # (B, P)
        pairs = match(rows_at(self._feature(seen), patches), seen.r)
        source, target, kept = (patches.gather(1, places) for places in (pairs.source, pairs.target, pairs.kept))
        kept = kept.gather(1, seen.position.gather(1, kept).argsort(dim=1))  # the original order
        kept = _with_class_token(kept, seen.cls, patches.shape[1] + 1)
        if self.prune:
            source = target = source[:, :0]
        return Reduction(kept, source, target, patches.shape[1] + 1, seen.cls, None if self.prune else seen.size)

    def _feature(self, seen: Seen) -> Tensor:
        if self.feature == "X":
            return seen.hidden
        both: Tensor = getattr(seen.scanned, self.feature)  # (2, B, T, F)
        return torch.cat(both.unbind(), dim=-1)


def _with_class_token(kept: Tensor, cls: Tensor, tokens: int) -> Tensor:
    """(B, T' - 1) patches -> (B, T') with the class token at floor(place T' / T)."""
    remaining = kept.shape[1] + 1
    place = (cls * remaining // tokens)[:, None]
    index = torch.arange(remaining, device=kept.device).expand(kept.shape[0], -1)
    patches = kept.gather(1, (index - (index > place).long()).clamp_max(remaining - 2))
    return patches.where(index != place, cls[:, None])
