"""The C++ scan: every instruction set of this machine, long sequences, threads."""

import ctypes

import pytest
import torch
from torch import Tensor

from famba.ops import causal_conv, directional_scan
from famba.ops.cpp import backend, build, scan

LEVELS = ("DEFAULT", "AVX2", "AVX512", "AVX512_BF16")
HERE = build.instruction_set()
pytestmark = pytest.mark.usefixtures("cpp_kernels")


@pytest.fixture(params=LEVELS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test once with the kernels of each level that this machine has."""
    if HERE not in LEVELS or LEVELS.index(request.param) > LEVELS.index(HERE):
        pytest.skip(f"this processor is {HERE}")
    monkeypatch.setattr(scan, "library", lambda: build.library(request.param))
    return request.param


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def scan_gradients(backend: str, length: int, dim: int, state: int, dtype: torch.dtype, batch: int = 2) -> list[Tensor]:
    """The result and all gradients of both directions, in float64 for comparison."""
    wide = torch.promote_types(dtype, torch.float32)
    streams = [random(2, batch, length, n, dtype=dtype) for n in (dim, dim, state, state)]
    u, delta, B, C = streams[0], streams[1] - 1, *streams[2:]
    A = -random(2, dim, state, dtype=wide).exp()
    D, bias = random(2, dim, dtype=wide), random(2, dim, dtype=wide).cos()
    inputs = [x.requires_grad_() for x in (u, delta, A, B, C, D, random(batch, length, dim, dtype=dtype), bias)]
    out = directional_scan(*inputs, backend=backend)
    grads = torch.autograd.grad(out, inputs, random(batch, length, dim, dtype=dtype).sin())
    return [x.detach().double() for x in (out, *grads)]


def conv_gradients(backend: str, length: int, dim: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    wide = torch.promote_types(dtype, torch.float32)
    inputs = (random(3, length, dim, dtype=dtype), random(2, dim, width, dtype=wide), random(2, dim, dtype=wide))
    inputs = [x.requires_grad_() for x in inputs]
    out = causal_conv(*inputs, backend=backend)
    grads = torch.autograd.grad(out, inputs, random(*out.shape, dtype=dtype))
    return [x.detach().double() for x in (out, *grads)]


def assert_close(actual: list[Tensor], expected: list[Tensor], relative: float) -> None:
    for got, want in zip(actual, expected, strict=True):
        assert (got - want).abs().max() <= relative * want.abs().max()


TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "state"), [(37, 16), (16, 5), (3, 1)])
def test_scan_on_every_instruction_set(dtype: torch.dtype, dim: int, state: int) -> None:
    expected = scan_gradients("chunked", 23, dim, state, dtype)
    assert_close(scan_gradients("cpu", 23, dim, state, dtype), expected, TOLERANCE[dtype])


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "width"), [(37, 4), (16, 1), (3, 7)])
def test_convolution_on_every_instruction_set(dtype: torch.dtype, dim: int, width: int) -> None:
    expected = conv_gradients("chunked", 23, dim, width, dtype)
    assert_close(conv_gradients("cpu", 23, dim, width, dtype), expected, TOLERANCE[dtype])


@pytest.mark.usefixtures("instruction_set")
def test_a_sequence_of_several_chunks() -> None:
    """4000 steps fill the backward scratch more than once on every instruction set; the state crosses the cuts."""
    expected = scan_gradients("chunked", 4000, 5, 3, torch.float64, batch=1)
    assert_close(scan_gradients("cpu", 4000, 5, 3, torch.float32, batch=1), expected, 5e-5)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("fastest", [-1e2, -1e4, 15.0])
def test_decays_beyond_the_range_of_float32(fastest: float) -> None:
    """One channel's states vanish in a step, or grow; those beside it are as ever."""
    u, delta, B, C = (random(1, 1, 3, n) for n in (20, 20, 4, 4))
    A = -random(1, 20, 4).exp()
    A[0, 11] = fastest
    inputs = [x.requires_grad_() for x in (u, delta.abs(), A, B, C)]

    def run(backend: str, dtype: torch.dtype) -> list[Tensor]:
        wide = [x.to(dtype) for x in inputs]
        out = directional_scan(*wide, None, None, None, backend=backend)
        return [x.detach().double() for x in (out, *torch.autograd.grad(out.sum(), inputs))]

    assert_close(run("cpu", torch.float32), run("reference", torch.float64), 1e-4)


@pytest.mark.usefixtures("instruction_set")
def test_exp_is_accurate() -> None:
    x = torch.arange(-10_000, 10_001) / 1000
    y = torch.empty_like(x)
    scan.library().vector_exp(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()), ctypes.c_int64(x.numel()))
    exact = x.double().exp()
    # the product x log2(e) is rounded, which the exponential magnifies by |x|
    assert ((y - exact).abs() / exact <= 2e-7 + 1e-7 * x.abs()).all()
    assert y[10_000] == 1  # at 0, exactly


def test_small_delta_keeps_its_relative_accuracy() -> None:
    """softplus(x) is e^x for x << 0: a kernel that rounds it through 1 + e^x would lose it."""
    u, B, A = torch.ones(1, 1, 1, 16), torch.ones(1, 1, 1, 1), torch.zeros(1, 16, 1)
    delta = torch.linspace(-60, 30, 16).view(1, 1, 1, 16)
    y = directional_scan(u, delta, A, B, B, None, None, None, backend="cpu")
    exact = torch.nn.functional.softplus(delta.double())
    torch.testing.assert_close(y.double(), exact[0], rtol=5e-6, atol=0)


def test_the_result_does_not_depend_on_threads() -> None:
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            runs.append(scan_gradients("cpu", 19, 70, 16, torch.float32, batch=5))
            runs[-1] += conv_gradients("cpu", 19, 70, 4, torch.float32)
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_float64_is_refused_with_a_reason() -> None:
    assert "not float64" in (backend.unavailable(torch.device("cpu"), torch.float64) or "")
