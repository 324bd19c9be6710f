"""Random numbers that depend on a counter alone: the same on every device, in a captured graph, after a resume."""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # splitmix64, as int64


def uniform(key: Tensor, stream: int, batch: int, tokens: int) -> Tensor:
    """(B, T) float32 in [0, 1), by splitmix64 (Steele et al., OOPSLA 2014, figure 16). key: int64 scalar."""
    x = torch.arange(batch * tokens, device=key.device).view(batch, tokens) + (stream << 40)
    x = x * _GOLDEN + key
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    x = x ^ _shifted(x, 31)
    return _shifted(x, 40).to(torch.float32) / 2**24


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits, of x as an unsigned number."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
