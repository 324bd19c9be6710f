"""Scan, convolution and matching at random shapes: the backends that run on every CPU against the reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from famba.ops import causal_conv, directional_scan
from famba.ops.cpp import backend as cpp
from tests.helpers.backends import Compared, compared
from tests.helpers.match_cases import matches_the_reference
from tests.helpers.scan_cases import conv_inputs, equals_the_reference, scan_inputs


@pytest.mark.parametrize("name", ["cpu", "chunked"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    directions=st.integers(1, 2),
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    dim=st.integers(1, 40),
    state=st.integers(1, 20),
)
def test_any_shape(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    directions: int,
    batch: int,
    length: int,
    dim: int,
    state: int,
) -> None:
    backend = compared(name, monkeypatch)
    # inputs are of order 1; a gradient that cancels to a small number keeps their rounding error
    equals_the_reference(
        directional_scan, backend, scan_inputs(backend, directions, batch, length, dim, state), 5e-5, smallest=0.1
    )


@pytest.mark.parametrize("name", ["cpu", "chunked"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    directions=st.integers(1, 2),
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    dim=st.integers(1, 40),
    width=st.integers(1, 6),
)
def test_any_convolution(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    directions: int,
    batch: int,
    length: int,
    dim: int,
    width: int,
) -> None:
    backend = compared(name, monkeypatch)
    inputs = conv_inputs(backend, directions, batch, length, dim, width)
    equals_the_reference(causal_conv, backend, inputs, 2e-5, smallest=0.1)


@pytest.mark.usefixtures("cpp_kernels")
@settings(deadline=None, max_examples=100)
@given(tokens=st.integers(4, 80), share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_matching_of_any_size(tokens: int, share: float, seed: int) -> None:
    cls = torch.randint(tokens, (3,), generator=torch.Generator().manual_seed(seed))
    matches_the_reference(Compared("cpu", cpp, torch.device("cpu")), tokens, 5, int(share * ((tokens - 1) // 2)), cls)
