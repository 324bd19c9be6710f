"""The public scan and convolution: shapes are checked and types settled once, then one backend computes."""

import torch
from torch import Tensor

from famba.ops.dispatch import scan_backend
from famba.ops.precision import without_autocast
from famba.ops.types import Backend, ScanTensors


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Mamba's selective scan in mamba-ssm's axis order; differentiable in every tensor.

    u, delta, z: (batch, dim, length). A: (dim, state). B, C: (batch, state, length), or (batch, groups, state, length)
    where channel d reads group d // (dim / groups). D, delta_bias: (dim). z gates the result by SiLU(z).
    Returns (batch, dim, length) in u's type; the state is in at least float32.
    Mamba (arXiv 2312.00752), equations 2a and 2b with the zero-order hold of A (4) and the Euler step of B.

    Raises ValueError for shapes that do not fit, InputError for a backend that is unknown or cannot run here.
    """
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C}
    given |= {name: x for name, x in (("D", D), ("z", z), ("delta_bias", delta_bias)) if x is not None}
    for name, x in given.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"selective_scan: {name} is a {type(x).__name__}, expected a tensor")
        if x.device != u.device:
            raise ValueError(f"selective_scan: {name} is on {x.device}, and u on {u.device}")
    if u.dim() != 3:
        raise ValueError(f"selective_scan: u has shape {tuple(u.shape)}, expected (batch, dim, length)")
    batch, dim, length = u.shape
    if B.dim() == 3:
        B = B.unsqueeze(1)
    if C.dim() == 3:
        C = C.unsqueeze(1)
    if B.dim() != 4 or B.shape[1] < 1 or dim % B.shape[1]:
        raise ValueError(
            f"selective_scan: B has shape {tuple(B.shape)}, expected (batch, state, length), "
            f"or (batch, groups, state, length) with groups that divide {dim} channels"
        )
    groups, state = B.shape[1], A.shape[-1]
    _expect("selective_scan", "delta", delta, (batch, dim, length))
    _expect("selective_scan", "A", A, (dim, state))
    _expect("selective_scan", "B", B, (batch, groups, state, length))
    _expect("selective_scan", "C", C, (batch, groups, state, length))
    _expect("selective_scan", "D", D, (dim,))
    _expect("selective_scan", "z", z, (batch, dim, length))
    _expect("selective_scan", "delta_bias", delta_bias, (dim,))

    # the core knows no groups: each is a scan of its own channels
    width = dim // groups
    outs = []
    for g in range(groups):
        channels = slice(g * width, (g + 1) * width)
        outs.append(
            _scan(
                ScanTensors(
                    u[:, channels].mT.unsqueeze(0),  # (1, B, L, D/G)
                    delta[:, channels].mT.unsqueeze(0),
                    A[channels].unsqueeze(0),
                    B[:, g].mT.unsqueeze(0),  # (1, B, L, N)
                    C[:, g].mT.unsqueeze(0),
                    None if D is None else D[channels].unsqueeze(0),
                    None if z is None else z[:, channels].mT,
                    None if delta_bias is None else delta_bias[channels].unsqueeze(0),
                ),
                delta_softplus,
                backend,
            ).mT
        )
    return outs[0] if groups == 1 else torch.cat(outs, dim=1)  # (B, D, L)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, backend: str | Backend = "auto") -> Tensor:
    """SiLU of a depthwise causal convolution over time, in K directions at once: the mixer's x̃ (paper-facts §3).

    x: (batch, length, dim), strided or not. weight: (K, dim, width). bias: (K, dim). Returns (K, batch, length, dim).
    Direction 0 sees the past of each step. Direction 1 is the convolution of the time-reversed sequence written back
    in natural order: it sees the future, and nothing is flipped in memory.

    Raises ValueError for shapes that do not fit, InputError for a backend that is unknown or cannot run here.
    """
    if x.dim() != 3 or weight.dim() != 3:
        raise ValueError(
            f"causal_conv: x {tuple(x.shape)} and weight {tuple(weight.shape)}, "
            "expected (batch, length, dim) and (directions, dim, width)"
        )
    if weight.shape[2] < 1:
        raise ValueError("causal_conv: a weight of width 0")
    directions, dim = weight.shape[0], x.shape[2]
    _expect_directions("causal_conv", directions)
    _expect("causal_conv", "weight", weight, (directions, dim, weight.shape[2]))
    _expect("causal_conv", "bias", bias, (directions, dim))
    _expect_numbers("causal_conv", x)
    state = _state_dtype(x.dtype)
    if isinstance(backend, str):
        backend = scan_backend(x.device, x.dtype, backend)
    with without_autocast(x.device.type):
        return backend.conv(x, weight.to(state), bias.to(state))


def directional_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    backend: str | Backend = "auto",
    delta_softplus: bool = True,
) -> Tensor:
    """The mixer's scan: (Σ_k y_k) ⊙ SiLU(z), one gate for all directions (paper-facts §3, "exact simplification").

    u, delta: (K, batch, length, dim). A: (K, dim, state). B, C: (K, batch, length, state), strided or not.
    D, delta_bias: (K, dim). z: (batch, length, dim), strided or not. K is 1 or 2; direction 1 runs over reversed time
    in place. Softplus is applied to delta + delta_bias, unless `delta` is a step already. Returns (batch, length, dim)
    in u's type.

    Raises ValueError for shapes that do not fit, InputError for a backend that is unknown or cannot run here.
    """
    if u.dim() != 4:
        raise ValueError(f"directional_scan: u has shape {tuple(u.shape)}, expected (directions, batch, length, dim)")
    directions, batch, length, dim = u.shape
    state = A.shape[-1]
    _expect_directions("directional_scan", directions)
    _expect("directional_scan", "delta", delta, (directions, batch, length, dim))
    _expect("directional_scan", "A", A, (directions, dim, state))
    _expect("directional_scan", "B", B, (directions, batch, length, state))
    _expect("directional_scan", "C", C, (directions, batch, length, state))
    _expect("directional_scan", "D", D, (directions, dim))
    _expect("directional_scan", "z", z, (batch, length, dim))
    _expect("directional_scan", "delta_bias", delta_bias, (directions, dim))
    return _scan(ScanTensors(u, delta, A, B, C, D, z, delta_bias), delta_softplus, backend)


def _scan(inputs: ScanTensors, softplus: bool, backend: str | Backend) -> Tensor:
    """Settle the types (see `types.Backend`), then choose the backend by them and run it."""
    u, delta, A, B, C, D, z, delta_bias = inputs
    stream = u.dtype
    for other in (delta, B, C, z):
        if other is not None:
            stream = torch.promote_types(stream, other.dtype)
    for tensor in (u, delta, A, B, C):
        _expect_numbers("scan", tensor)
    state = _state_dtype(stream)
    settled = ScanTensors(
        u.to(stream),
        delta.to(stream),
        A.to(state),
        B.to(stream),
        C.to(stream),
        None if D is None else D.to(state),
        None if z is None else z.to(stream),
        None if delta_bias is None else delta_bias.to(state),
    )
    if isinstance(backend, str):
        backend = scan_backend(u.device, stream, backend)
    with without_autocast(u.device.type):  # the state stays wide under autocast
        y = backend.scan(settled, softplus)
    return y.to(u.dtype)


def _state_dtype(stream: torch.dtype) -> torch.dtype:
    return torch.promote_types(stream, torch.float32)


def _expect(function: str, name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{function}: {name} has shape {tuple(tensor.shape)}, expected {shape}")


def _expect_directions(function: str, directions: int) -> None:
    if directions not in (1, 2):
        raise ValueError(f"{function}: {directions} directions, expected 1 (forward) or 2 (forward and backward)")


def _expect_numbers(function: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{function}: an input is {tensor.dtype}, expected a real floating type")
    if tensor.numel() == 0:
        raise ValueError(f"{function}: an input of shape {tuple(tensor.shape)} is empty")
