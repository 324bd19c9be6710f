"""Every method with its settings, and made-up tokens for it to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from famba.methods import Method, Seen, draws
from famba.methods.interface import History
from famba.methods.names import build
from famba.ops.types import Scanned
from tests.helpers.slow_methods import OneSequence

Case = tuple[str, dict[str, Any]]

DETERMINED: list[Case] = [
    ("famba_v", {}),
    ("famba_v", {"order": "tome"}),
    ("famba_v", {"size_weighted": True}),
    ("famba_v", {"order": "tome", "size_weighted": True}),
    ("famba_v", {"placement": "after"}),
    ("famba_v", {"placement": "inside"}),
    ("famba_v", {"placement": "input"}),
    ("rmeeto", {}),
    ("rmeeto", {"prune": True}),
    ("rmeeto", {"feature": "B"}),
    ("rmeeto", {"feature": "C", "prune": True}),
    ("rmeeto", {"feature": "delta"}),
    ("hsa", {}),
    ("hsa", {"score": "code", "align": False}),
    ("utr", {}),
    ("utr", {"q": 0.0}),
    ("utr", {"q": 1.0}),
    ("mtr", {}),
    ("mtr", {"targets": 1.0}),
]
ELSEWHERE: list[Case] = [  # than each acts by itself
    ("random_prune", {"placement": "inside"}),
    ("random_merge", {"placement": "after"}),
    ("rmeeto", {"placement": "before", "feature": "delta"}),
    ("hsa", {"placement": "input", "align": False}),
    ("utr", {"placement": "before"}),
    ("mtr", {"placement": "inside"}),
]
METHOD_CASES: list[Case] = [*DETERMINED, ("random_merge", {}), ("random_prune", {}), *ELSEWHERE]


def label(case: Case) -> str:
    name, settings = case
    return "-".join([name, *(f"{key}={value}" for key, value in settings.items())])


def tokens_seen(tokens: int, cls: Tensor, seed: int, dtype: torch.dtype, tied: bool = False) -> Seen:
    """Random tokens, as many sequences as `cls` has. Tied ones have signs for numbers: sums and cosines are exact."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels = len(cls), 16

    def numbers(*shape: int) -> Tensor:
        if tied:
            return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(dtype)
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    scanned = Scanned(
        numbers(2, batch, tokens, channels),
        numbers(2, batch, tokens, channels).exp2(),
        numbers(2, batch, tokens, 8 if tied else 4),
        numbers(2, batch, tokens, 8 if tied else 4),
    )
    order = torch.rand(batch, 3 * tokens, generator=generator).argsort(dim=1)[:, :tokens].sort(dim=1).values
    size = torch.randint(1, 6, (batch, tokens), generator=generator).float()
    return Seen(
        hidden=numbers(batch, tokens, channels),
        residual=torch.randn(batch, tokens, channels, generator=generator, dtype=torch.float64).to(dtype),
        cls=cls,
        r=0,
        scanned=scanned,
        uniform=uniform(batch, tokens, seed),
        history=History(order, size),
    )


def uniform(batch: int, tokens: int, key: int) -> Callable[[], Tensor]:
    """Draws as a block hands them out: another stream at every call."""
    calls = iter(range(1 << 20))
    keys = draws.by_place(torch.tensor(key), batch)
    return lambda: draws.uniform(keys, next(calls), tokens)


def sequence(seen: Seen, image: int) -> OneSequence:
    """One sequence of a batch as numbers of Python."""
    assert seen.scanned is not None
    features = {name: tuple(x[:, image].double().tolist()) for name, x in seen.scanned._asdict().items()}
    return OneSequence(
        hidden=seen.hidden[image].double().tolist(),
        cls=int(seen.cls[image]),
        r=seen.r,
        position=seen.position[image].tolist(),
        size=seen.size[image].tolist(),
        **features,
    )


def made(case: Case) -> Method:
    name, settings = case
    return build(name, own_settings(settings), settings.get("placement"))


def own_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Without the placement, which any method has."""
    return {key: value for key, value in settings.items() if key != "placement"}
