"""The operators of Vision Mamba: one interface, a reference, backends in C++, Triton and mamba-ssm.

    h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t u_t,    y_t = C_t · h_t + D u_t

`interface`: the selective scan and its convolution. `selective_scan` has mamba-ssm's axis order and is for outside
users; the mixer calls `causal_conv` and `directional_scan`, which take channels-last tensors and run both directions of
Vision Mamba in one call. `dispatch` chooses a backend and says why; `types`: what a backend offers.

Backends of the scan: `reference`, the oracle, also of matching and merging; `chunked`, in torch; `cpp/`, `triton/`;
`mamba_ssm`. `autograd` wraps the kernels of `cpp/` and `triton/`. `fused_mixer`: a whole mixer over those kernels;
`recompute`: the same saving of memory over any other backend.

`norm`, `merging`: the rest of a block, over the kernels of `cpp/tokens.py` and `triton/tokens.py`, one pass each. torch
composes each of three to twenty operators; that stays for other devices, types and machines without a compiler.

`precision`: the dtype that an operator runs in. `memory`: what kernels check of tensors before they touch them.
"""

from famba.ops.autograd import AutogradBackend
from famba.ops.dispatch import BACKENDS, Selection, available, choose, load
from famba.ops.interface import causal_conv, directional_scan, selective_scan

__all__ = [
    "BACKENDS",
    "AutogradBackend",
    "Selection",
    "available",
    "causal_conv",
    "choose",
    "directional_scan",
    "load",
    "selective_scan",
]
