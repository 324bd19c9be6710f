"""Types and devices that PyTorch lets a user choose: each gives the right value, or one line says why not."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from famba.errors import InputError
from famba.fusion import match
from famba.model import VisionMamba
from famba.native.memory import address, stream
from famba.rows import cpu

HALVES = [torch.bfloat16, torch.float16]
TYPES = [torch.float32, torch.float64, *HALVES]


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def model(scan: str = "auto") -> VisionMamba:
    torch.manual_seed(0)
    return VisionMamba(32, 2, num_classes=10, img_size=32, patch_size=8, fusion=[0, 4], scan=scan)


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def result(net: nn.Module, images: torch.Tensor, context=nullcontext) -> list[torch.Tensor]:
    """Logits, and the gradients of all parameters, in float64."""
    with context():
        logits = net(images)
    logits.double().square().sum().backward()
    return [logits.detach().double(), *(p.grad.double() for p in net.parameters())]


@pytest.fixture(scope="module")
def expected():
    return result(model().double(), IMAGES.double())


def close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for value, right in zip(found, expected, strict=True):
        assert value.isfinite().all()
        assert (value - right).norm() <= tolerance * (right.norm() + 1e-3)


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("default", TYPES)
def test_autocast(dtype, default, expected):
    """Of a float32 model, whatever the default type is."""
    net = model()
    with default_dtype(default):
        found = result(net, IMAGES, lambda: torch.autocast("cpu", dtype))
    close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("default", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_model_of_another_type(dtype, default, expected):
    """`model.to(dtype)`, such as `half()`, under every default type."""
    net = model().to(dtype)
    with default_dtype(default):
        found = result(net, IMAGES.to(dtype))
    close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("default", TYPES)
def test_a_model_built_under_another_default_type(default, expected):
    with default_dtype(default):
        net = model()
    assert net.head.weight.dtype == default
    net.load_state_dict(model().state_dict())
    close(result(net, IMAGES.to(default)), expected, TOLERANCE[default])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("part", ["norm", "mixer.A_log", "mixer.dt_proj", "mixer.conv1d", "pos_embed"])
def test_some_parameters_of_another_type_under_autocast(dtype, part, expected):
    net = model()
    for name, parameter in net.named_parameters():
        if part in name:
            parameter.data = parameter.data.to(dtype)
    found = result(net, IMAGES, lambda: torch.autocast("cpu", dtype))
    close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("default", ["meta", "cpu"])
def test_another_default_device(default, expected):
    net, images = model(), IMAGES.clone()
    torch.set_default_device(default)
    try:
        found = result(net, images)
    finally:
        torch.set_default_device(None)
    close(found, expected, TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_backend_that_cannot_run_the_type_is_refused(dtype):
    """A request is met or refused; the type that counts is the one that runs, autocast's included."""
    net = model(scan="cpu").to(dtype)
    with pytest.raises(InputError, match=f"takes float32 and bfloat16, not {str(dtype).removeprefix('torch.')}"):
        net(IMAGES.to(dtype))
    if dtype == torch.float16:
        with torch.autocast("cpu", dtype), pytest.raises(InputError, match="not float16"):
            model(scan="cpu")(IMAGES)


@pytest.mark.parametrize("default", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_merging(dtype, default):
    x = torch.randn(2, 17, 8, generator=torch.Generator().manual_seed(2))
    right = match(x.double(), 4, 8).merge(x.double())
    with default_dtype(default):
        found = match(x, 4, 8).merge(x.to(dtype))
    assert found.dtype == dtype
    close([found.double()], [right], TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), "needs a torch.float32 tensor"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), "found a torch.bfloat16 tensor"),
        (torch.zeros(3, 2), r"needs a torch.float32 tensor \(2, 3\)"),
        (torch.zeros(3, 2).t(), "contiguous"),
        (torch.zeros(2, 3, device="meta"), "on the CPU, found .* on meta"),
    ],
)
def test_an_address_is_of_what_the_kernel_reads(tensor, says):
    with pytest.raises(TypeError, match=says):
        address(tensor, torch.float32, (2, 3))
    with pytest.raises(TypeError, match="kernel needs"):
        stream(tensor[None], torch.float32, (1, 2, 3))
    assert address(torch.zeros(2, 3), torch.float32, (2, 3))
    assert address(None, torch.float32, (2, 3)) is None


def test_kernels_refuse_what_they_cannot_read():
    x = torch.randn(2, 9, 4)
    pairs = match(x, 3)
    group, size, _ = pairs._rows("sequence")
    with pytest.raises(TypeError, match="float64"):
        cpu.merge(x.double(), pairs.kept, pairs.source, group, size)
    with pytest.raises(TypeError, match="bfloat16"):
        cpu.merge(x, pairs.kept, pairs.source, group, size.bfloat16())
    with pytest.raises(TypeError, match=r"needs a torch.int64 tensor \(18,\)"):
        cpu.merge(x, pairs.kept, pairs.source, group[:-1], size)
    with pytest.raises(TypeError, match="int32"):
        cpu.groups(pairs.kept.int(), pairs.source, pairs.target, None, 9)
    with pytest.raises(TypeError, match="float16"):
        cpu.match(x.half(), 3, None)
    with pytest.raises(TypeError, match="float64"):
        cpu.norm(x, x.double(), torch.ones(4), 1e-5, torch.float32)
