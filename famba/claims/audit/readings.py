"""The trainings of the paper's tables, and the tokens that the mixers see under each reading of the method."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product, starmap
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from famba.claims.published import PublishedRow
from famba.errors import InputError
from famba.results.row import grouped
from famba.strategies import STRATEGIES, strategy, tokens_per_layer

Placement = Literal["before", "after"]  # the mixer
DEPTH, TOKENS = 24, 197  # both models at 224 pixels, class token included
_CLS = 0  # the class token is at the head (the paper's section 3.2)
_PAPER_LAYERS = 19  # that fuse in `lower` (1st to 19th) and in `upper` (from the 6th), by the paper's text


@dataclass(frozen=True)
class Reading:
    """How the method's description is read.

    placement: fusion before or after the mixer of its layer. start_shift: layers added to the printed starting layer
    of `upper`; -1 starts one layer earlier. lower_layers: the number of first layers that `lower` fuses in.
    """

    placement: Placement = "before"
    start_shift: int = 0
    lower_layers: int = _PAPER_LAYERS


AS_PRINTED = Reading()
READINGS = tuple(starmap(Reading, product(get_args(Placement), (0, -1, 1), (18, 19))))


@dataclass(frozen=True)
class Training:
    """One training: its row, and the tables that print it."""

    row: PublishedRow
    tables: tuple[int, ...]

    @property
    def name(self) -> str:
        """For people: strategy, or starting layer and tokens per layer."""
        if self.row.start is None or self.row.r is None:
            return "no fusion" if self.row.strategy == "baseline" else self.row.strategy
        return f"upper from layer {self.row.start}, {self.row.r} per layer"


def trainings(rows: Sequence[PublishedRow], model: str) -> list[Training]:
    """The distinct trainings of a model: a row printed in several tables is one training.

    Raises:
        InputError: a strategy that the paper does not have, a starting layer beyond the last, or too few rows to fit.
    """
    own = [row for row in rows if row.model == model]
    for row in own:
        if row.strategy not in STRATEGIES or (row.start or 1) > DEPTH:
            raise InputError(
                f"table {row.table} of the ledger: no schedule is known for {row.strategy} from layer {row.start or 1}"
            )
    groups = grouped(own, lambda row: (row.top1, row.top5, row.time_s, row.memory_mib))
    found = [Training(group[0], tuple(row.table for row in group)) for group in groups.values()]
    there = {(one.row.table, one.row.strategy) for one in found}
    missing = [name for name in STRATEGIES if (1, name) not in there]
    if missing:
        raise InputError(f"the ledger has no row of {model}, {missing[0]}, in Table 1: an audit needs all three tables")
    return found


def schedule(row: PublishedRow, reading: Reading) -> tuple[int, ...]:
    """Tokens that each of the 24 layers fuses, for a published row under a reading."""
    if row.strategy == "lower":
        per_layer = max(strategy("lower"))
        return tuple(per_layer if layer < reading.lower_layers else 0 for layer in range(DEPTH))
    if row.strategy == "upper":
        per_layer = max(strategy("upper")) if row.r is None else row.r
        printed = DEPTH - _PAPER_LAYERS if row.start is None else row.start - 1
        first = max(0, printed + reading.start_shift)
        return tuple(per_layer if layer >= first else 0 for layer in range(DEPTH))
    return strategy(row.strategy)


def token_sums(fused: Sequence[int], placement: Placement) -> tuple[int, int]:
    """Over all layers: tokens seen by the mixers, and tokens that enter a layer that fuses."""
    after = tokens_per_layer(fused, TOKENS, _CLS)[:-1]
    entering = (TOKENS, *after[:-1])
    seen = after if placement == "before" else entering
    return sum(seen), sum(n for n, r in zip(entering, fused, strict=True) if r)


def tokens_removed(fused: Sequence[int]) -> int:
    """Tokens that a schedule removes from the sequence."""
    return TOKENS - tokens_per_layer(fused, TOKENS, _CLS)[-1]


def design(found: Sequence[Training], reading: Reading) -> NDArray[np.float64]:
    """A line per training: 1, tokens seen by the mixers, tokens entering fusing layers. Shape (n, 3)."""
    lines = [(1, *token_sums(schedule(one.row, reading), reading.placement)) for one in found]
    return np.array(lines, dtype=np.float64)
