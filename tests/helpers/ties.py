"""Metrics with exact ties and with non-finite values, and the outcome that `famba.fusion.match` promises for them."""

import math

import torch
from torch import Tensor

NOT_FINITE = (math.nan, math.inf, -math.inf, 3e30)  # the last one's square overflows
Pairs = tuple[list[int], list[int]]


def signs(seed: int) -> tuple[Tensor, int, Tensor]:
    """A metric (2, T, C) of -1 and 1, r, and the class tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens, channels = _draw(4, 50, generator), (3, 16, 48, 192)[seed % 4]
    metric = torch.randint(0, 2, (2, tokens, channels), generator=generator) * 2.0 - 1
    return metric, _draw(1, max(1, (tokens - 1) // 2), generator), torch.randint(tokens, (2,), generator=generator)


def not_finite(seed: int) -> tuple[Tensor, int, Tensor]:
    """A metric (2, T, C) of small integers, some of whose tokens are not finite; r as far as it goes."""
    generator = torch.Generator().manual_seed(seed)
    tokens = _draw(4, 40, generator)
    metric = torch.randint(-4, 5, (2, tokens, 7), generator=generator).float()
    share = (0.02, 0.2, 0.9, 1.1)[seed % 4]
    spoilt = torch.rand(metric.shape, generator=generator) < share
    values = torch.tensor(NOT_FINITE)[torch.randint(len(NOT_FINITE), metric.shape, generator=generator)]
    return metric.where(~spoilt, values), (tokens - 1) // 2, torch.randint(tokens, (2,), generator=generator)


def expected_pairs(metric: Tensor, r: int, cls: int) -> Pairs:
    """(source, target) of one sequence (T, C), in plain Python from exact sums, rounded where `match` says so."""
    rows = metric.tolist()
    finite = [all(map(math.isfinite, row)) and sum(x * x for x in row) < 3.4e38 for row in rows]
    scale = [1 / _round(max(_root(row), 2.0**-126)) if ok else math.nan for row, ok in zip(rows, finite, strict=True)]
    links = []
    for i in range(0, len(rows), 2):
        if i == cls:
            continue
        best = (-math.inf, 0, 0)
        for j in range(1, len(rows), 2):
            if j == cls:
                continue
            known = finite[i] and finite[j]
            product = sum(x * y for x, y in zip(rows[i], rows[j], strict=True))
            similarity = _round(_round(product * _round(scale[i])) * _round(scale[j])) if known else -3.0
            best = max(best, (similarity, -i, -j))
        links.append(best)
    chosen = sorted(links, reverse=True)[:r]
    return [-i for _, i, _ in chosen], [-j for _, _, j in chosen]


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def _root(row: list[float]) -> float:
    return _round(math.sqrt(_round(sum(x * x for x in row))))


def _round(x: float) -> float:
    """To float32; in torch, since Python has no such type."""
    return torch.tensor(x, dtype=torch.float64).float().item()
