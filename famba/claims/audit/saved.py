"""Floats that a training keeps per token, layer and channel: from the fitted memory, and counted by hand."""

from __future__ import annotations

from famba.config import Recipe
from famba.config.protocol import MODELS
from famba.flops import cost

IMAGES_PER_GPU = 128  # the released scripts' batch on each GPU
_MIB, _FLOAT = 2**20, 4


def floats_per_channel(mib_per_token: float, embed_dim: int) -> float:
    """Float32 values per token, layer and channel that a slope of memory stands for, at 128 images."""
    return mib_per_token * _MIB / _FLOAT / IMAGES_PER_GPU / embed_dim


def released_block(model: str) -> dict[str, int]:
    """Float32 values per token that the released block (hustvl/Vim at dd0358a) keeps for the backward pass.

    One bidirectional mixer whose fused kernel recomputes convolution and delta; d is the embedding dimension.
    """
    architecture = MODELS[model]
    d, inner = architecture.embed_dim, architecture.expand * architecture.embed_dim
    rank = -(-d // 16)
    return {
        "residual stream": d,
        "normed input of the mixer": d,
        "x and z": 2 * inner,
        "their reversed copy": 2 * inner,
        "outputs of both directions": 2 * inner,
        "sum of the outputs": inner,
        "delta's low rank, B and C, both directions": 2 * (rank + 2 * architecture.d_state),
    }


def project_count(model: str) -> float:
    """Float32 values per token of one unfused layer, by this project's cost model with the mamba-ssm scan in fp32."""
    architecture = MODELS[model]
    layer = cost(architecture, (0,) * architecture.depth, Recipe(precision="fp32"), 100, "cuda", "mamba_ssm").layers[0]
    return layer.saved / _FLOAT / layer.tokens
