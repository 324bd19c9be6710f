"""Famba-V's fusion, and the two ways in which ToMe differs from it: the order of tokens, and weighted means."""

import math
from typing import Literal

from torch import Tensor

from famba.config import Architecture
from famba.config.settings import Cosine
from famba.fusion import match, more_similar
from famba.methods.interface import Method, Seen, compared
from famba.ops.merging import Reduction


class FambaV(Method):
    """The r most similar pairs of tokens are fused before the mixer (arXiv 2409.09808, section 3.2; `famba.fusion`).

    At placement "inside", where the paper's figure 1a draws it, each direction is matched and fused for itself. What
    then becomes of the residual stream is not said; here it is fused as the forward direction is.

    Args:
        order: of the tokens afterwards: "sequence", or "tome": [unfused evens, odds] (ToMe af95e4b, merge.py:83-89).
        size_weighted: means weighted by the input tokens that each token stands for (ToMe's merge_wavg, merge.py:217).
        threshold: only pairs of a larger cosine are fused, at most r of them; None: the r most similar ones.
    """

    def __init__(
        self,
        order: Literal["sequence", "tome"] = "sequence",
        size_weighted: bool = False,
        threshold: Cosine | None = None,
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.order, self.size_weighted = order, size_weighted
        self.needs_history = size_weighted
        self.keeps_order = order == "sequence"

    def flops(self, tokens: int, r: int, architecture: Architecture) -> int:
        """Every token at an even position with every one at an odd one."""
        return compared(math.ceil(tokens / 2), tokens // 2, self.width(architecture))

    def counts(self, seen: Seen) -> Tensor:
        """Links above the threshold."""
        assert self.threshold is not None
        return more_similar(seen.hidden, self.threshold, seen.cls)

    def reduce(self, seen: Seen) -> Reduction:
        """See `famba.fusion.match`."""
        pairs = match(seen.hidden, seen.r, seen.cls)
        kept = pairs.kept if self.order == "sequence" else pairs.tome
        weight = seen.size if self.size_weighted else None
        return Reduction(kept, pairs.source, pairs.target, pairs.tokens, seen.cls, weight)
