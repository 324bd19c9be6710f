"""What it does to a trained model when tokens are removed in one layer alone, measured.

The damage is the divergence KL(p || q) of the class probabilities q with the reduction from those without it, p, in the
mean over images. It needs no labels, is zero for an unchanged output, and has far less noise than a change of the
loss or of the accuracy.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from famba.strategies import capped

HALVINGS = 5  # removed tokens that are measured: the most that can go, and halves of it
Array = NDArray[np.float64]
Curve = Mapping[int, float]  # damage by removed tokens


def divergence(logits: Tensor, unreduced: Tensor) -> float:
    """Mean KL divergence of the classes' probabilities, in nats. logits, unreduced: (N, classes)."""
    p, q = (x.double().log_softmax(dim=-1) for x in (unreduced, logits))
    return max(0.0, F.kl_div(q, p, reduction="batchmean", log_target=True).item())


def removals(tokens: int) -> list[int]:
    """How many of so many tokens are removed in the measurements, ascending."""
    most = capped(tokens, tokens, True, None)
    return sorted({most >> halving for halving in range(HALVINGS)} - {0})


def cumulated(curve: Curve, tokens: int) -> Array:
    """(tokens,): the damage of 0, 1, ... removed tokens, never falling.

    Straight lines between what was measured; beyond the most that one layer can remove at once, the power of the last
    two points goes on, at least linearly.
    """
    removed = np.arange(tokens, dtype=float)
    x = np.array([0, *curve], dtype=float)
    y = np.maximum.accumulate([0.0, *curve.values()])
    damage = np.interp(removed, x, y)
    power = 1.0
    if len(x) > 2 and y[-2] > 0:
        power = max(1.0, math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2]))
    beyond = removed > x[-1]
    damage[beyond] = y[-1] * (removed[beyond] / x[-1]) ** power
    return damage


def tables(curves: Sequence[Curve | None], tokens: int) -> Array:
    """(depth, tokens + 1, tokens + 1): the damage of a layer that so many tokens enter and so many are left of.

    Removed tokens add up over the layers: a layer that takes them from n to m has F(tokens - m) - F(tokens - n), F
    being its `cumulated` damage. That the most similar tokens are gone already makes the next ones dearer. A layer
    without a curve removes none.
    """
    table = np.full((len(curves), tokens + 1, tokens + 1), np.inf)
    for layer, curve in enumerate(curves):
        total = cumulated(curve, tokens) if curve else np.zeros(tokens)
        for entering in range(1, tokens + 1):
            most = capped(entering, entering, True, None) if curve else 0
            for gone in range(most + 1):
                left = entering - gone
                table[layer, entering, left] = total[tokens - left] - total[tokens - entering]
    return table


def points_per_damage(damages: Sequence[float], points: Sequence[float]) -> float:
    """Points of top-1 that a damage of 1 takes, the least squares through the origin of several measured schedules."""
    x, y = np.array(damages), np.array(points)
    return float(max(0.0, (x @ y) / (x @ x))) if (x > 0).any() else 0.0
