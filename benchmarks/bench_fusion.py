"""Token fusion, match and merge of hidden states and residual, forward and backward: against ToMe's way of doing it."""

import math

import pytest
import torch

from famba.fusion import match

TOKENS, CHANNELS = 197, 192


def ours(hidden, residual, r):
    pairs = match(hidden.detach(), r, protected=TOKENS // 2)
    return pairs.merge_all([hidden, residual])


def tome(hidden, residual, r):
    """facebookresearch/ToMe af95e4b, tome/merge.py:20-104, with gather and scatter_reduce; no token protected."""
    with torch.no_grad():
        metric = hidden / hidden.norm(dim=-1, keepdim=True)
        scores = metric[..., ::2, :] @ metric[..., 1::2, :].transpose(-1, -2)
        scores[:, (TOKENS // 2) // 2] = -math.inf
        best, target = scores.max(dim=-1)
        edges = best.argsort(dim=-1, descending=True)[..., None]
        unfused, fused = edges[..., r:, :].sort(dim=1)[0], edges[..., :r, :]
        joined = target[..., None].gather(dim=-2, index=fused)

    def merge(x):
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        batch, evens, channels = even.shape
        kept = even.gather(dim=-2, index=unfused.expand(batch, evens - r, channels))
        source = even.gather(dim=-2, index=fused.expand(batch, r, channels))
        odd = odd.scatter_reduce(-2, joined.expand(batch, r, channels), source, reduce="mean")
        return torch.cat([kept, odd], dim=1)

    return merge(hidden), merge(residual)


@pytest.mark.parametrize("r", [7, 14])
@pytest.mark.parametrize("batch", [16, 64])
def bench_against_tome(versus, batch, r):
    inputs = tuple(torch.randn(batch, TOKENS, CHANNELS, requires_grad=True) for _ in range(2))
    grads = tuple(torch.randn(batch, TOKENS - r, CHANNELS) for _ in range(2))

    def there_and_back(fuse):
        return lambda: torch.autograd.grad(fuse(*inputs, r), inputs, grads)

    versus(there_and_back(ours), {"tome": there_and_back(tome)}, rounds=30)
