"""The operators of Vision Mamba: one interface, a reference, backends in C++, Triton and mamba-ssm.

    h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t u_t,    y_t = C_t · h_t + D u_t,    out = (Σ_k y_k) ⊙ SiLU(z)

Symbols, and the equations of Mamba (arXiv 2312.00752) that introduce them:

    u      input of the scan, the x_t of equations 2a and 2b; in the mixer, x after convolution and SiLU
    h      state (2a), N numbers per channel, at least float32
    Δ      step (4): softplus(delta + delta_bias), per token and channel
    A      state matrix (1a), diagonal and negative; exp(Δ A) is its zero-order hold (4)
    B, C   input and output matrix (1a, 1b), per token, the same for all channels; Δ B stands for B's zero-order hold
    D      weight of the input in the output; in Mamba's code, in none of its equations
    y      output of one direction (2b), before the gate
    z      gate of the mixer, one for all directions

    K, B, L, D, N   sizes: directions (1 or 2), batch, length of the sequence, channels, states per channel
    W; T, C, r      width of the convolution; tokens and channels of a block, tokens that a fusion removes

`interface`: the selective scan and its convolution, checked. `selective_scan` has mamba-ssm's axis order and is for
outside users; the mixer calls `causal_conv` and `directional_scan`, which take channels-last tensors and run both
directions of Vision Mamba in one call. `norm`, `merging`: the rest of a block, as autograd functions over a backend.

`types`: what a backend offers. `reference`: every operator straight from its equation. `chunked`: the scan in torch, in
less memory. `cpp/`, `triton/`: kernels of every operator. `mamba_ssm`: the released code's scan. `dispatch` chooses
among them and says why. `autograd` differentiates over the kernels of scan and convolution, `fused_mixer` a whole
mixer; `recompute` saves the same memory over the other backends.

`precision`: the dtype that an operator runs in. `memory`: what kernels check of tensors before they touch them.
"""

from famba.ops.dispatch import BACKENDS, Selection, available, choose, scan_backend, token_backend
from famba.ops.interface import causal_conv, directional_scan, selective_scan

__all__ = [
    "BACKENDS",
    "Selection",
    "available",
    "causal_conv",
    "choose",
    "directional_scan",
    "scan_backend",
    "selective_scan",
    "token_backend",
]
