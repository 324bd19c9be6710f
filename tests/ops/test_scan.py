"""The selective scan and the causal convolution: the reference against the equations, every backend against it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from famba.ops import causal_conv, directional_scan, reference, selective_scan
from famba.ops.dispatch import BY_NAME
from famba.ops.types import ScanTensors, StreamGrads
from tests.helpers import ROOT
from tests.helpers.backends import EVERY, Compared, compared
from tests.helpers.scan_cases import (
    BF16,
    FP16,
    FP32,
    FP64,
    TOLERANCE,
    Inputs,
    as_double,
    assert_close,
    conv_inputs,
    equals_the_reference,
    scan_inputs,
    with_gradients,
)

GOLDEN = ROOT / "tests" / "files" / "selective_scan.npz"
IN_TORCH = [Compared(name, BY_NAME[name], torch.device("cpu")) for name in ("reference", "chunked")]


@pytest.fixture(params=EVERY[:-1])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compared:
    return compared(request.param, monkeypatch)


@pytest.fixture(params=EVERY)
def anything(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compared:
    """Any backend, the reference too."""
    return compared(request.param, monkeypatch)


@pytest.fixture(params=IN_TORCH, ids=lambda backend: backend.name)
def in_torch(request: pytest.FixtureRequest) -> Compared:
    """A backend that takes float64."""
    return request.param


# the equations


def golden(dtype: torch.dtype, backend: Compared) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A result with its gradients, and the arrays that they must be."""
    arrays = {k: torch.from_numpy(v).to(backend.device, dtype) for k, v in np.load(GOLDEN).items()}
    leaves = {k: arrays[k].requires_grad_() for k in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")}
    out = selective_scan(**leaves, delta_softplus=True, backend=backend.name)
    out.backward(arrays["grad_out"])
    actual = {"out": out.detach(), **{f"grad_{k}": v.grad for k, v in leaves.items()}}
    return actual, {k: arrays[k] for k in actual}


def test_golden_result_and_gradients_in_float64(in_torch: Compared) -> None:
    assert_close(*golden(FP64, in_torch), 1e-9)


def test_golden_result_and_gradients(anything: Compared) -> None:
    assert_close(*golden(FP32, anything), 2e-5)


@pytest.mark.parametrize("directions", [1, 2])
def test_scan_gradcheck(in_torch: Compared, directions: int) -> None:
    inputs = [v.requires_grad_() for v in scan_inputs(in_torch, directions, 2, 5, 3, 2, FP64).values()]
    assert torch.autograd.gradcheck(lambda *x: directional_scan(*x, backend=in_torch.name), inputs)


def test_conv_gradcheck(in_torch: Compared) -> None:
    inputs = [v.requires_grad_() for v in conv_inputs(in_torch, 2, 2, 5, 3, 4, FP64).values()]
    assert torch.autograd.gradcheck(lambda *x: causal_conv(*x, backend=in_torch.name), inputs)


def test_direction_1_is_the_flipped_scan(anything: Compared) -> None:
    inputs = scan_inputs(anything)
    z = inputs.pop("z")
    forward = {k: v[:1] for k, v in inputs.items()}
    backward = {k: v[1:] if v.dim() == 2 or k == "A" else v[1:].flip(2) for k, v in inputs.items()}
    by_hand = directional_scan(**forward, z=None, backend=anything.name)
    by_hand = (by_hand + directional_scan(**backward, z=None, backend=anything.name).flip(1)) * F.silu(z)
    torch.testing.assert_close(directional_scan(**inputs, z=z, backend=anything.name), by_hand, rtol=1e-5, atol=1e-5)


def test_conv_is_torchs_in_both_directions(anything: Compared) -> None:
    x, weight, bias = conv_inputs(anything).values()
    width, length = weight.shape[2], x.shape[1]

    def by_torch(x: Tensor, k: int) -> Tensor:
        out = F.conv1d(x.mT, weight[k].unsqueeze(1), bias[k], padding=width - 1, groups=x.shape[2])
        return F.silu(out[..., :length].mT)

    expected = torch.stack([by_torch(x, 0), by_torch(x.flip(1), 1).flip(1)])
    torch.testing.assert_close(causal_conv(x, weight, bias, backend=anything.name), expected, rtol=1e-5, atol=1e-6)


# shapes and options, against the reference

SIZES = [  # directions, batch, length, dim, state
    (2, 2, 9, 5, 4),
    (2, 1, 18, 20, 16),
    (1, 1, 8, 40, 16),  # two of Triton's blocks of channels
    (2, 1, 3, 19, 7),
    (1, 2, 1, 1, 1),
    (2, 1, 12, 9, 33),  # a chunk and one segment of Triton's
    (2, 1, 17, 37, 16),
    (2, 1, 17, 16, 5),
    (2, 1, 23, 3, 1),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_scan(backend: Compared, sizes: tuple[int, ...]) -> None:
    equals_the_reference(directional_scan, backend, scan_inputs(backend, *sizes), TOLERANCE[FP32])


@pytest.mark.parametrize("dtype", [FP64, BF16, FP16])
@pytest.mark.parametrize("sizes", [SIZES[0], SIZES[2], *SIZES[-2:]], ids=str)
def test_scan_of_other_types(backend: Compared, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    backend.needs(dtype)
    equals_the_reference(directional_scan, backend, scan_inputs(backend, *sizes, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [FP64, FP32, BF16, FP16])
@pytest.mark.parametrize("length", [1, 2, 17, 50])
def test_every_length(backend: Compared, dtype: torch.dtype, length: int) -> None:
    backend.needs(dtype)
    if backend.interpreted and length == 50:
        pytest.skip("the interpreter takes ten seconds for each type")
    equals_the_reference(
        directional_scan, backend, scan_inputs(backend, batch=1, length=length, dtype=dtype), TOLERANCE[dtype]
    )
    equals_the_reference(causal_conv, backend, conv_inputs(backend, length=length, dtype=dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [FP64, FP32, BF16, FP16])
@pytest.mark.parametrize(
    ("directions", "batch", "length", "dim", "width"),
    [(2, 2, 33, 20, 4), (1, 1, 5, 70, 2), (2, 1, 23, 37, 4), (2, 1, 23, 16, 1), (2, 3, 17, 3, 7)],
)
def test_convolution(
    backend: Compared, directions: int, batch: int, length: int, dim: int, width: int, dtype: torch.dtype
) -> None:
    backend.needs(dtype)
    if backend.name == "mamba_ssm" and not 2 <= width <= 4:
        pytest.skip("it takes widths of 2 to 4")
    inputs = conv_inputs(backend, directions, batch, length, dim, width, dtype)
    equals_the_reference(causal_conv, backend, inputs, TOLERANCE[dtype])


@pytest.mark.parametrize("missing", [("z",), ("D",), ("delta_bias",), ("z", "D", "delta_bias")])
def test_optional_inputs(backend: Compared, missing: tuple[str, ...]) -> None:
    inputs = scan_inputs(backend) | dict.fromkeys(missing)
    equals_the_reference(directional_scan, backend, inputs, TOLERANCE[FP32])


def test_without_softplus_delta_is_taken_as_it_is(backend: Compared) -> None:
    inputs = scan_inputs(backend, 2, 1, 10, 5, 4)
    for name in ("delta", "delta_bias"):
        inputs[name] = inputs[name].abs()

    def raw(backend: object, **inputs: Tensor | None) -> Tensor:
        return backend.scan(ScanTensors(**inputs), False)  # type: ignore[attr-defined]

    equals_the_reference(raw, backend, inputs, TOLERANCE[FP32])


def test_selective_scan_without_softplus(anything: Compared) -> None:
    inputs = scan_inputs(anything, 1)
    u, delta, A, B, C = (
        inputs["u"][0].mT,
        F.softplus(inputs["delta"][0]).mT,
        inputs["A"][0],
        *(inputs[k][0].mT for k in "BC"),
    )
    raw = selective_scan(u, delta, A, B, C, backend=anything.name)
    soft = selective_scan(u, inputs["delta"][0].mT, A, B, C, delta_softplus=True, backend=anything.name)
    torch.testing.assert_close(raw, soft, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(raw, selective_scan(u, 2 * delta, A, B, C, backend=anything.name))


def test_groups_are_scans_of_their_own(anything: Compared) -> None:
    first = scan_inputs(anything, 1, length=9, dim=4)
    parts = [first, {k: v * 0.5 for k, v in first.items()}]

    def alone(part: Inputs) -> list[Tensor]:
        return [part["u"][0].mT, F.softplus(part["delta"][0]).mT, part["A"][0], part["B"][0].mT, part["C"][0].mT]

    u, delta, A, B, C = zip(*(alone(part) for part in parts), strict=True)
    together = selective_scan(
        torch.cat(u, 1), torch.cat(delta, 1), torch.cat(A), torch.stack(B, 1), torch.stack(C, 1), backend=anything.name
    )
    apart = torch.cat([selective_scan(*alone(part), backend="reference") for part in parts], 1)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [FP64, FP32, BF16])
def test_strided_inputs_as_the_mixer_has_them(backend: Compared, dtype: torch.dtype) -> None:
    backend.needs(dtype)
    directions, batch, length, dim, state, rank = 2, 2, 13, 6, 3, 2
    base = scan_inputs(backend, directions, batch, length, dim, state, dtype)
    xz0 = backend.random(batch, length, 2 * dim, dtype=dtype)
    projected0 = backend.random(directions, batch, length, rank + 2 * state, dtype=dtype)
    weight0, bias0 = conv_inputs(backend, directions, dim=dim, dtype=dtype)["weight"], base["delta_bias"]

    def mixer(backend: object) -> dict[str, Tensor]:
        xz, projected, weight = (t.detach().requires_grad_() for t in (xz0, projected0, weight0))
        x, z = xz.chunk(2, dim=-1)
        _, B, C = projected.split([rank, state, state], dim=-1)
        assert not any(t.is_contiguous() for t in (x, z, B, C))
        u = causal_conv(x, weight, bias0, backend=backend)
        out = directional_scan(u, base["delta"], base["A"], B, C, base["D"], z, base["delta_bias"], backend=backend)
        out.transpose(0, 1).cumsum(0).sum().backward()  # an expanded, non-contiguous gradient
        return {"out": out.detach(), "xz": xz.grad, "projected": projected.grad, "weight": weight.grad}

    assert_close(mixer(backend.module), mixer(reference), {FP64: 1e-12, FP32: 2e-5, BF16: 3e-2}[dtype])


# numerical range


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # of Triton's interpreter: 1 / (1 + inf) is meant
def test_large_delta_gives_no_nan(anything: Compared) -> None:
    inputs = scan_inputs(anything, batch=1, length=10 if anything.interpreted else 30)
    inputs["delta"] = torch.full_like(inputs["delta"], 20.0)
    inputs["delta"][:, :, ::3] = -100.0
    inputs["delta"][:, :, 1::3] = 200.0
    results = with_gradients(directional_scan, inputs, backend=anything.module)
    for name, value in results.items():
        assert value.isfinite().all(), name
    exact = with_gradients(directional_scan, as_double(inputs), backend=reference)
    assert_close(as_double(results), exact, 5e-5)


@pytest.mark.parametrize("fastest", [-1e2, -1e4, 15.0])
def test_decays_beyond_the_range_of_float32(backend: Compared, fastest: float) -> None:
    """One channel's states vanish in a step, or grow; those beside it are as ever."""
    u, delta, B, C = (backend.random(1, 1, 3, n, seed=n) for n in (20, 21, 4, 5))
    A = -backend.random(1, 20, 4).exp()
    A[0, 11] = fastest
    inputs = {"u": u, "delta": delta[..., :20].abs(), "A": A, "B": B, "C": C[..., :4]}

    def run(backend: object, **inputs: Tensor | None) -> Tensor:
        return directional_scan(**inputs, D=None, z=None, delta_bias=None, backend=backend)  # type: ignore[arg-type]

    found = with_gradients(run, inputs, backend=backend.module)
    assert_close(as_double(found), with_gradients(run, as_double(inputs), backend=reference), 1e-4)


def test_small_delta_keeps_its_relative_accuracy(backend: Compared) -> None:
    """softplus(x) is e^x for x << 0: a kernel that rounds it through 1 + e^x would lose it."""
    u, B, A = torch.ones(1, 1, 1, 16), torch.ones(1, 1, 1, 1), torch.zeros(1, 16, 1)
    delta = torch.linspace(-60, 30, 16).view(1, 1, 1, 16)
    inputs = (x.to(backend.device) for x in (u, delta, A, B, B))
    y = directional_scan(*inputs, None, None, None, backend=backend.module)
    exact = F.softplus(delta.double())
    torch.testing.assert_close(y.cpu().double(), exact[0], rtol=5e-6, atol=0)


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_narrow_streams_keep_a_float32_state(anything: Compared, dtype: torch.dtype) -> None:
    anything.needs(dtype)
    inputs = scan_inputs(anything, batch=1, length=10 if anything.interpreted else 40, dim=8, dtype=dtype)
    narrow = with_gradients(directional_scan, inputs, backend=anything.module)
    wide = with_gradients(directional_scan, {k: v.float() for k, v in inputs.items()}, backend=reference)
    assert narrow["out"].dtype == dtype
    assert narrow["grad_u"].dtype == dtype
    assert narrow["grad_A"].dtype == FP32
    # one rounding of the result, not one per step
    assert_close(as_double(narrow), as_double(wide), TOLERANCE[BF16] if anything.interpreted else 1e-2)


def test_autocast_leaves_the_state_wide(anything: Compared) -> None:
    inputs = scan_inputs(anything, dtype=BF16)
    plain = with_gradients(directional_scan, inputs, backend=anything.module)
    with torch.autocast(anything.device.type, BF16):
        cast = with_gradients(directional_scan, inputs, backend=anything.module)
    assert_close(cast, plain, 0.0)


def test_mixed_types_are_settled(anything: Compared) -> None:
    inputs = scan_inputs(anything, dtype=BF16)
    inputs["delta"] = inputs["delta"].float()
    results = with_gradients(directional_scan, inputs, backend=anything.name)
    assert results["out"].dtype == BF16
    assert results["grad_u"].dtype == BF16
    assert results["grad_delta"].dtype == FP32


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


@pytest.mark.parametrize("name", ["cpu", "chunked"])
def test_the_whole_state_never_exists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, sizes = compared(name, monkeypatch), (2, 1, 256, 16, 16)
    directions, batch, length, dim, state = sizes
    with LargestTensor() as seen:
        with_gradients(directional_scan, scan_inputs(backend, *sizes), backend=backend.module)
    assert 0 < seen.largest <= directions * batch * length * dim * state // 4


@pytest.mark.parametrize("name", ["cpu", "chunked"])
def test_saved_for_backward_is_a_small_multiple_of_the_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = compared(name, monkeypatch)
    inputs = {k: v.requires_grad_() for k, v in scan_inputs(backend, 2, 1, 256, 16, 16).items()}
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        directional_scan(**inputs, backend=backend.module)
    given_in = sum(v.numel() for v in inputs.values())
    assert sum(saved) <= given_in + inputs["u"].numel()


def test_two_runs_agree_to_the_bit(anything: Compared) -> None:
    if anything.name == "mamba_ssm":
        pytest.skip("its kernels add with atomics")
    for function, inputs in (
        (directional_scan, scan_inputs(anything, *((1, 1, 5) if anything.interpreted else (2, 3, 33)), 40, 16)),
        (causal_conv, conv_inputs(anything, 2, 1, 9, 5, 4)),
    ):
        first = with_gradients(function, inputs, backend=anything.module)
        assert_close(with_gradients(function, inputs, backend=anything.module), first, 0.0)


@pytest.mark.parametrize(("directions", "dtype"), [(2, BF16), (2, FP32), (1, FP16), (1, FP32)])
def test_the_result_is_recomputed_to_the_bit(backend: Compared, directions: int, dtype: torch.dtype) -> None:
    """By the passes of a backend that has them; what they save is the sum of the directions before the gate."""
    backend.needs(dtype)
    if backend.module.passes is None:
        pytest.skip(f"{backend.name} has no passes of its own")
    named = scan_inputs(backend, directions, 1, 3, 6, 4, dtype)
    _, named["z"] = backend.random(1, 3, 12, dtype=dtype).chunk(2, dim=-1)
    inputs = ScanTensors(**named)
    out, saved = backend.module.passes.scan_forward(inputs, True)
    ungated = directional_scan(**named | {"z": None}, backend=backend.module)
    assert torch.equal(saved[0], ungated)
    streams = (inputs.u, inputs.delta, inputs.B, inputs.C, inputs.z)
    grads = StreamGrads(*(x.new_empty(x.shape) for x in streams))
    recomputed = torch.empty_like(out)
    backend.module.passes.scan_backward(torch.ones_like(out), inputs, saved, True, grads, recomputed)
    assert torch.equal(recomputed, out)
    assert not torch.equal(recomputed, ungated)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "relative"), [(FP32, 1e-4), (BF16, 2e-2)])
@pytest.mark.parametrize("name", ["triton", "chunked", "mamba_ssm"])
def test_backends_agree_at_the_models_size(
    name: str, dtype: torch.dtype, relative: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = compared(name, monkeypatch)
    monkeypatch.undo()  # chunks as long as they are
    backend.needs(dtype)
    equals_the_reference(directional_scan, backend, scan_inputs(backend, 2, 4, 197, 384, 16, dtype), relative)
    equals_the_reference(causal_conv, backend, conv_inputs(backend, 2, 4, 197, 384, 4, dtype), relative)
