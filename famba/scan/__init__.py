"""The selective scan of Mamba behind one signature: a reference, several backends, a chooser that says why.

    h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t u_t,    y_t = C_t · h_t + D u_t

`selective_scan` has mamba-ssm's axis order and is for outside users. The mixer calls `causal_conv` and
`directional_scan`, which take channels-last tensors and run both directions of Vision Mamba in one call.
"""

from famba.scan.autograd import FromKernels
from famba.scan.chooser import BACKENDS, Choice, available, choose, load
from famba.scan.front import causal_conv, directional_scan, selective_scan

__all__ = [
    "BACKENDS",
    "Choice",
    "FromKernels",
    "available",
    "causal_conv",
    "choose",
    "directional_scan",
    "load",
    "selective_scan",
]
