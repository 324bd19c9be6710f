"""Random controls: the same number of tokens goes, whichever they are. A method must be better than these."""

from famba.methods.interface import Method, Seen, drop, merge
from famba.ops.merging import Reduction


class RandomMerge(Method):
    """r random patches at even positions each join a random patch at an odd one: Famba-V with links drawn by chance."""

    needs_history = False

    def reduce(self, seen: Seen) -> Reduction:
        """The patches take turns in the two sets, as they do in R-MeeTo: the class token is in neither."""
        patches = seen.patches
        evens, odds = patches[:, ::2], patches[:, 1::2]
        order = seen.uniform().gather(1, evens).argsort(dim=1, stable=True)[:, : seen.r]
        partner = (seen.uniform()[:, : seen.r] * odds.shape[1]).long()
        return merge(seen, evens.gather(1, order), odds.gather(1, partner))


class RandomPrune(Method):
    """r random patches are dropped."""

    needs_history = False

    def reduce(self, seen: Seen) -> Reduction:
        """See the class."""
        patches = seen.patches
        return drop(seen, patches.gather(1, seen.uniform().gather(1, patches).argsort(dim=1, stable=True)[:, : seen.r]))
