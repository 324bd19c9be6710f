"""The C++ kernels of a block (norm, matching, merging, the whole mixer) against torch, on every instruction set."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from famba.fusion import match
from famba.mixer import Mixer
from famba.model import AddNorm, RMSNorm
from famba.ops import dispatch, reference
from famba.ops.cpp import backend as kernels
from famba.ops.cpp import build, scan, tokens
from famba.ops.cpp.build import BuildError
from tests.helpers.ties import not_finite, signs

CPU = torch.device("cpu")
LEVELS = ("DEFAULT", "AVX2", "AVX512")
HERE = torch.backends.cpu.get_cpu_capability()
needs_kernels = pytest.mark.usefixtures("cpp_kernels")


@pytest.fixture(params=LEVELS)
def instruction_set(request, cpp_kernels, monkeypatch):
    """Runs the test once with the kernels of each level that this machine has."""
    if HERE not in LEVELS or LEVELS.index(request.param) > LEVELS.index(HERE):
        pytest.skip(f"this processor is {HERE}")
    for module in (scan, tokens):
        monkeypatch.setattr(module, "library", lambda: build.library(request.param))


@pytest.fixture
def no_compiler(monkeypatch):
    def library():
        raise BuildError("needs a C++ compiler")

    monkeypatch.setattr(build, "library", library)
    monkeypatch.setattr(dispatch, "_token_backend", dispatch._token_backend.__wrapped__)  # asks again
    assert dispatch.token_backend(CPU) is reference


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def there_and_back(run, *inputs: Tensor) -> list[Tensor]:
    """The result and the gradients of all inputs, in float64 for comparison."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = run(*inputs)
    grads = torch.autograd.grad(out, inputs, random(*out.shape, seed=9).to(out.dtype))
    return [x.detach().double() for x in (out, *grads)]


def assert_near(actual: list[Tensor], expected: list[Tensor], relative: float) -> None:
    for got, want in zip(actual, expected, strict=True):
        assert (got - want).norm() <= relative * want.norm()


def normed(dtype: torch.dtype, shape: tuple[int, ...]) -> list[Tensor]:
    norm = RMSNorm(shape[-1])

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, x)

    x, weight = random(*shape).to(dtype), random(shape[-1], seed=1).to(dtype)
    if dtype == torch.float64:  # torch's own norm, not ours
        return there_and_back(lambda x, w: torch.nn.functional.rms_norm(x, x.shape[-1:], w, norm.eps), x, weight)
    return there_and_back(run, x, weight)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("shape", [(2, 65, 40), (70, 192), (7, 3), (3, 5, 16)])
def test_norm_on_every_instruction_set(shape):
    assert_near(normed(torch.float32, shape), normed(torch.float64, shape), 1e-6)


def test_norm_of_bfloat16():
    assert_near(normed(torch.bfloat16, (70, 40)), normed(torch.float64, (70, 40)), 2e-2)


@pytest.mark.usefixtures("no_compiler")
def test_norm_without_a_compiler():
    assert_near(normed(torch.float32, (2, 65, 40)), normed(torch.float64, (2, 65, 40)), 1e-6)


def test_norm_in_float64_passes_gradcheck():
    norm = RMSNorm(6).double()
    assert torch.autograd.gradcheck(norm, random(2, 3, 6, dtype=torch.float64).requires_grad_())


HALVES = [torch.bfloat16, torch.float16]


def add_normed(dtype: torch.dtype, added: torch.dtype) -> list[Tensor]:
    """The norm of a sum and the sum, and all gradients; in float64 from torch's own operators."""
    norm = AddNorm(40)

    def ours(stream: Tensor, output: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(norm, {"weight": weight}, (stream, output))

    def torchs(stream: Tensor, output: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = stream + output
        return torch.nn.functional.rms_norm(total, total.shape[-1:], weight, norm.eps), total

    values = random(2, 65, 40), random(2, 65, 40, seed=1).to(added), random(40, seed=2)
    inputs = [x if x.dtype in HALVES and dtype != torch.float64 else x.to(dtype) for x in values]
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = (torchs if dtype == torch.float64 else ours)(*inputs)
    grads = [random(2, 65, 40, seed=seed).to(x.dtype) for seed, x in enumerate(out, 3)]
    return [x.detach().double() for x in (*out, *torch.autograd.grad(out, inputs, grads))]


@pytest.mark.usefixtures("instruction_set")
def test_add_and_norm_on_every_instruction_set():
    fp32, fp64 = torch.float32, torch.float64
    assert_near(add_normed(fp32, fp32), add_normed(fp64, fp32), 1e-6)


@pytest.mark.parametrize("half", HALVES)  # the kernels take the one, torch the other
def test_an_output_of_half_precision_is_added_to_a_float32_stream(half):
    found, exact = (add_normed(dtype, half) for dtype in (torch.float32, torch.float64))
    rounded = found.pop(3), exact.pop(3)  # the output's gradient comes in its own type
    assert_near(found, exact, 1e-6)
    assert_near(rounded[:1], rounded[1:], 4e-3)


@pytest.mark.usefixtures("no_compiler")
def test_add_and_norm_without_a_compiler():
    assert_near(add_normed(torch.float32, torch.float32), add_normed(torch.float64, torch.float32), 1e-6)


def test_norm_keeps_its_input_and_one_number_a_row():
    x, kept = random(4, 65, 40).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        RMSNorm(40)(x)
    assert sorted(kept) == [40, 4 * 65, 4 * 65 * 40]


def paired(tokens: int, dim: int, r: int, cls: Tensor | None) -> None:
    metric = random(3, tokens, dim, seed=tokens)
    found, expected = kernels.match(metric, r, cls), reference.match(metric.double(), r, cls)
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(("tokens", "dim"), [(197, 192), (66, 40), (65, 7), (2, 3), (1, 3)])
def test_matching_on_every_instruction_set(tokens, dim):
    paired(tokens, dim, tokens // 3, None)
    if tokens > 3:
        paired(tokens, dim, tokens // 3, torch.tensor([0, tokens - 1, tokens // 2]))


@needs_kernels
@settings(deadline=None, max_examples=100)
@given(tokens=st.integers(4, 80), share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_matching_is_torch_s(tokens, share, seed):
    cls = torch.randint(tokens, (3,), generator=torch.Generator().manual_seed(seed))
    paired(tokens, 5, int(share * ((tokens - 1) // 2)), cls)


@needs_kernels
def test_equals_and_nothing_go_to_the_earlier_token():
    """On wide rows, where equal tokens lie in different vectors and different lanes."""
    ones = kernels.match(torch.ones(1, 101, 3), 40, None)
    assert ones[0].tolist() == [list(range(0, 80, 2))]
    assert ones[1].tolist() == [[1] * 40]
    nothing = kernels.match(torch.zeros(1, 101, 3), 40, torch.tensor([1]))
    assert nothing[1].tolist() == [[3] * 40]


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("metrics", [signs, not_finite])
def test_ties_and_what_is_not_finite_on_every_instruction_set(metrics):
    for seed in range(40):
        metric, r, cls = metrics(seed)
        for got, want in zip(kernels.match(metric, r, cls), reference.match(metric, r, cls), strict=True):
            assert torch.equal(got, want), seed


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("order", ["sequence", "tome"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_on_every_instruction_set(dtype, order):
    x = random(3, 65, 40).to(dtype)
    pairs = match(random(3, 65, 8, seed=2), 25, protected=torch.tensor([0, 64, 31]))
    got = there_and_back(lambda x: pairs.merge(x, order), x)
    expected = there_and_back(lambda x: pairs.merge(x, order), x.double())
    assert_near(got, expected, 1e-6 if dtype == torch.float32 else 1e-2)


@needs_kernels
@pytest.mark.parametrize("order", ["sequence", "tome"])
def test_groups_are_torch_s(order):
    pairs = match(random(3, 65, 8), 25, protected=torch.tensor([0, 64, 31]))
    places = pairs.kept if order == "sequence" else pairs.tome
    found = kernels.groups(places, pairs.source, pairs.target, pairs.cls, 65)
    for got, want in zip(found, reference.groups(places, pairs.source, pairs.target, pairs.cls, 65), strict=True):
        assert torch.equal(got, want)


@pytest.mark.usefixtures("no_compiler")
def test_fusion_without_a_compiler():
    metric, x = random(3, 65, 8), random(3, 65, 40)
    expected = match(metric.double(), 25, protected=32)
    got = match(metric, 25, protected=32)
    assert torch.equal(got.source, expected.source)
    assert torch.equal(got.protected, expected.protected)
    assert torch.allclose(got.merge(x).double(), expected.merge(x.double()), atol=1e-6)


def mixed(
    backend: str, dtype: torch.dtype, shape: tuple[int, ...], autocast: bool = False, **sizes: int
) -> list[Tensor]:
    torch.manual_seed(0)
    mixer = Mixer(shape[-1], backend=backend, **sizes)
    mixer.reset_parameters(depth=4)
    mixer.to(dtype)
    names, parameters = zip(*mixer.named_parameters(), strict=True)

    def run(hidden: Tensor, *parameters: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return torch.func.functional_call(mixer, dict(zip(names, parameters, strict=True)), hidden)

    return there_and_back(run, random(*shape).to(dtype), *parameters)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((2, 33, 40), {}), ((3, 1, 16), {}), ((1, 20, 24), {"d_state": 12, "expand": 3, "d_conv": 3, "dt_rank": 5})],
)
def test_mixer_on_every_instruction_set(shape, sizes):
    expected = mixed("chunked", torch.float64, shape, **sizes)
    assert_near(mixed("cpu", torch.float32, shape, **sizes), expected, 1e-5)


@needs_kernels
def test_mixer_under_autocast_is_as_near_as_the_composed_one():
    exact = mixed("chunked", torch.float64, (2, 33, 40))
    whole = mixed("cpu", torch.float32, (2, 33, 40), autocast=True)
    composed = mixed("chunked", torch.float32, (2, 33, 40), autocast=True)
    for got, other, want in zip(whole, composed, exact, strict=True):
        assert (got - want).norm() <= 1.5 * (other - want).norm() + 1e-6 * want.norm()


@needs_kernels
def test_mixer_of_bfloat16_parameters():
    whole, composed = (mixed(backend, torch.bfloat16, (2, 33, 40)) for backend in ("cpu", "chunked"))
    assert_near(whole, composed, 3e-2)


@needs_kernels
def test_results_do_not_depend_on_threads():
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            pairs = match(random(5, 65, 8), 25, protected=32)
            runs.append(
                [pairs.source, *there_and_back(pairs.merge, random(5, 65, 40)), *normed(torch.float32, (99, 40))]
            )
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))
