"""Inputs of the selective scan and the causal convolution, and how their tests compare backends."""

from collections.abc import Callable

import torch
from torch import Tensor

from famba.ops import reference
from tests.helpers.backends import Compared

FP64, FP32, BF16, FP16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
# Triton's interpreter truncates to bfloat16 where a GPU rounds
TOLERANCE = {FP64: 1e-12, FP32: 2e-5, BF16: 2e-2, FP16: 2e-3}
Inputs = dict[str, Tensor | None]


def scan_inputs(
    at: Compared,
    directions: int = 2,
    batch: int = 2,
    length: int = 11,
    dim: int = 5,
    state: int = 3,
    dtype: torch.dtype = FP32,
) -> Inputs:
    wide = torch.promote_types(dtype, FP32)
    return {
        "u": at.random(directions, batch, length, dim, seed=1, dtype=dtype),
        "delta": (at.random(directions, batch, length, dim, seed=2, dtype=FP64) - 1).to(dtype),
        "A": -at.random(directions, dim, state, seed=3, dtype=FP64).exp().to(wide),
        "B": at.random(directions, batch, length, state, seed=4, dtype=dtype),
        "C": at.random(directions, batch, length, state, seed=5, dtype=dtype),
        "D": at.random(directions, dim, seed=6, dtype=wide),
        "z": at.random(batch, length, dim, seed=7, dtype=dtype),
        "delta_bias": at.random(directions, dim, seed=8, dtype=wide).cos(),
    }


def conv_inputs(
    at: Compared,
    directions: int = 2,
    batch: int = 2,
    length: int = 11,
    dim: int = 5,
    width: int = 4,
    dtype: torch.dtype = FP32,
) -> Inputs:
    wide = torch.promote_types(dtype, FP32)
    return {
        "x": at.random(batch, length, dim, seed=1, dtype=dtype),
        "weight": at.random(directions, dim, width, seed=2, dtype=wide),
        "bias": at.random(directions, dim, seed=3, dtype=wide),
    }


def with_gradients(function: Callable[..., Tensor], inputs: Inputs, **how: object) -> dict[str, Tensor]:
    """The result and the gradient of every input, for a fixed random gradient of the result."""
    leaves = {k: None if v is None else v.detach().requires_grad_() for k, v in inputs.items()}
    out = function(**leaves, **how)
    generator = torch.Generator().manual_seed(7)
    out.backward(torch.randn(out.shape, generator=generator, dtype=FP64).to(out))
    return {"out": out.detach()} | {f"grad_{k}": v.grad for k, v in leaves.items() if v is not None}


def assert_close(
    actual: dict[str, Tensor], expected: dict[str, Tensor], relative: float, smallest: float = 1e-6
) -> None:
    """Every entry within `relative` of the largest value of the expected one, which counts as at least `smallest`."""
    assert actual.keys() == expected.keys()
    for name, want in expected.items():
        got = actual[name]
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        scale = want.double().abs().max().item()
        error = (got.double() - want.double()).abs().max().item()
        assert error <= relative * max(scale, smallest), f"{name}: off by {error:.2e} of {scale:.2e}"


def equals_the_reference(
    function: Callable[..., Tensor], backend: Compared, inputs: Inputs, relative: float, smallest: float = 1e-6
) -> dict[str, Tensor]:
    """The backend's result and gradients, which are the reference's."""
    found = with_gradients(function, inputs, backend=backend.module)
    assert_close(found, with_gradients(function, inputs, backend=reference), relative, smallest)
    return found


def as_double(values: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if x is None else x.double() for name, x in values.items()}
