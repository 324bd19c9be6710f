"""One comparison of a backend's matching with the reference, on random metrics."""

import torch
from torch import Tensor

from famba.ops import reference
from tests.helpers.backends import Compared


def matches_the_reference(backend: Compared, tokens: int, dim: int, r: int, cls: Tensor | None, batch: int = 3) -> None:
    """The same pairs, on a metric (batch, tokens, dim); `cls`: the class tokens' indices (batch,), or None."""
    metric = backend.random(batch, tokens, dim)
    cls = None if cls is None else cls.to(backend.device)
    found, expected = backend.module.match(metric, r, cls), reference.match(metric.double(), r, cls)
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, want)
