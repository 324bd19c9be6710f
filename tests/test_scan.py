"""The selective scan and the causal convolution: every backend against the equations, golden arrays and each other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from famba.errors import InputError
from famba.scan import BACKENDS, available, causal_conv, choose, directional_scan, mamba_ssm, selective_scan

GOLDEN = Path(__file__).parent / "data" / "selective_scan.npz"
F64 = torch.float64
Inputs = dict[str, Tensor | None]
ON_CPU = {
    dtype: [name for name, ok, _ in available("cpu", dtype) if ok]
    for dtype in (torch.float64, torch.float32, torch.bfloat16)
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


def by_backend(dtypes: dict[torch.dtype, list[str]]) -> list[tuple[torch.dtype, str]]:
    return [(dtype, name) for dtype, names in dtypes.items() for name in names]


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
    for backend in FASTER[torch.float32]:
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
    for backend in FASTER[torch.float32]:
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


# bad input


def test_a_wrong_shape_names_the_tensor_and_both_shapes() -> None:
    inputs = scan_inputs() | {"B": torch.zeros(2, 2, 11, 4, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"B has shape \(2, 2, 11, 4\), expected \(2, 2, 11, 3\)"):
        directional_scan(**inputs)
    with pytest.raises(ValueError, match=r"weight has shape"):
        causal_conv(torch.zeros(1, 4, 3), torch.zeros(1, 2, 4), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="3 directions"):
        causal_conv(torch.zeros(1, 4, 3), torch.zeros(3, 3, 4), torch.zeros(3, 3))
    u = torch.zeros(1, 5, 4)
    with pytest.raises(ValueError, match="groups do not divide 5 channels"):
        selective_scan(u, u, torch.zeros(5, 2), torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))


# the chooser


def test_auto_takes_the_first_that_runs_and_says_why_not_the_others() -> None:
    choice = choose("cpu", torch.float32)
    rows = available("cpu", torch.float32)
    assert [name for name, _, _ in rows] == list(BACKENDS)
    assert choice.name == next(name for name, ok, _ in rows if ok)
    for name, _, reason in rows[: BACKENDS.index(choice.name)]:
        assert f"{name} {reason}" in choice.reason
    assert "\n" not in choice.reason


def test_auto_for_float64_on_a_cpu_is_chunked() -> None:
    assert choose("cpu", torch.float64).name == "chunked"


def test_a_request_is_met_or_refused() -> None:
    assert choose("cpu", requested="reference").name == "reference"
    with pytest.raises(InputError, match=r"'mamba_ssm' needs a CUDA device; choose auto or one of: .*chunked"):
        choose("cpu", requested="mamba_ssm")
    with pytest.raises(InputError, match=r"'refrence' is unknown.*did you mean 'reference'"):
        choose("cpu", requested="refrence")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a CUDA device")
def test_a_cuda_device_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"no backend runs float32 on cuda .*torch sees none"):
        choose("cuda")


def test_integers_are_refused() -> None:
    with pytest.raises(InputError, match="not int64"):
        choose("cpu", torch.int64, "chunked")


# mamba-ssm's kernels: the layout around them


def fake_selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # type: ignore[no-untyped-def]
    """mamba-ssm's signature and demands, the reference's arithmetic."""
    assert not return_last_state
    batch, _, length = u.shape
    for stream in (u, delta, B, C):
        assert stream.dtype == u.dtype
        assert stream.stride(-1) == 1 or length == 1
    for parameter in (A, D, delta_bias):
        assert parameter is None or parameter.dtype == torch.promote_types(u.dtype, torch.float32)
    assert B.shape == C.shape == (batch, B.shape[1], A.shape[1], length)
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, backend="reference")


def fake_causal_conv1d_fn(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
):  # type: ignore[no-untyped-def]
    """causal-conv1d's signature and demands, torch's convolution."""
    assert seq_idx is None
    assert initial_states is None
    assert not return_final_states
    assert final_states_out is None
    assert activation == "silu"
    assert x.is_contiguous()
    assert weight.dtype == bias.dtype
    assert weight.shape == (x.shape[1], weight.shape[1])
    out = F.conv1d(x.to(weight.dtype), weight.unsqueeze(1), bias, padding=weight.shape[1] - 1, groups=weight.shape[0])
    return F.silu(out[..., : x.shape[2]]).to(x.dtype)


@pytest.fixture
def kernels_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_ssm, "kernels", lambda: (fake_selective_scan_fn, fake_causal_conv1d_fn))


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("missing", [(), ("z", "D", "delta_bias")])
def test_layout_around_mamba_ssms_kernels(directions: int, missing: tuple[str, ...]) -> None:
    def through_kernels(*, backend: str, **inputs: Tensor | None) -> Tensor:
        if backend == "reference":
            return directional_scan(**inputs, backend=backend)
        return mamba_ssm.scan(**inputs, softplus=True)

    inputs = scan_inputs(directions) | dict.fromkeys(missing)
    expected = with_gradients(through_kernels, inputs, "reference")
    assert_close(with_gradients(through_kernels, inputs, "mamba_ssm"), expected, 1e-12)


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("directions", [1, 2])
def test_layout_around_causal_conv1ds_kernel(directions: int) -> None:
    def through_kernel(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
        return causal_conv(x, weight, bias, backend) if backend == "reference" else mamba_ssm.conv(x, weight, bias)

    inputs = conv_inputs(directions)
    expected = with_gradients(through_kernel, inputs, "reference")
    assert_close(with_gradients(through_kernel, inputs, "mamba_ssm"), expected, 1e-12)
    with pytest.raises(InputError, match="width 5, expected 2 to 4"):
        mamba_ssm.conv(**conv_inputs(width=5))
