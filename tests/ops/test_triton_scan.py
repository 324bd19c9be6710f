"""What is the Triton scan's own: chunks, blocks of positions, what it refuses, CUDA graphs."""

import pytest
import torch
from torch import Tensor

from famba.errors import InputError
from famba.ops import available, causal_conv, choose, directional_scan
from famba.ops.dispatch import BY_NAME
from famba.ops.triton import launch, scan
from famba.ops.types import ScanTensors
from tests.helpers.backends import DEVICE, INTERPRETED, TRITON, Compared, compared
from tests.helpers.scan_cases import BF16, FP32, TOLERANCE, conv_inputs, equals_the_reference, scan_inputs


@pytest.fixture(params=[TRITON])
def triton(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compared:
    return compared(request.param, monkeypatch)


def test_saved_for_backward_is_a_fraction_of_the_streams(triton: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to one chunk the inputs and the sum of the directions; beyond, one state for each further chunk."""
    inputs = {name: x.requires_grad_() for name, x in scan_inputs(triton, 2, 1, 17, 5, 4).items()}
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


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("length", [2, 11])
def test_convolution_over_several_blocks_of_positions(
    triton: Compared, length: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CONVOLVED", (4, 8))
    inputs = conv_inputs(triton, 2 - width % 2, 1, length, 5, width)
    equals_the_reference(causal_conv, triton, inputs, TOLERANCE[FP32])


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


def test_float64_is_refused_with_a_reason(triton: Compared) -> None:
    assert "not float64" in (launch.unavailable(triton.device, torch.float64) or "")


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
def test_forward_and_backward_are_captured_as_a_cuda_graph(triton: Compared) -> None:
    inputs = scan_inputs(triton, 2, 2, 50, 64, 16, BF16)
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    dout = triton.random(2, 50, 64, dtype=BF16)

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
