"""What is the C++ scan's own: sequences of several chunks, the exponential, threads."""

import ctypes
from functools import cache

import pytest
import torch

from famba.ops import causal_conv, directional_scan, reference
from famba.ops.cpp import backend, scan
from tests.helpers.backends import CPP, Compared, compared
from tests.helpers.scan_cases import as_double, assert_close, conv_inputs, scan_inputs, with_gradients

HERE = Compared("cpu", backend, torch.device("cpu"))
pytestmark = pytest.mark.usefixtures("cpp_kernels")


@pytest.fixture(params=CPP)
def cpp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compared:
    """With the kernels of each instruction set that this machine has."""
    return compared(request.param, monkeypatch)


@cache
def several_chunks() -> dict[str, torch.Tensor]:
    """What every instruction set must come to, in float64."""
    return with_gradients(directional_scan, as_double(scan_inputs(HERE, 2, 1, 4000, 5, 3)), backend=reference)


def test_a_sequence_of_several_chunks(cpp: Compared) -> None:
    """4000 steps fill the backward scratch more than once on every instruction set; the state crosses the cuts."""
    inputs = scan_inputs(cpp, 2, 1, 4000, 5, 3)
    found = with_gradients(directional_scan, inputs, backend=cpp.module)
    assert_close(as_double(found), several_chunks(), 5e-5)


@pytest.mark.usefixtures("cpp")
def test_exp_is_accurate() -> None:
    x = torch.arange(-10_000, 10_001) / 1000
    y = torch.empty_like(x)
    scan.library().vector_exp(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()), ctypes.c_int64(x.numel()))
    exact = x.double().exp()
    # the product x log2(e) is rounded, which the exponential magnifies by |x|
    assert ((y - exact).abs() / exact <= 2e-7 + 1e-7 * x.abs()).all()
    assert y[10_000] == 1  # at 0, exactly


def test_the_result_does_not_depend_on_threads() -> None:
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            scanned = with_gradients(directional_scan, scan_inputs(HERE, 2, 5, 19, 70, 16), backend="cpu")
            convolved = with_gradients(causal_conv, conv_inputs(HERE, 2, 3, 19, 70, 4), backend="cpu")
            runs.append([*scanned.values(), *convolved.values()])
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_float64_is_refused_with_a_reason() -> None:
    assert "not float64" in (backend.unavailable(torch.device("cpu"), torch.float64) or "")
