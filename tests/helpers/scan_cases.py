"""Inputs of the selective scan and the causal convolution, and how their tests compare backends."""

from collections.abc import Callable

import torch
from torch import Tensor

from famba.ops.dispatch import BY_NAME

Inputs = dict[str, Tensor | None]
# the backends that take a type on a CPU, by name: to ask whether one runs here would build its kernels
ON_CPU = {
    torch.float64: ["chunked", "reference"],
    torch.float32: ["cpu", "chunked", "reference"],
    torch.bfloat16: ["cpu", "chunked", "reference"],
}
FASTER = {dtype: [name for name in names if name != "reference"] for dtype, names in ON_CPU.items()}


def scan_inputs(
    directions: int = 2,
    batch: int = 2,
    length: int = 11,
    dim: int = 5,
    state: int = 3,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    generator = torch.Generator().manual_seed(directions + 10 * length + dim)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    wide = torch.promote_types(dtype, torch.float32)
    return {
        "u": normal(directions, batch, length, dim),
        "delta": normal(directions, batch, length, dim) - 1,
        "A": -torch.exp(normal(directions, dim, state).to(wide)),
        "B": normal(directions, batch, length, state),
        "C": normal(directions, batch, length, state),
        "D": normal(directions, dim).to(wide),
        "z": normal(batch, length, dim),
        "delta_bias": normal(directions, dim).to(wide),
    }


def conv_inputs(
    directions: int = 2,
    batch: int = 2,
    length: int = 11,
    dim: int = 5,
    width: int = 4,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    generator = torch.Generator().manual_seed(directions + 10 * length + dim)
    wide = torch.promote_types(dtype, torch.float32)
    return {
        "x": torch.randn(batch, length, dim, generator=generator, dtype=torch.float64).to(dtype),
        "weight": torch.randn(directions, dim, width, generator=generator, dtype=torch.float64).to(wide),
        "bias": torch.randn(directions, dim, generator=generator, dtype=torch.float64).to(wide),
    }


def with_gradients(function: Callable[..., Tensor], inputs: Inputs, backend: str) -> dict[str, Tensor]:
    """The result and the gradient of every input, for a fixed random gradient of the result."""
    leaves = {k: None if v is None else v.detach().requires_grad_() for k, v in inputs.items()}
    out = function(**leaves, backend=backend)
    generator = torch.Generator().manual_seed(7)
    out.backward(torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype))
    grads = {f"grad_{k}": v.grad for k, v in leaves.items() if v is not None}
    return {"out": out.detach(), **grads}  # type: ignore[dict-item]


def assert_close(
    actual: dict[str, Tensor], expected: dict[str, Tensor], relative: float, smallest: float = 1e-6
) -> None:
    """Every entry within `relative` of the largest value of the expected one, which counts as at least `smallest`."""
    assert actual.keys() == expected.keys()
    for name, want in expected.items():
        assert actual[name] is not None, name
        got, want = actual[name].double(), want.double()  # noqa: PLW2901
        assert got.shape == want.shape, name
        scale = want.abs().max().item()
        error = (got - want).abs().max().item()
        assert error <= relative * max(scale, smallest), f"{name}: off by {error:.2e} of {scale:.2e}"


def unavailable(backend: str, dtype: torch.dtype) -> str | None:
    """Why a backend does not run here: no compiler, for instance."""
    return BY_NAME[backend].unavailable(torch.device("cpu"), dtype)


def by_backend(dtypes: dict[torch.dtype, list[str]]) -> list[tuple[torch.dtype, str]]:
    return [(dtype, name) for dtype, names in dtypes.items() for name in names]
