"""The operators of Vision Mamba: one interface, a reference, backends in C++, Triton and mamba-ssm.

    h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t u_t,    y_t = C_t · h_t + D u_t

`interface`: the selective scan and its convolution. `selective_scan` has mamba-ssm's axis order and is for outside
users; the mixer calls `causal_conv` and `directional_scan`, which take channels-last tensors and run both directions of
Vision Mamba in one call. `norm`, `merging`: the rest of a block. `dispatch` chooses a backend and says why.
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
