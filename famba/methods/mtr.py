"""MTR (arXiv 2507.14042): tokens with the smallest steps of the scan join similar ones with middling steps."""

import math
from typing import Annotated

from pydantic import Field

from famba.config import Architecture
from famba.methods.interface import Method, Seen, compared, merge, most_similar
from famba.ops.merging import Reduction


class MTR(Method):
    """After the mixer, patches are sorted by Δ: the highest stay, the r lowest join the most similar of the middle.

    The score is the mean of Δ over channels, summed over the directions. Which layers, and how large the groups are,
    is not given in what is published: the schedule and `targets` say so.

    Args:
        targets: size of the middle group, as a share of the patches that are no sources.
    """

    placement = "after"
    needs_scanned = True
    needs_history = False

    def __init__(self, targets: Annotated[float, Field(gt=0, le=1)] = 0.5) -> None:
        super().__init__()
        self.targets = targets

    def flops(self, tokens: int, r: int, architecture: Architecture) -> int:
        """Every source with every target."""
        return compared(r, self._targets(tokens - 1 - r), self.width(architecture))

    def _targets(self, others: int) -> int:
        return math.ceil(self.targets * others)

    def reduce(self, seen: Seen) -> Reduction:
        """See the class."""
        assert seen.scanned is not None
        score = seen.scanned.delta.float().mean(dim=-1).sum(dim=0)  # (B, T)
        patches = seen.patches
        ranked = patches.gather(1, score.gather(1, patches).argsort(dim=1, stable=True))  # lowest first
        source, others = ranked.split([seen.r, ranked.shape[1] - seen.r], dim=1)
        target, _ = most_similar(seen.hidden, source, others[:, : self._targets(others.shape[1])])
        return merge(seen, source, target)
