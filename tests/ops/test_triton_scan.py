"""The Triton scan: its kernels against the equations, on a GPU where there is one, else under Triton's interpreter."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from famba.errors import InputError
from famba.mixer import Mixer
from famba.ops import available, causal_conv, choose, directional_scan
from famba.ops.dispatch import BY_NAME
from famba.ops.triton import launch, scan
from famba.ops.types import ScanTensors, StreamGrads
from tests.helpers.triton_cases import DEVICE, INTERPRETED, run_under_the_interpreter, with_kernels

Inputs = dict[str, Tensor | None]
# the interpreter truncates to bfloat16 where a GPU rounds
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK", 8)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def scan_inputs(
    directions: int, batch: int, length: int, dim: int, state: int, dtype: torch.dtype = torch.float32
) -> Inputs:
    return {
        "u": random(directions, batch, length, dim, dtype=dtype),
        "delta": (random(directions, batch, length, dim) - 1).to(dtype),
        "A": -random(directions, dim, state).exp(),
        "B": random(directions, batch, length, state, dtype=dtype),
        "C": random(directions, batch, length, state, dtype=dtype).flip(-1),
        "D": random(directions, dim),
        "z": random(batch, length, dim, dtype=dtype),
        "delta_bias": random(directions, dim).cos(),
    }


def conv_inputs(
    directions: int, batch: int, length: int, dim: int, width: int, dtype: torch.dtype = torch.float32
) -> Inputs:
    return {
        "x": random(batch, length, dim, dtype=dtype),
        "weight": random(directions, dim, width),
        "bias": random(directions, dim),
    }


def with_gradients(function: Callable[..., Tensor], inputs: Inputs, backend: str) -> dict[str, Tensor]:
    """The result and the gradient of every input, for a fixed gradient of the result."""
    leaves = {name: None if x is None else x.detach().requires_grad_() for name, x in inputs.items()}
    out = function(**leaves, backend=backend)
    out.backward(random(*out.shape).sin().to(out.dtype))
    return {"out": out.detach()} | {name: x.grad for name, x in leaves.items() if x is not None}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    """Every entry within `relative` of the largest value of the expected tensor; same types."""
    for name, want in expected.items():
        got = actual[name]
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        error, scale = (got.double() - want.double()).abs().max(), want.double().abs().max()
        assert error <= relative * scale, f"{name}: off by {error:.2e} of {scale:.2e}"


@pytest.mark.slow
def test_the_kernels_under_the_interpreter() -> None:
    run_under_the_interpreter(__file__)


# the scan


@with_kernels
@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize(
    ("directions", "batch", "length", "dim", "state"),
    [
        (2, 2, 9, 5, 4),
        (2, 1, 18, 20, 16),
        (1, 1, 8, 40, 16),  # two blocks of channels
        (2, 1, 3, 19, 7),
        (1, 2, 1, 1, 1),
        (2, 1, 12, 9, 33),  # a chunk and one segment
    ],
)
def test_result_and_gradients(directions: int, batch: int, length: int, dim: int, state: int) -> None:
    inputs = scan_inputs(directions, batch, length, dim, state)
    expected = with_gradients(directional_scan, inputs, "reference")
    assert_close(with_gradients(directional_scan, inputs, "triton"), expected, TOLERANCE[torch.float32])


@with_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_streams_keep_a_float32_state(dtype: torch.dtype) -> None:
    inputs = scan_inputs(2, 1, 10, 6, 4, dtype)
    expected = with_gradients(directional_scan, inputs, "reference")
    assert_close(with_gradients(directional_scan, inputs, "triton"), expected, TOLERANCE[dtype])
    inputs = conv_inputs(2, 1, 10, 6, 4, dtype)
    expected = with_gradients(causal_conv, inputs, "reference")
    assert_close(with_gradients(causal_conv, inputs, "triton"), expected, TOLERANCE[dtype])


@with_kernels
@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("missing", [("z",), ("D",), ("delta_bias",), ("z", "D", "delta_bias")])
def test_optional_inputs(missing: tuple[str, ...]) -> None:
    inputs = scan_inputs(2, 1, 10, 5, 4) | dict.fromkeys(missing)
    expected = with_gradients(directional_scan, inputs, "reference")
    assert_close(with_gradients(directional_scan, inputs, "triton"), expected, TOLERANCE[torch.float32])


@with_kernels
def test_without_softplus_delta_is_taken_as_it_is() -> None:
    inputs = scan_inputs(2, 1, 10, 5, 4)
    inputs["delta"] = inputs["delta"].abs()
    inputs["delta_bias"] = inputs["delta_bias"].abs()

    def raw(backend: str, **inputs: Tensor | None) -> Tensor:
        return BY_NAME[backend].scan(ScanTensors(**inputs), softplus=False)

    expected = with_gradients(raw, inputs, "reference")
    assert_close(with_gradients(raw, inputs, "triton"), expected, TOLERANCE[torch.float32])


@with_kernels
def test_small_delta_keeps_its_relative_accuracy() -> None:
    """softplus(x) is e^x for x << 0: a kernel that rounds it through 1 + e^x would lose it."""
    u, B, A = torch.ones(1, 1, 1, 16), torch.ones(1, 1, 1, 1), torch.zeros(1, 16, 1)
    delta = torch.linspace(-60, 30, 16).view(1, 1, 1, 16)
    inputs = (x.to(DEVICE) for x in (u, delta, A, B, B))
    y = directional_scan(*inputs, None, None, None, backend="triton")
    exact = torch.nn.functional.softplus(delta.double())
    torch.testing.assert_close(y.cpu().double(), exact[0], rtol=5e-6, atol=0)


@with_kernels
@pytest.mark.usefixtures("short_chunks")
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # of the interpreter: 1 / (1 + inf) is meant
def test_large_delta_gives_no_nan() -> None:
    inputs = scan_inputs(2, 1, 10, 5, 4)
    inputs["delta"][:, :, ::3] = -100.0
    inputs["delta"][:, :, 1::3] = 200.0
    expected = with_gradients(directional_scan, inputs, "reference")
    assert_close(with_gradients(directional_scan, inputs, "triton"), expected, 5e-5)


@with_kernels
@pytest.mark.usefixtures("short_chunks")
def test_strided_inputs_as_the_mixer_has_them() -> None:
    directions, batch, length, dim, state, rank = 2, 2, 9, 6, 3, 2
    base = scan_inputs(directions, batch, length, dim, state)
    xz0, projected0 = random(batch, length, 2 * dim), random(directions, batch, length, rank + 2 * state)
    weight0 = random(directions, dim, 4)

    def mixer(backend: str) -> dict[str, Tensor]:
        xz, projected, weight = (t.detach().requires_grad_() for t in (xz0, projected0, weight0))
        x, z = xz.chunk(2, dim=-1)
        _, B, C = projected.split([rank, state, state], dim=-1)
        assert not any(t.is_contiguous() for t in (x, z, B, C))
        u = causal_conv(x, weight, base["D"], backend=backend)
        out = directional_scan(u, base["delta"], base["A"], B, C, base["D"], z, base["delta_bias"], backend=backend)
        out.transpose(0, 1).cumsum(0).sum().backward()  # an expanded, non-contiguous gradient
        return {"out": out.detach(), "xz": xz.grad, "projected": projected.grad, "weight": weight.grad}

    assert_close(mixer("triton"), mixer("reference"), TOLERANCE[torch.float32])


@with_kernels
@pytest.mark.usefixtures("short_chunks")
def test_two_runs_agree_to_the_bit() -> None:
    cases = ((directional_scan, scan_inputs(1, 1, 5, 33, 16)), (causal_conv, conv_inputs(2, 1, 9, 5, 4)))
    for function, inputs in cases:
        first = with_gradients(function, inputs, "triton")
        second = with_gradients(function, inputs, "triton")
        assert all(torch.equal(first[name], second[name]) for name in first)


@with_kernels
def test_saved_for_backward_is_a_fraction_of_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to one chunk the inputs and the sum of the directions; beyond, one state for each further chunk."""
    inputs = {name: x.requires_grad_() for name, x in scan_inputs(2, 1, 17, 5, 4).items()}
    own = {x.untyped_storage().data_ptr() for x in inputs.values()}
    for chunk, states in ((256, 0), (8, 2)):
        monkeypatch.setattr(scan, "CHUNK", chunk)
        extra: list[Tensor] = []

        def pack(x: Tensor, extra: list[Tensor] = extra) -> Tensor:
            if x.untyped_storage().data_ptr() not in own:
                extra.append(x)
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            directional_scan(**inputs, backend="triton")
        assert sum(x.numel() for x in extra) == inputs["z"].numel() + states * inputs["A"].numel()


@with_kernels
@pytest.mark.parametrize(("directions", "dtype"), [(2, torch.bfloat16), (2, torch.float32), (1, torch.float16)])
def test_the_result_is_made_again_to_the_bit(directions: int, dtype: torch.dtype) -> None:
    named = scan_inputs(directions, 1, 3, 6, 4, dtype)
    _, named["z"] = random(1, 3, 12, dtype=dtype).chunk(2, dim=-1)
    inputs = ScanTensors(**named)
    out, kept = scan.scan_forward(inputs, softplus=True)
    ungated = directional_scan(**named | {"z": None}, backend="triton")
    assert torch.equal(kept[0], ungated)
    streams = (inputs.u, inputs.delta, inputs.B, inputs.C, inputs.z)
    grads, again = StreamGrads(*(torch.empty(x.shape, dtype=x.dtype) for x in streams)), torch.empty_like(out)
    scan.scan_backward(torch.ones_like(out), inputs, kept, True, grads, again)
    assert torch.equal(again, out)
    assert not torch.equal(again, ungated)


@with_kernels
@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("autocast", [False, True])
def test_mixer(autocast: bool) -> None:
    def mixed(backend: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        mixer = Mixer(12, d_state=5, expand=3, d_conv=3, dt_rank=2, backend=backend)
        mixer.reset_parameters(depth=4)
        mixer.to(DEVICE)
        hidden = random(2, 9, 12).requires_grad_()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=autocast):
            out = mixer(hidden)
        out.backward(random(*out.shape).sin().to(out.dtype))
        grads = {name: p.grad for name, p in mixer.named_parameters()}
        return {"out": out.detach(), "hidden": hidden.grad} | grads

    # autocast rounds between the scan and the products too, and so do both
    tolerance = 2 * TOLERANCE[torch.bfloat16] if autocast else TOLERANCE[torch.float32]
    assert_close(mixed("triton"), mixed("reference"), tolerance)


# the convolution


@with_kernels
@pytest.mark.parametrize(("directions", "batch", "length", "dim", "width"), [(2, 2, 33, 20, 4), (1, 1, 5, 70, 2)])
def test_convolution(directions: int, batch: int, length: int, dim: int, width: int) -> None:
    inputs = conv_inputs(directions, batch, length, dim, width)
    expected = with_gradients(causal_conv, inputs, "reference")
    assert_close(with_gradients(causal_conv, inputs, "triton"), expected, TOLERANCE[torch.float32])


@with_kernels
@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("length", [2, 11])
def test_convolution_over_several_blocks_of_positions(length: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CONVOLVED", (4, 8))
    inputs = conv_inputs(2 - width % 2, 1, length, 5, width)
    expected = with_gradients(causal_conv, inputs, "reference")
    assert_close(with_gradients(causal_conv, inputs, "triton"), expected, TOLERANCE[torch.float32])


# what it refuses


@pytest.mark.skipif(INTERPRETED, reason="says what happens without the interpreter")
def test_a_cpu_is_refused_with_a_reason() -> None:
    assert ("triton", False, "needs a CUDA device") in available("cpu")
    with pytest.raises(InputError, match="'triton' needs a CUDA device; choose auto or one of"):
        choose("cpu", requested="triton")


def test_what_the_kernels_do_not_take() -> None:
    assert launch.unavailable(torch.device("meta"), torch.float32) == "runs on CUDA devices, not on meta"
    x = torch.zeros(1, 1, 1)
    with pytest.raises(InputError, match=r"spans 2\^31 elements"):
        launch.strided(torch.empty(1, 2**31, 1, device="meta"))
    with pytest.raises(InputError, match="width 9, expected at most 8"):
        BY_NAME["triton"].conv(x, torch.zeros(1, 1, 9), torch.zeros(1, 1))
    stream, states = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 257)
    with pytest.raises(InputError, match="state size 257, expected at most 256"):
        BY_NAME["triton"].scan(ScanTensors(stream, stream, states[0], states, states, None, None, None), True)


@with_kernels
def test_float64_is_refused_with_a_reason() -> None:
    assert "not float64" in (launch.unavailable(DEVICE, torch.float64) or "")


# on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("backend", ["triton", "chunked", "mamba_ssm"])
def test_backends_agree_at_the_models_size(backend: str, dtype: torch.dtype, relative: float) -> None:
    reason = BY_NAME[backend].unavailable(DEVICE, dtype)
    if reason is not None:
        pytest.skip(f"{backend} {reason}")
    inputs = scan_inputs(2, 4, 197, 384, 16, dtype)
    expected = with_gradients(directional_scan, inputs, "reference")
    assert_close(with_gradients(directional_scan, inputs, backend), expected, relative)
    inputs = conv_inputs(2, 4, 197, 384, 4, dtype)
    expected = with_gradients(causal_conv, inputs, "reference")
    assert_close(with_gradients(causal_conv, inputs, backend), expected, relative)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
def test_forward_and_backward_are_captured_as_a_cuda_graph() -> None:
    inputs = scan_inputs(2, 2, 50, 64, 16, torch.bfloat16)
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    dout = random(2, 50, 64, dtype=torch.bfloat16)

    def step() -> tuple[Tensor, ...]:
        out = directional_scan(**leaves, backend="triton")
        return out, *torch.autograd.grad(out, list(leaves.values()), dout)

    expected = step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(got, want) for got, want in zip(captured, expected, strict=True))
