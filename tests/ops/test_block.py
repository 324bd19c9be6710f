"""What a block is made of, through autograd: norm, merging and mixer of every backend against float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from famba.fusion import match
from famba.mixer import Mixer
from famba.model import AddNorm, RMSNorm, VisionMamba
from famba.ops import dispatch, reference
from famba.ops.cpp import build
from famba.ops.cpp.build import BuildError
from famba.ops.norm import rms_norm
from tests.helpers.backends import CPP, EVERY, TRITON, Compared, compared

FP64, FP32, BF16, FP16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
# of a rounding to the type; Triton's interpreter truncates to bfloat16
ROUNDING = {FP32: 1e-6, BF16: 1e-2, FP16: 1e-3}


@pytest.fixture(params=[*CPP, TRITON, "reference"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compared:
    """Norm, matching and merging run on it."""
    found = compared(request.param, monkeypatch)
    monkeypatch.setattr(dispatch, "token_backend", lambda _: found.module)
    return found


def there_and_back(at: Compared, run: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result and the gradients of all inputs, in float64 for comparison."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    out = run(*inputs)
    grads = torch.autograd.grad(out, inputs, at.random(*out.shape, seed=9).to(out.dtype))
    return [x.detach().double() for x in (out, *grads)]


def assert_near(actual: list[Tensor], expected: list[Tensor], relative: float) -> None:
    for got, want in zip(actual, expected, strict=True):
        assert (got.double() - want.double()).norm() <= relative * want.double().norm()


# the norm, against torch's own


def normed(at: Compared, dtype: torch.dtype, shape: tuple[int, ...]) -> list[Tensor]:
    norm = RMSNorm(shape[-1])

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, x)

    def torchs(x: Tensor, weight: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, norm.eps)

    inputs = at.random(*shape, dtype=dtype), at.random(shape[-1], seed=1, dtype=dtype)
    return there_and_back(at, torchs if dtype == FP64 else ours, *inputs)


@pytest.mark.parametrize("shape", [(2, 65, 40), (70, 192), (7, 3), (3, 5, 16)])
def test_norm(backend: Compared, shape: tuple[int, ...]) -> None:
    assert_near(normed(backend, FP32, shape), normed(backend, FP64, shape), 1e-6)


def test_norm_of_bfloat16(backend: Compared) -> None:
    assert_near(normed(backend, BF16, (70, 40)), normed(backend, FP64, (70, 40)), 2e-2)


def test_norm_in_float64_passes_gradcheck(backend: Compared) -> None:
    norm = RMSNorm(6).to(backend.device, FP64)
    assert torch.autograd.gradcheck(norm, backend.random(2, 3, 6, dtype=FP64).requires_grad_())


def add_normed(stream: Tensor, output: Tensor | None, weight: Tensor, dtype: torch.dtype, ours: bool) -> list[Tensor]:
    """The norm of a sum, the sum, and the gradients of all three: ours, or torch's own in float64."""
    given = [x for x in (stream, output, weight) if x is not None]
    inputs = [x.detach().to(FP32 if ours else FP64) if x.dtype == FP32 else x.detach() for x in given]
    *streams, weight = (x.requires_grad_() for x in inputs)
    norm = AddNorm(weight.shape[0])
    if ours:
        streams_of = (*streams, *(() if output is not None else (None,)), dtype)
        out = torch.func.functional_call(norm, {"weight": weight}, streams_of)
    else:
        total = sum(x.to(FP64) for x in streams)
        out = torch.nn.functional.rms_norm(total, total.shape[-1:], weight, norm.eps), total
    generator = torch.Generator().manual_seed(3)
    grads = [torch.randn(x.shape, generator=generator).to(x.device) for x in out]
    grads = [grads[0].to(dtype).to(out[0].dtype), grads[1].to(out[1].dtype)]
    return [*out, *torch.autograd.grad(out, inputs, grads)]


@pytest.mark.parametrize(("shape", "dtype"), [((2, 65, 40), FP32), ((70, 192), BF16), ((3, 16), FP16)])
@pytest.mark.parametrize("added", [None, FP32, BF16, FP16])
def test_add_and_norm(backend: Compared, shape: tuple[int, ...], dtype: torch.dtype, added: torch.dtype | None) -> None:
    output = None if added is None else backend.random(*shape, seed=1, dtype=added)
    inputs = backend.random(*shape), output, backend.random(shape[-1], seed=2)
    found, expected = (add_normed(*inputs, dtype, ours) for ours in (True, False))
    near = 1e-6 if backend.name == "cpu" else 2e-6
    assert found[0].dtype == dtype
    assert_near(found[:1], expected[:1], ROUNDING[dtype])
    assert_near(found[1:2], expected[1:2], 1e-6)
    assert_near(found[2:3], expected[2:3], near)
    if added is not None:
        assert found[3].dtype == added
        assert_near(found[3:4], expected[3:4], near if added == FP32 else ROUNDING[added] + 1e-6)
    assert_near(found[-1:], expected[-1:], near)


def test_norm_saves_its_input_and_one_number_a_row(backend: Compared) -> None:
    x, saved = backend.random(4, 65, 40).requires_grad_(), []
    norm = RMSNorm(40).to(backend.device)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        norm(x)
    assert sorted(saved) == [40, 4 * 65, 4 * 65 * 40]


# merging


@pytest.mark.parametrize("order", ["sequence", "tome"])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_merging(backend: Compared, dtype: torch.dtype, order: str) -> None:
    x = backend.random(3, 65, 40, dtype=dtype)
    cls = torch.tensor([0, 64, 31], device=backend.device)
    pairs = match(backend.random(3, 65, 8, seed=2), 25, protected=cls)
    got = there_and_back(backend, lambda x: pairs.merge(x, order), x)
    expected = there_and_back(backend, lambda x: pairs.merge(x, order), x.double())
    assert_near(got, expected, ROUNDING[dtype])


# a GPU without kernels of ours, as mamba_ssm may run on


class Called(TorchFunctionMode):
    """Records which functions of torch are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "torchs"), [("cuda", True), ("cpu", False)])
def test_the_norm_of_a_gpu_without_kernels_is_torch_s(
    device: str, torchs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of such a machine has its bits. Tensors without data take the way of real ones, without a GPU."""
    monkeypatch.setattr(dispatch, "token_backend", lambda _: reference)
    with torch.no_grad(), FakeTensorMode(), Called() as called:
        stream, output = torch.empty(2, 9, 40, device=device), torch.empty(2, 9, 40, device=device, dtype=BF16)
        normed, total = rms_norm(stream, output, torch.empty(40, device=device), 1e-5, BF16)
    assert ("rms_norm" in called.names) == torchs
    assert (normed.shape, normed.dtype, total.shape, total.dtype) == (stream.shape, BF16, stream.shape, FP32)


# without a compiler


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Compared:
    def library() -> None:
        raise BuildError("needs a C++ compiler")

    monkeypatch.setattr(build, "library", library)
    monkeypatch.setattr(dispatch, "_token_backend", dispatch._token_backend.__wrapped__)  # asks again
    assert dispatch.token_backend(torch.device("cpu")) is reference
    return Compared("reference", reference, torch.device("cpu"))


def test_norm_and_fusion_without_a_compiler(no_compiler: Compared) -> None:
    assert_near(normed(no_compiler, FP32, (2, 65, 40)), normed(no_compiler, FP64, (2, 65, 40)), 1e-6)
    inputs = (no_compiler.random(2, 65, 40, seed=seed) for seed in range(2))
    inputs = (*inputs, no_compiler.random(40, seed=2))
    assert_near(add_normed(*inputs, FP32, True), add_normed(*inputs, FP32, False), 1e-6)
    metric, x = no_compiler.random(3, 65, 8), no_compiler.random(3, 65, 40)
    got, expected = (match(values, 25, protected=32) for values in (metric, metric.double()))
    assert torch.equal(got.source, expected.source)
    assert torch.equal(got.protected, expected.protected)
    assert torch.allclose(got.merge(x).double(), expected.merge(x.double()), atol=1e-6)


# the mixer


def mixed(
    at: Compared, scan: str, dtype: torch.dtype, shape: tuple[int, ...], autocast: bool = False, **sizes: int
) -> list[Tensor]:
    torch.manual_seed(0)
    mixer = Mixer(shape[-1], backend=scan, **sizes)
    mixer.reset_parameters(depth=4)
    mixer.to(at.device, dtype)
    names, parameters = zip(*mixer.named_parameters(), strict=True)

    def run(hidden: Tensor, *parameters: Tensor) -> Tensor:
        with torch.autocast(at.device.type, BF16, enabled=autocast):
            return torch.func.functional_call(mixer, dict(zip(names, parameters, strict=True)), hidden)

    return there_and_back(at, run, at.random(*shape, dtype=dtype), *parameters)


@pytest.fixture(params=EVERY[:-1])
def mixing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compared:
    return compared(request.param, monkeypatch)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((2, 33, 40), {}), ((3, 1, 16), {}), ((1, 20, 24), {"d_state": 12, "expand": 3, "d_conv": 3, "dt_rank": 5})],
)
def test_mixer(mixing: Compared, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    if mixing.interpreted and shape == (2, 33, 40):
        pytest.skip("the interpreter takes minutes")
    expected = mixed(mixing, "reference", FP64, shape, **sizes)
    assert_near(mixed(mixing, mixing.name, FP32, shape, **sizes), expected, 1e-5)


def test_mixer_under_autocast_is_as_near_as_the_reference(mixing: Compared) -> None:
    shape = (2, 9, 12) if mixing.interpreted else (2, 33, 40)
    exact = mixed(mixing, "reference", FP64, shape)
    found = mixed(mixing, mixing.name, FP32, shape, autocast=True)
    others = mixed(mixing, "reference", FP32, shape, autocast=True)
    allowed = 3 if mixing.interpreted else 1.5  # its interpreter truncates to bfloat16
    for got, other, want in zip(found, others, exact, strict=True):
        assert (got - want).norm() <= allowed * (other - want).norm() + 1e-6 * want.norm()


def test_mixer_of_bfloat16_parameters(mixing: Compared) -> None:
    shape = (2, 9, 12) if mixing.interpreted else (2, 33, 40)
    found, expected = (mixed(mixing, scan, BF16, shape) for scan in (mixing.name, "reference"))
    assert_near(found, expected, 3e-2)


def test_a_model_that_fuses(backend: Compared) -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 3, "num_classes": 5, "img_size": 20, "patch_size": 4, "fusion": (0, 4, 3)}
    ours, exact = (VisionMamba(**sizes, scan=scan).to(backend.device) for scan in ("chunked", "reference"))
    exact.load_state_dict(ours.state_dict())
    exact.double()
    images = backend.random(2, 3, 20, 20)
    logits, expected = ours(images), exact(images.double())
    assert_near([logits], [expected], 1e-5)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(ours.named_parameters(), exact.parameters(), strict=True):
        assert p.grad is not None, name
        assert (p.grad - q.grad).norm() <= 1e-4 * q.grad.norm(), name


# threads


def test_results_do_not_depend_on_threads(cpp_kernels: None) -> None:
    at = Compared("cpu", dispatch.BY_NAME["cpu"], torch.device("cpu"))
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            pairs = match(at.random(5, 65, 8), 25, protected=32)
            merged = there_and_back(at, pairs.merge, at.random(5, 65, 40))
            runs.append([pairs.source, *merged, *normed(at, FP32, (99, 40))])
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))
