"""The selective scan and the causal convolution: every backend against the equations, golden arrays and each other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from famba.ops import causal_conv, directional_scan, selective_scan
from tests.helpers import ROOT
from tests.helpers.scan_cases import (
    FASTER,
    ON_CPU,
    Inputs,
    assert_close,
    by_backend,
    conv_inputs,
    scan_inputs,
    unavailable,
    with_gradients,
)

GOLDEN = ROOT / "tests" / "files" / "selective_scan.npz"


@pytest.fixture(autouse=True)
def backend_runs(request: pytest.FixtureRequest) -> None:
    """Skips a test of a backend that does not run here."""
    given = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if "backend" in given and (reason := unavailable(given["backend"], given.get("dtype", torch.float32))):
        pytest.skip(f"{given['backend']} {reason}")


# golden arrays


@pytest.mark.parametrize(("dtype", "backend"), [c for c in by_backend(ON_CPU) if c[0] != torch.bfloat16])
def test_golden_result_and_gradients(dtype: torch.dtype, backend: str) -> None:
    golden = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN).items()}
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    leaves = {name: golden[name].to(dtype).requires_grad_() for name in names}
    out = selective_scan(**leaves, delta_softplus=True, backend=backend)
    out.backward(golden["grad_out"].to(dtype))
    actual = {"out": out.detach(), **{f"grad_{k}": v.grad for k, v in leaves.items()}}
    expected = {k: golden[k] for k in actual}
    assert_close(actual, expected, 1e-9 if dtype == torch.float64 else 2e-5)


# gradients


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("directions", [1, 2])
def test_scan_gradcheck(backend: str, directions: int) -> None:
    inputs = [v.requires_grad_() for v in scan_inputs(directions, 2, 5, 3, 2).values()]
    assert torch.autograd.gradcheck(lambda *x: directional_scan(*x, backend=backend), inputs)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_conv_gradcheck(backend: str) -> None:
    inputs = [v.requires_grad_() for v in conv_inputs(2, 2, 5, 3).values()]
    assert torch.autograd.gradcheck(lambda *x: causal_conv(*x, backend=backend), inputs)


# directions


@pytest.mark.parametrize(("dtype", "backend"), [c for c in by_backend(ON_CPU) if c[0] == torch.float32])
def test_direction_1_is_the_flipped_scan(dtype: torch.dtype, backend: str) -> None:
    inputs = scan_inputs(dtype=dtype)
    z = inputs.pop("z")
    forward = {k: v[:1] for k, v in inputs.items()}
    backward = {k: v[1:] if v.dim() == 2 or k == "A" else v[1:].flip(2) for k, v in inputs.items()}
    by_hand = directional_scan(**forward, z=None, backend=backend)
    by_hand = (by_hand + directional_scan(**backward, z=None, backend=backend).flip(1)) * F.silu(z)
    torch.testing.assert_close(directional_scan(**inputs, z=z, backend=backend), by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "backend"), [c for c in by_backend(ON_CPU) if c[0] == torch.float32])
def test_conv_is_torchs_in_both_directions(dtype: torch.dtype, backend: str) -> None:
    x, weight, bias = conv_inputs(dtype=dtype).values()
    width, length = weight.shape[2], x.shape[1]

    def by_torch(x: Tensor, k: int) -> Tensor:
        out = F.conv1d(x.mT, weight[k].unsqueeze(1), bias[k], padding=width - 1, groups=x.shape[2])
        return F.silu(out[..., :length].mT)

    expected = torch.stack([by_torch(x, 0), by_torch(x.flip(1), 1).flip(1)])
    torch.testing.assert_close(causal_conv(x, weight, bias, backend=backend), expected, rtol=1e-5, atol=1e-6)


# shapes and options


@pytest.mark.parametrize(("dtype", "backend"), by_backend(FASTER))
@pytest.mark.parametrize("length", [1, 2, 17, 50])
def test_every_length(dtype: torch.dtype, backend: str, length: int) -> None:
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    inputs = scan_inputs(length=length, dtype=dtype)
    expected = with_gradients(directional_scan, inputs, "reference")
    assert_close(with_gradients(directional_scan, inputs, backend), expected, tolerance)
    inputs = conv_inputs(length=length, dtype=dtype)
    expected = with_gradients(causal_conv, inputs, "reference")
    assert_close(with_gradients(causal_conv, inputs, backend), expected, tolerance)


@pytest.mark.parametrize("backend", FASTER[torch.float32])
@pytest.mark.parametrize("missing", [("z",), ("D",), ("delta_bias",), ("z", "D", "delta_bias")])
def test_optional_inputs(backend: str, missing: tuple[str, ...]) -> None:
    inputs = scan_inputs(dtype=torch.float32) | dict.fromkeys(missing)
    expected = with_gradients(directional_scan, inputs, "reference")
    assert_close(with_gradients(directional_scan, inputs, backend), expected, 2e-5)


@pytest.mark.parametrize("backend", ON_CPU[torch.float32])
def test_without_softplus_delta_is_taken_as_it_is(backend: str) -> None:
    inputs = scan_inputs(1, dtype=torch.float32)
    u, delta, A, B, C = (
        inputs["u"][0].mT,
        F.softplus(inputs["delta"][0]).mT,
        inputs["A"][0],
        *(inputs[k][0].mT for k in "BC"),
    )
    raw = selective_scan(u, delta, A, B, C, backend=backend)
    soft = selective_scan(u, inputs["delta"][0].mT, A, B, C, delta_softplus=True, backend=backend)
    torch.testing.assert_close(raw, soft, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(raw, selective_scan(u, 2 * delta, A, B, C, backend=backend))


@pytest.mark.parametrize("backend", ON_CPU[torch.float32])
def test_groups_are_scans_of_their_own(backend: str) -> None:
    first = scan_inputs(1, length=9, dim=4, dtype=torch.float32)
    parts = [first, {k: v * 0.5 for k, v in first.items()}]

    def alone(part: Inputs) -> list[Tensor]:
        return [part["u"][0].mT, F.softplus(part["delta"][0]).mT, part["A"][0], part["B"][0].mT, part["C"][0].mT]

    u, delta, A, B, C = zip(*(alone(part) for part in parts), strict=True)
    together = selective_scan(
        torch.cat(u, 1), torch.cat(delta, 1), torch.cat(A), torch.stack(B, 1), torch.stack(C, 1), backend=backend
    )
    apart = torch.cat([selective_scan(*alone(part), backend="reference") for part in parts], 1)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    directions=st.integers(1, 2),
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    dim=st.integers(1, 40),
    state=st.integers(1, 20),
)
def test_any_shape(directions: int, batch: int, length: int, dim: int, state: int) -> None:
    inputs = scan_inputs(directions, batch, length, dim, state, torch.float32)
    expected = with_gradients(directional_scan, inputs, "reference")
    for backend in (name for name in FASTER[torch.float32] if not unavailable(name, torch.float32)):
        # inputs are of order 1; a gradient that cancels to a small number keeps their rounding error
        assert_close(with_gradients(directional_scan, inputs, backend), expected, 5e-5, smallest=0.1)


@settings(max_examples=25, deadline=None)
@given(
    directions=st.integers(1, 2),
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    dim=st.integers(1, 40),
    width=st.integers(1, 6),
)
def test_any_convolution(directions: int, batch: int, length: int, dim: int, width: int) -> None:
    inputs = conv_inputs(directions, batch, length, dim, width, torch.float32)
    expected = with_gradients(causal_conv, inputs, "reference")
    for backend in (name for name in FASTER[torch.float32] if not unavailable(name, torch.float32)):
        assert_close(with_gradients(causal_conv, inputs, backend), expected, 2e-5, smallest=0.1)


@pytest.mark.parametrize(("dtype", "backend"), by_backend(FASTER))
def test_strided_inputs_as_the_mixer_has_them(dtype: torch.dtype, backend: str) -> None:
    directions, batch, length, dim, state, rank = 2, 2, 13, 6, 3, 2
    base = scan_inputs(directions, batch, length, dim, state, dtype)
    generator = torch.Generator().manual_seed(3)
    xz0 = torch.randn(batch, length, 2 * dim, generator=generator).to(dtype)
    projected0 = torch.randn(directions, batch, length, rank + 2 * state, generator=generator).to(dtype)
    weight0, bias0 = conv_inputs(directions, dim=dim, dtype=dtype)["weight"], base["delta_bias"]

    def mixer(backend: str) -> dict[str, Tensor]:
        xz, projected, weight = (t.detach().requires_grad_() for t in (xz0, projected0, weight0))
        x, z = xz.chunk(2, dim=-1)
        _, B, C = projected.split([rank, state, state], dim=-1)
        assert not any(t.is_contiguous() for t in (x, z, B, C))
        u = causal_conv(x, weight, bias0, backend=backend)
        out = directional_scan(u, base["delta"], base["A"], B, C, base["D"], z, base["delta_bias"], backend=backend)
        out.transpose(0, 1).cumsum(0).sum().backward()  # an expanded, non-contiguous gradient
        return {"out": out.detach(), "xz": xz.grad, "projected": projected.grad, "weight": weight.grad}

    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}[dtype]
    assert_close(mixer(backend), mixer("reference"), tolerance)


# numerical range


@pytest.mark.parametrize("backend", ON_CPU[torch.float32])
def test_large_delta_gives_no_nan(backend: str) -> None:
    inputs = scan_inputs(length=30, dtype=torch.float32)
    inputs["delta"] = torch.full_like(inputs["delta"], 20.0)
    inputs["delta"][:, :, ::3] = -100.0
    inputs["delta"][:, :, 1::3] = 200.0
    results = with_gradients(directional_scan, inputs, backend)
    for name, value in results.items():
        assert value.isfinite().all(), name
    exact = {k: v.double() for k, v in inputs.items()}
    assert_close(results, with_gradients(directional_scan, exact, "reference"), 5e-5)


@pytest.mark.parametrize("backend", ON_CPU[torch.bfloat16])
def test_bfloat16_keeps_a_float32_state(backend: str) -> None:
    inputs = scan_inputs(length=40, dim=8, dtype=torch.bfloat16)
    narrow = with_gradients(directional_scan, inputs, backend)
    wide = with_gradients(directional_scan, {k: v.float() for k, v in inputs.items()}, "reference")
    assert narrow["out"].dtype == torch.bfloat16
    assert narrow["grad_u"].dtype == torch.bfloat16
    assert narrow["grad_A"].dtype == torch.float32
    assert_close(narrow, wide, 1e-2)  # one rounding of the result, not one per step


@pytest.mark.parametrize("backend", ON_CPU[torch.bfloat16])
def test_autocast_leaves_the_state_wide(backend: str) -> None:
    inputs = scan_inputs(dtype=torch.bfloat16)
    plain = with_gradients(directional_scan, inputs, backend)
    with torch.autocast("cpu", torch.bfloat16):
        cast = with_gradients(directional_scan, inputs, backend)
    assert_close(cast, plain, 0.0)


@pytest.mark.parametrize("backend", ON_CPU[torch.float32])
def test_mixed_types_are_settled(backend: str) -> None:
    inputs = scan_inputs(dtype=torch.bfloat16)
    inputs["delta"] = inputs["delta"].float()
    results = with_gradients(directional_scan, inputs, backend)
    assert results["out"].dtype == torch.bfloat16
    assert results["grad_u"].dtype == torch.bfloat16
    assert results["grad_delta"].dtype == torch.float32


# memory and repeatability


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("backend", FASTER[torch.float32])
def test_the_whole_state_never_exists(backend: str) -> None:
    directions, batch, length, dim, state = 2, 1, 256, 16, 16
    inputs = scan_inputs(directions, batch, length, dim, state, torch.float32)
    with LargestTensor() as seen:
        with_gradients(directional_scan, inputs, backend)
    assert 0 < seen.largest <= directions * batch * length * dim * state // 4


@pytest.mark.parametrize("backend", FASTER[torch.float32])
def test_saved_for_backward_is_a_small_multiple_of_the_input(backend: str) -> None:
    inputs = {k: v.requires_grad_() for k, v in scan_inputs(2, 1, 256, 16, 16, torch.float32).items()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        directional_scan(**inputs, backend=backend)
    given_in = sum(v.numel() for v in inputs.values())
    assert sum(saved) <= given_in + inputs["u"].numel()


@pytest.mark.parametrize("backend", ON_CPU[torch.float32])
def test_two_runs_agree_to_the_bit(backend: str) -> None:
    inputs = scan_inputs(2, 3, 33, 40, 16, torch.float32)
    first = with_gradients(directional_scan, inputs, backend)
    assert_close(with_gradients(directional_scan, inputs, backend), first, 0.0)
