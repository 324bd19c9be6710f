"""The scan in torch with loops of √L steps instead of L, for programs in which torch.export writes every loop out.

A sequence is cut into √L chunks. All chunks run side by side, each from a state of zeros; then the state at the end of
each is carried into the next one; and each step adds what is left of the state that its chunk has started with. All
states are held at once, and the work is three times the reference's. Norm, matching and merging are the reference's.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from famba.ops.reference import conv, groups, match, merge, merge_backward, norm, norm_backward, unavailable  # noqa: F401
from famba.ops.types import Passes, ScanTensors

passes: Passes | None = None


def scan(inputs: ScanTensors, softplus: bool) -> Tensor:
    """See `reference.scan`."""
    u, delta, A, B, C, D, z, delta_bias = inputs
    state = A.dtype
    delta = delta.to(state) if delta_bias is None else delta.to(state) + delta_bias[:, None, None]
    delta = F.softplus(delta) if softplus else delta
    u_s, delta_s, B_s, C_s = (_in_scan_time(x.to(state)) for x in (u, delta, B, C))
    y = _in_scan_time(_read_out(u_s, delta_s, B_s, C_s, A))  # (K, B, L, D)
    y = y if D is None else y + D[:, None, None] * u.to(state)
    total = y.sum(dim=0)
    return (total if z is None else total * F.silu(z.to(state))).to(u.dtype)


def _in_scan_time(x: Tensor) -> Tensor:
    """(K, B, L, F) with direction 1 reversed, into scan time and back."""
    return x if x.shape[0] == 1 else torch.stack([x[0], x[1].flip(1)])


def _read_out(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor) -> Tensor:
    """C_t · h_t, (K, B, L, D), all in scan time."""
    length = u.shape[2]
    chunk = math.isqrt(length - 1) + 1
    chunks = -(-length // chunk)
    spare = (0, 0, 0, chunks * chunk - length)  # steps of length zero at the end, which leave the state as it is
    u, delta, B, C = (F.pad(x, spare).unflatten(2, (chunks, chunk)) for x in (u, delta, B, C))  # (K, B, M, T, F)
    decay = torch.exp(delta[..., None] * A[:, None, None, None])  # (K, B, M, T, D, N)
    steps = zip(decay.unbind(3), ((delta * u)[..., None] * B[..., None, :]).unbind(3), strict=True)
    kept, h = next(steps)  # what is left of the first state, and what the chunk has added
    all_kept, all_h = [kept], [h]
    for decay_t, input_t in steps:
        kept, h = decay_t * kept, torch.addcmul(input_t, decay_t, h)
        all_kept.append(kept)
        all_h.append(h)
    first = [torch.zeros_like(h[:, :, 0])]  # the state that each chunk starts with
    for m in range(chunks - 1):
        first.append(torch.addcmul(h[:, :, m], kept[:, :, m], first[-1]))
    start = torch.stack(first, dim=2)
    y = [
        (torch.addcmul(h, kept, start) @ C_t[..., None])[..., 0]  # (K, B, M, D)
        for kept, h, C_t in zip(all_kept, all_h, C.unbind(3), strict=True)
    ]
    return torch.stack(y, dim=3).flatten(2, 3)[:, :, :length]
