"""Random numbers that depend on a counter alone: the same on every device, in a captured graph, after a resume."""

import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # splitmix64, as int64


def by_place(key: Tensor, batch: int) -> Tensor:
    """(B,) int64, a key for each image of a training's batch. key: int64 scalar, of the step."""
    return (torch.arange(batch, device=key.device) << 20) * _GOLDEN + key


def later(key: int, images: int) -> int:
    """The key of the batch that begins so many images later: `by_place` goes on where the one before has ended."""
    shifted = (key + (images << 20) * _GOLDEN) % 2**64
    return shifted - 2**64 if shifted >= 2**63 else shifted


def by_pixels(images: Tensor) -> Tensor:
    """(B,) int64, a key for each image (B, ...) from its bits alone: an evaluation draws the same in any batch."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[images.element_size()]
    return images.flatten(1).view(bits).sum(dim=1)


def uniform(keys: Tensor, stream: int, tokens: int) -> Tensor:
    """keys (B,) int64 -> (B, T) float32 in [0, 1), by splitmix64 (Steele et al., OOPSLA 2014, figure 16).

    A key is followed by 2^20 numbers of each stream; there are 2^23 streams.
    """
    x = torch.arange(tokens, device=keys.device) + (stream << 40)
    x = x * _GOLDEN + keys[:, None]
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    x = x ^ _shifted(x, 31)
    return _shifted(x, 40).to(torch.float32) / 2**24


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits, of x as an unsigned number."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
