"""Made-up tokens for a method to see, as they would come from a model's layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from famba.methods import draws
from famba.methods.interface import History, Method, Seen
from famba.ops.types import Scanned

BATCH, CHANNELS, STATES = 3, 16, 4


def tokens_for(
    method: Method, generator: torch.Generator, dtype: torch.dtype, layer: int, cls: Tensor, history: History
) -> Seen:
    """What the method sees in that layer: all that it asks for, in the types that autocast gives, and `r` still 0."""
    batch, tokens = history.position.shape
    inner = 2 * CHANNELS

    def normal(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(cls.device, of)

    steps = normal(2, batch, tokens, inner, of=torch.float32).exp()
    scanned = Scanned(normal(2, batch, tokens, inner), steps, *(normal(2, batch, tokens, STATES) for _ in "BC"))
    return Seen(
        hidden=normal(
            *(batch, tokens, inner if method.placement == "inside" else CHANNELS),
            of=torch.float32 if method.placement == "before" else dtype,
        ),
        residual=normal(batch, tokens, CHANNELS, of=torch.float32),
        cls=cls,
        r=0,
        scanned=scanned if method.needs_scanned else None,
        uniform=_Draws(256 * layer, batch, tokens, cls.device),
        history=history if method.needs_history else None,
    )


def anew(seen: Seen) -> Seen:
    """The same, with draws that begin again."""
    assert isinstance(seen.uniform, _Draws)
    return replace(seen, uniform=seen.uniform.anew())


def each(seen: Seen, change: Callable[[Tensor, int], Tensor]) -> Seen:
    """Every tensor of `seen` changed; it is called with its axis of images, too."""
    return replace(
        seen,
        hidden=change(seen.hidden, 0),
        residual=change(seen.residual, 0),
        cls=change(seen.cls, 0),
        scanned=None if seen.scanned is None else Scanned(*(change(x, 1) for x in seen.scanned)),
        history=None if seen.history is None else History(*(change(x, 0) for x in seen.history)),
    )


def filled(seen: Seen, value: int) -> Seen:
    """The same places of tokens that are all alike."""
    alike = each(seen, lambda x, _: torch.full_like(x, value))
    return replace(alike, cls=seen.cls, history=seen.history)


def tensors(seen: Seen) -> list[Tensor]:
    """Every tensor that it holds."""
    return [seen.hidden, seen.residual, seen.cls, *(seen.scanned or ()), *(seen.history or ())]


class _Draws:
    """`Seen.uniform` of one layer; a copy begins anew."""

    def __init__(self, stream: int, batch: int, tokens: int, device: torch.device) -> None:
        self._keys = draws.by_place(torch.tensor(7, device=device), batch)
        self._stream, self._shape = stream, (batch, tokens)

    def __call__(self) -> Tensor:
        self._stream += 1
        return draws.uniform(self._keys, self._stream, self._shape[1])

    def anew(self) -> _Draws:
        return _Draws(self._stream, *self._shape, self._keys.device)
