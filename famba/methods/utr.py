"""UTR (arXiv 2410.14725): the less important half joins the other; some sources are pruned, the rest averaged."""

from dataclasses import replace

import torch

from famba.config import Architecture
from famba.config.settings import Fraction
from famba.methods.hsa import importance
from famba.methods.interface import Method, Seen, compared, merge, most_similar
from famba.ops.merging import Reduction


class UTR(Method):
    """After the mixer, each patch of the less important half is linked to the most similar one of the other half.

    Of the r strongest links, the share q is pruned and the rest averaged, in the hidden states; in the residual stream
    all are averaged. Importance is the mean over channels of max(0, y). Of the links that go, the paper does not say
    which are pruned; here it is those with the least important sources.

    Args:
        q: share of the sources that are pruned, the published 0.5.
    """

    placement = "after"
    needs_scanned = True
    needs_history = False

    def __init__(self, q: Fraction = 0.5) -> None:
        super().__init__()
        self.q = q

    def flops(self, tokens: int, r: int, architecture: Architecture) -> int:
        """Every patch of the less important half with every one of the other."""
        patches = tokens - 1
        return compared(patches // 2, patches - patches // 2, self.width(architecture))

    def reduce(self, seen: Seen) -> Reduction:
        """See the class."""
        assert seen.scanned is not None
        score = importance(seen.scanned)
        patches = seen.patches
        ranked = patches.gather(1, score.gather(1, patches).argsort(dim=1, stable=True))
        less, more = ranked.split([ranked.shape[1] // 2, ranked.shape[1] - ranked.shape[1] // 2], dim=1)
        target, strength = most_similar(seen.hidden, less, more)
        links = strength.argsort(dim=1, descending=True, stable=True)[:, : seen.r].sort(dim=1).values  # by importance
        source, target = less.gather(1, links), target.gather(1, links)
        pruned = (torch.arange(seen.r, device=source.device) < round(self.q * seen.r)).expand_as(source)
        return replace(merge(seen, source, target), pruned=pruned)
