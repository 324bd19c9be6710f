"""Sequences of different lengths in one batch: those of one length are a part, and every part runs by itself.

So each image is reduced as if it were alone, without padding that a convolution or scan would have to know of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from famba.methods.interface import History, Tokens
from famba.ops.types import Scanned


class Part(NamedTuple):
    """The sequences of a batch that are of one length, b of them. `images`: (b,) their places in the batch.

    `out`, `residual`, `tokens` and `keys` are what a block takes; `tokens.cls` is (b,).
    """

    images: Tensor
    out: Tensor | None
    residual: Tensor
    tokens: Tokens
    keys: Tensor

    def take(self, rows: Tensor) -> Part:
        """Some of them."""
        cls, history, scanned = self.tokens
        assert isinstance(cls, Tensor)
        tokens = Tokens(
            cls[rows],
            history and History(*(x[rows] for x in history)),
            scanned and Scanned(*(x[:, rows] for x in scanned)),
        )
        out = None if self.out is None else self.out[rows]
        return Part(self.images[rows], out, self.residual[rows], tokens, self.keys[rows])


def split(part: Part, counts: Tensor) -> list[tuple[int, Part]]:
    """A part for each number of tokens that go, (b,), with that number."""
    numbers = counts.unique().tolist()
    if len(numbers) == 1:
        return [(numbers[0], part)]
    return [(number, part.take((counts == number).nonzero()[:, 0])) for number in numbers]


def joined(parts: Iterable[Part]) -> list[Part]:
    """The parts of equal length as one."""
    by_length: dict[int, list[Part]] = {}
    for part in parts:
        by_length.setdefault(part.residual.shape[1], []).append(part)
    return [_one(alike) for alike in by_length.values()]


def _one(parts: list[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    tokens = [part.tokens for part in parts]
    cls = torch.cat([one.cls for one in tokens if isinstance(one.cls, Tensor)])
    histories = [one.history for one in tokens if one.history is not None]
    scans = [one.scanned for one in tokens if one.scanned is not None]
    outs = [part.out for part in parts if part.out is not None]
    return Part(
        torch.cat([part.images for part in parts]),
        torch.cat(outs) if outs else None,
        torch.cat([part.residual for part in parts]),
        Tokens(
            cls,
            History(*map(torch.cat, zip(*histories, strict=True))) if histories else None,
            Scanned(*(torch.cat(x, dim=1) for x in zip(*scans, strict=True))) if scans else None,
        ),
        torch.cat([part.keys for part in parts]),
    )
