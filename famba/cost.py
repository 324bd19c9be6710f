"""What a cell costs by arithmetic: the work of one image from the architecture and the token schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from famba.config import Architecture
from famba.schedule import tokens_per_layer


def scheduled_tokens(architecture: Architecture, schedule: Sequence[int]) -> tuple[int, ...]:
    """Tokens that each layer's mixer is to see, then the final count."""
    patches = architecture.tokens - 1
    cls = patches // 2 if architecture.cls_position == "middle" else 0
    return tokens_per_layer(schedule, architecture.tokens, cls)


def forward_flops(architecture: Architecture, schedule: Sequence[int], classes: int, channels: int = 3) -> int:
    """Floating-point operations of one image's forward pass; a multiply-add counts as two.

    Counted: patch embedding, the mixers' projections, causal convolutions and scans (per channel and state 9
    operations, as state-spaces/mamba counts them: discretise 3, recur 4, read out 2), the matching of a fusing layer,
    and the head. Not counted: norms, activations, additions.
    """
    a = architecture
    inner, rank = a.expand * a.embed_dim, math.ceil(a.embed_dim / 16)
    trace = scheduled_tokens(a, schedule)
    per_direction = 2 * inner * (a.d_conv + rank + 2 * a.d_state + rank) + 9 * inner * a.d_state
    per_token = 2 * a.embed_dim * 2 * inner + 2 * per_direction + 2 * inner * a.embed_dim
    flops = 2 * (a.tokens - 1) * channels * a.patch_size**2 * a.embed_dim + 2 * a.embed_dim * classes
    before = a.tokens
    for tokens in trace[:-1]:
        flops += tokens * per_token
        if tokens < before:  # cosine of every even with every odd token
            flops += 2 * math.ceil(before / 2) * (before // 2) * a.embed_dim
        before = tokens
    return flops
