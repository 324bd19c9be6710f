"""HSA of ToP-ViM (arXiv 2409.18962): drops the patches to which the scan has answered least."""

from typing import Literal

from torch import Tensor

from famba.methods.interface import Method, Scanned, Seen, drop
from famba.ops.merging import Reduction


class HSA(Method):
    """After the mixer, the patches with the lowest score are dropped; the class token and the order stay.

    The published schedule keeps ceil(0.8 (T - 1)) patches after layers 5, 10 and 15.

    Args:
        score: "paper": the sum over channels of max(0, y), here over both directions; "code": that of the backward
            direction's y, not clipped (ZLKong/ToP-ViM b5bc231c).
        align: the paper's hidden-state alignment: in the scans of later layers, the state still decays at the place of
            a dropped token, which adds nothing. The released code has none. The paper does not give the step there; it
            is read as that of a token of zeros, softplus of the bias.
    """

    placement = "after"
    needs_scanned = True
    needs_history = False

    def __init__(self, score: Literal["paper", "code"] = "paper", align: bool = True) -> None:
        super().__init__()
        self.score = score
        self.aligns_state = align

    def reduce(self, seen: Seen) -> Reduction:
        """See the class."""
        assert seen.scanned is not None
        score = seen.scanned.y[1].float().sum(dim=-1) if self.score == "code" else importance(seen.scanned)
        patches = seen.patches
        least = score.gather(1, patches).argsort(dim=1, stable=True)[:, : seen.r]
        return drop(seen, patches.gather(1, least))


def importance(scanned: Scanned) -> Tensor:
    """(B, T): the sum over channels and directions of max(0, y), in float32 (equation of the paper's section 3.2)."""
    return scanned.y.float().clamp_min(0).sum(dim=(0, 3))
