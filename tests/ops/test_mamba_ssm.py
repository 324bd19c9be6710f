"""The layout around mamba-ssm's kernels, with their signatures on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from famba.errors import InputError
from famba.ops import causal_conv, directional_scan, mamba_ssm, selective_scan
from famba.ops.types import ScanTensors
from tests.helpers.backends import Compared
from tests.helpers.scan_cases import FP64, assert_close, conv_inputs, scan_inputs, with_gradients

HERE = Compared("mamba_ssm", mamba_ssm, torch.device("cpu"))


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
        return mamba_ssm.scan(ScanTensors(**inputs), softplus=True)

    inputs = scan_inputs(HERE, directions, dtype=FP64) | dict.fromkeys(missing)
    expected = with_gradients(through_kernels, inputs, backend="reference")
    assert_close(with_gradients(through_kernels, inputs, backend="mamba_ssm"), expected, 1e-12)


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("directions", [1, 2])
def test_layout_around_causal_conv1ds_kernel(directions: int) -> None:
    def through_kernel(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
        return causal_conv(x, weight, bias, backend) if backend == "reference" else mamba_ssm.conv(x, weight, bias)

    inputs = conv_inputs(HERE, directions, dtype=FP64)
    expected = with_gradients(through_kernel, inputs, backend="reference")
    assert_close(with_gradients(through_kernel, inputs, backend="mamba_ssm"), expected, 1e-12)
    with pytest.raises(InputError, match="width 5, expected 2 to 4"):
        mamba_ssm.conv(**conv_inputs(HERE, width=5, dtype=FP64))
