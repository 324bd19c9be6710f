"""Types and devices that PyTorch lets a user choose: each gives the right value, or one line says why not.

Where there is a GPU, the cases of a model run there, too: `pytest -m gpu tests/ops/test_precision.py` runs these alone.
"""

import platform
import shutil
import subprocess
import sys
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from famba.errors import InputError
from famba.fusion import match
from famba.model import VisionMamba
from famba.ops import reference
from famba.ops.cpp import backend as cpp
from famba.ops.memory import address, stream
from famba.ops.precision import slowness
from famba.ops.triton import backend as triton
from famba.ops.triton import scan as triton_scan
from famba.ops.types import ScanTensors
from tests.helpers import ROOT

HALVES = [torch.bfloat16, torch.float16]
TYPES = [torch.float32, torch.float64, *HALVES]
DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize(
    ("level", "machine", "device", "precision", "slow"),
    [
        ("AVX2", "x86_64", "cpu", "bf16", True),
        ("DEFAULT", "AMD64", "cpu", "bf16", True),
        ("AVX512", "x86_64", "cpu", "bf16", False),
        ("AVX2", "x86_64", "cpu", "fp32", False),
        ("AVX2", "x86_64", "cuda", "bf16", False),
        ("DEFAULT", "aarch64", "cpu", "bf16", False),
    ],
)
def test_bf16_is_called_slow_where_no_library_multiplies_it(monkeypatch, level, machine, device, precision, slow):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    said = slowness(torch.device(device), precision)
    assert (said is not None and "precision: fp32 is faster" in said) == slow


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch) -> str:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as in trainings (famba/system/float32.py)
    return request.param


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def model(scan: str = "auto", device: str = "cpu") -> VisionMamba:
    torch.manual_seed(0)
    return VisionMamba(32, 2, num_classes=10, img_size=32, patch_size=8, fusion=[0, 4], scan=scan).to(device)


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def result(net: nn.Module, images: torch.Tensor, context=nullcontext) -> list[torch.Tensor]:
    """Logits, and the gradients of all parameters, in float64. The images go to where the model is."""
    with context():
        logits = net(images.to(next(net.parameters()).device))
    logits.double().square().sum().backward()
    return [tensor.double().to("cpu") for tensor in (logits.detach(), *(p.grad for p in net.parameters()))]


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
def test_autocast(dtype, default, device, expected):
    """Of a float32 model, whatever the default type is."""
    net = model(device=device)
    with default_dtype(default):
        found = result(net, IMAGES, lambda: torch.autocast(device, dtype))
    close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("default", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_model_of_another_type(dtype, default, device, expected):
    """`model.to(dtype)`, such as `half()`, under every default type."""
    net = model(device=device).to(dtype)
    with default_dtype(default):
        found = result(net, IMAGES.to(dtype))
    close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("default", TYPES)
def test_a_model_built_under_another_default_type(default, device, expected):
    with default_dtype(default):
        net = model(device=device)
    assert net.head.weight.dtype == default
    net.load_state_dict(model().state_dict())
    close(result(net, IMAGES.to(default)), expected, TOLERANCE[default])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("part", ["norm", "mixer.A_log", "mixer.dt_proj", "mixer.conv1d", "pos_embed"])
def test_some_parameters_of_another_type_under_autocast(dtype, part, device, expected):
    net = model(device=device)
    for name, parameter in net.named_parameters():
        if part in name:
            parameter.data = parameter.data.to(dtype)
    found = result(net, IMAGES, lambda: torch.autocast(device, dtype))
    close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("scan", ["auto", "chunked", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "part", ["norm", "mixer", "A_log", "dt_proj.weight", "conv1d", "pos_embed", "head", "layers.1"]
)
def test_some_parameters_of_another_type(dtype, part, scan, device, expected):
    """Without autocast: each layer runs in the type of the norm before it, whatever the type of its parameters."""
    net = model(scan, device)
    for name, parameter in net.named_parameters():
        if part in name:
            parameter.data = parameter.data.to(dtype)
    close(result(net, IMAGES), expected, 0.1 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("part", ["", "layers.0", "A_log", "head"])
@pytest.mark.parametrize("autocast", HALVES)
def test_autocast_leaves_float64(autocast, part, device, expected):
    """As PyTorch's own operators do. A float32 stream through float64 parameters is autocast's to convert."""
    net, images = model(device=device), IMAGES
    for name, parameter in net.named_parameters():
        if part in name:
            parameter.data = parameter.data.double()
    if not part:
        images = images.double()
    found = result(net, images, lambda: torch.autocast(device, autocast))
    close(found, expected, TOLERANCE[autocast] if part else TOLERANCE[torch.float64])


@pytest.mark.parametrize("scan", ["chunked", "reference"])
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_in_other_backends(dtype, scan, device, expected):
    found = result(model(scan, device), IMAGES, lambda: torch.autocast(device, dtype))
    close(found, expected, TOLERANCE[dtype])


def test_images_of_another_type_or_device_are_refused():
    for images, says in ((IMAGES.double(), "torch.float64"), (IMAGES.to("meta"), "on meta")):
        with pytest.raises(ValueError, match=says) as caught:
            model()(images)
        assert len(str(caught.value).splitlines()) == 1


def test_a_model_without_memory_has_shapes():
    net = model().to("meta")
    assert net(IMAGES.to("meta")).shape == (3, 10)


@pytest.mark.parametrize("default", ["meta", *DEVICES])
def test_another_default_device(default, device, expected):
    net, images = model(device=device), IMAGES.clone()
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_backend_that_cannot_run_on_the_gpu_is_refused():
    for net, says in (
        (model("triton", "cuda").double(), "takes float32, bfloat16 and float16, not float64"),
        (model("cpu", "cuda"), "runs on the CPU, not on cuda"),
    ):
        with pytest.raises(InputError, match=says):
            result(net, IMAGES.to(net.head.weight.dtype))


@pytest.mark.parametrize("default", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_merging(dtype, default, device):
    x = torch.randn(2, 17, 8, generator=torch.Generator().manual_seed(2))
    right = match(x.double(), 4, 8).merge(x.double())
    with default_dtype(default):
        x = x.to(device)
        found = match(x, 4, 8).merge(x.to(dtype))
    assert found.dtype == dtype
    close([found.double().to("cpu")], [right], TOLERANCE[dtype])


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
    group, size, _ = reference.groups(pairs.kept, pairs.source, pairs.target, pairs.cls, 9)
    with pytest.raises(TypeError, match="on meta"):
        cpp.merge(x.to("meta"), pairs.kept, pairs.source, group, size)
    with pytest.raises(TypeError, match="bfloat16"):
        cpp.merge(x, pairs.kept, pairs.source, group, size.bfloat16())
    with pytest.raises(TypeError, match=r"needs a torch.int64 tensor \(18,\)"):
        cpp.merge(x, pairs.kept, pairs.source, group[:-1], size)
    with pytest.raises(TypeError, match="int32"):
        cpp.groups(pairs.kept.int(), pairs.source, pairs.target, None, 9)
    with pytest.raises(TypeError, match="float16"):
        cpp.match(x.half(), 3, None)
    with pytest.raises(TypeError, match="float64"):
        cpp.norm(x, x, torch.ones(4).double(), 1e-5, torch.float32)


@pytest.mark.parametrize("kernels", [cpp, triton], ids=["cpp", "triton"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types_that_no_kernel_reads_are_the_reference_s(kernels, dtype):
    x, weight, added = torch.randn(2, 9, 4).to(dtype), torch.rand(4).to(dtype), torch.randn(2, 9, 4).double()
    wide = x.double()
    source, target, kept, _ = reference.match(wide, 3, None)
    group, size, _ = reference.groups(kept, source, target, None, 9)
    norms = {"x": (x, None, weight, 1e-5, dtype), "added": (x.float(), added, weight.float(), 1e-5, torch.float32)}
    _, rstd, total = reference.norm(*norms["x"])
    calls = [
        *(("norm", arguments) for arguments in norms.values()),
        ("norm_backward", (x, x, total, weight, rstd, torch.float32)),
        ("match", (wide, 3, None)),
        ("merge", (wide, kept, source, group, size)),
        ("merge_backward", (wide[:, :6], group, size, 9)),
    ]
    for name, arguments in calls:
        found, expected = (getattr(backend, name)(*arguments) for backend in (kernels, reference))
        for got, want in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (found, expected)), strict=True):
            assert got.dtype == want.dtype, name
            assert torch.equal(got, want), name


def test_an_index_that_leads_outside_is_refused():
    x = torch.randn(2, 9, 4)
    pairs = match(x, 3)
    group, size, _ = reference.groups(pairs.kept, pairs.source, pairs.target, pairs.cls, 9)
    for wrong in (-1, 9, 10**12):
        with pytest.raises(ValueError, match="match_tokens: an index lies outside"):
            cpp.match(x, 3, torch.tensor([0, wrong]))
        for which in range(3):
            indices = [pairs.kept.clone(), pairs.source.clone(), pairs.target.clone()]
            indices[which][1, 2] = wrong
            with pytest.raises(ValueError, match="group_tokens: an index lies outside"):
                cpp.groups(*indices, None, 9)
    with pytest.raises(ValueError, match="group_tokens"):  # token 0 goes nowhere
        cpp.groups(torch.ones_like(pairs.kept), pairs.source, pairs.target, None, 9)
    for which in range(3):
        indices = [pairs.kept.clone(), pairs.source.clone(), group.clone()]
        indices[which].view(-1)[-1] = 12
        with pytest.raises(ValueError, match="merge_forward: an index lies outside"):
            cpp.merge(x, *indices, size)
    group[3] = -1
    with pytest.raises(ValueError, match="merge_backward: an index lies outside"):
        cpp.merge_backward(x[:, :6], group, size, 9)


def test_more_than_half_cannot_be_fused():
    with pytest.raises(ValueError, match="5 tokens to fuse, expected 0 to 4"):
        cpp.match(torch.randn(2, 9, 4), 5, None)


def test_merging_refuses_another_device_and_whole_numbers():
    pairs = match(torch.randn(2, 9, 4), 3)
    for x in (torch.ones(2, 9, 4, device="meta"), torch.ones(2, 9, 4, dtype=torch.long)):
        with pytest.raises(ValueError, match="expected floating-point numbers on cpu, as matched"):
            pairs.merge(x)


def test_empty_batches(device):
    """Of no sequences there is nothing to fuse; a scan of nothing is refused."""
    x = torch.empty(0, 9, 4, device=device, requires_grad=True)
    merged = match(x, 3, protected=4).merge(x)
    assert merged.shape == (0, 6, 4)
    merged.sum().backward()
    assert x.grad.shape == x.shape
    with pytest.raises((TypeError, ValueError), match="none of its sizes may be 0"):
        result(model(device=device), IMAGES[:0])


def test_gradients_that_share_memory_are_not_written():
    with pytest.raises(TypeError, match="elements overlap"):
        stream(torch.zeros(1, 1, 4).expand(2, 3, 4), torch.float32, (2, 3, 4), written=True)


def test_a_view_that_negates_is_refused():
    negated = torch._neg_view(torch.zeros(2, 3))  # such as the imaginary part of a conjugate
    with pytest.raises(TypeError, match="negated when it is read"):
        address(negated, torch.float32, (2, 3))


def test_triton_s_kernels_refuse_what_they_cannot_read():
    """Before they start: no GPU is needed to be refused."""
    x, index = torch.randn(2, 9, 4), torch.zeros(2, 3, dtype=torch.long)
    group, size = torch.zeros(18, dtype=torch.long), torch.ones(12, 1)
    kept = torch.zeros(2, 6, dtype=torch.long)
    for call in (
        lambda: triton.norm(x, x, torch.ones(4).double(), 1e-5, torch.float32),
        lambda: triton.match(x.half(), 3, None),
        lambda: triton.match(x, 3, torch.zeros(2, dtype=torch.int32)),
        lambda: triton.groups(kept.int(), index, index, None, 9),
        lambda: triton.merge(x, kept, index, group[:-1], size),
        lambda: triton.merge(x, kept.to("meta"), index, group, size),
        lambda: triton.merge_backward(x[:, :6], group, size.double(), 9),
        lambda: triton_scan.conv_forward(x, torch.ones(2, 4, 4).double(), torch.ones(2, 4)),
        lambda: triton_scan.conv_forward(x, torch.ones(2, 4, 4), torch.ones(2, 5)),
        lambda: triton_scan.scan_forward(
            ScanTensors(*[x[None]] * 2, torch.ones(1, 4, 3), *[x[None]] * 2, None, None, None), True
        ),
    ):
        with pytest.raises(TypeError, match="a Triton kernel needs"):
            call()


def test_a_short_stress_of_all_kernels_under_the_address_sanitizer():
    if not shutil.which("g++") or cpp.unavailable(torch.device("cpu"), torch.float32):
        pytest.skip("needs g++")
    command = [sys.executable, str(ROOT / "tests" / "stress" / "kernels.py"), "120", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "120  cases under AddressSanitizer" in done.stdout
