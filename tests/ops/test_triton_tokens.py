"""The Triton kernels of a block: norm, matching, merging. Against torch, on a GPU or under Triton's interpreter."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from famba.model import AddNorm, VisionMamba
from famba.ops import dispatch, reference
from famba.ops.triton import backend as triton
from tests.helpers.ties import not_finite, signs
from tests.helpers.triton_cases import DEVICE, run_under_the_interpreter, with_kernels


@pytest.fixture
def instead_of_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernels of a CPU are asked for, these are."""
    monkeypatch.setattr(dispatch, "token_backend", lambda _: triton)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def assert_near(got: Tensor, want: Tensor, relative: float) -> None:
    assert got.shape == want.shape
    assert (got.double() - want.double()).norm() <= relative * want.double().norm()


@pytest.mark.slow
def test_the_kernels_under_the_interpreter() -> None:
    run_under_the_interpreter(__file__)


# the norm


def add_normed(stream: Tensor, output: Tensor | None, weight: Tensor, dtype: torch.dtype, ours: bool) -> list[Tensor]:
    """The norm of a sum, the sum, and the gradients of all three: ours, or torch's own in float64."""
    wide = torch.float32 if ours else torch.float64
    inputs = [x.to(wide) if x.dtype == torch.float32 else x for x in (stream, output, weight) if x is not None]
    *streams, weight = inputs = [x.detach().requires_grad_() for x in inputs]
    norm = AddNorm(weight.shape[0])
    if ours:
        out = torch.func.functional_call(
            norm, {"weight": weight}, (*streams, *(() if output is not None else (None,)), dtype)
        )
    else:
        total = sum(x.to(wide) for x in streams)
        out = torch.nn.functional.rms_norm(total, total.shape[-1:], weight, norm.eps), total
    grads = [random(*out[0].shape, seed=3).to(dtype).to(out[0].dtype), random(*out[1].shape, seed=4).to(out[1].dtype)]
    return [*out, *torch.autograd.grad(out, inputs, grads)]


@with_kernels
@pytest.mark.usefixtures("instead_of_cpp")
@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 65, 40), torch.float32), ((70, 192), torch.bfloat16), ((3, 16), torch.float16)]
)
@pytest.mark.parametrize("added", [None, torch.float32, torch.bfloat16])
def test_add_and_norm(shape: tuple[int, ...], dtype: torch.dtype, added: torch.dtype | None) -> None:
    output = None if added is None else random(*shape, seed=1, dtype=added)
    inputs = random(*shape), output, random(shape[-1], seed=2)
    found, expected = (add_normed(*inputs, dtype, ours) for ours in (True, False))
    # the interpreter truncates to bfloat16 where a GPU rounds
    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
    assert found[0].dtype == dtype
    assert_near(found[0], expected[0], tolerance[dtype])
    assert_near(found[1], expected[1], 1e-6)
    assert_near(found[2], expected[2], 2e-6)
    if added is not None:
        assert found[3].dtype == added
        assert_near(found[3], expected[3], tolerance[added] + 1e-6)
    assert_near(found[-1], expected[-1], 2e-6)


# matching and merging


def paired(tokens: int, dim: int, r: int, cls: Tensor | None) -> None:
    metric = random(3, tokens, dim, seed=tokens)
    cls = None if cls is None else cls.to(DEVICE)
    for got, want in zip(triton.match(metric, r, cls), reference.match(metric.double(), r, cls), strict=True):
        assert torch.equal(got, want)


@with_kernels
@pytest.mark.parametrize(("tokens", "dim"), [(197, 40), (66, 70), (65, 7), (2, 3), (1, 3)])
def test_matching(tokens: int, dim: int) -> None:
    paired(tokens, dim, tokens // 3, None)
    if tokens > 3:
        paired(tokens, dim, tokens // 3, torch.tensor([0, tokens - 1, tokens // 2]))


@with_kernels
@pytest.mark.parametrize("seed", range(12))
def test_matching_as_far_as_it_goes(seed: int) -> None:
    tokens = 4 + 3 * seed
    cls = torch.randint(tokens, (3,), generator=torch.Generator().manual_seed(seed))
    paired(tokens, 5, (tokens - 1) // 2, cls)
    paired(tokens, 5, 0, cls)


@with_kernels
def test_equals_and_nothing_go_to_the_earlier_token() -> None:
    ones = triton.match(torch.ones(1, 201, 3, device=DEVICE), 40, None)
    assert ones[0].tolist() == [list(range(0, 80, 2))]
    assert ones[1].tolist() == [[1] * 40]
    nothing = triton.match(torch.zeros(1, 201, 3, device=DEVICE), 40, torch.tensor([1], device=DEVICE))
    assert nothing[1].tolist() == [[3] * 40]


@with_kernels
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's NumPy
@pytest.mark.parametrize("metrics", [signs, not_finite])
def test_ties_and_what_is_not_finite_have_one_outcome(metrics: Callable[[int], tuple[Tensor, int, Tensor]]) -> None:
    for seed in range(16):
        metric, r, cls = metrics(seed)
        found, expected = triton.match(metric.to(DEVICE), r, cls.to(DEVICE)), reference.match(metric, r, cls)
        for got, want in zip(found, expected, strict=True):
            assert torch.equal(got.cpu(), want), seed


@with_kernels
@pytest.mark.parametrize("order", ["sequence", "tome"])
@pytest.mark.parametrize(("tokens", "r", "dim"), [(65, 25, 40), (9, 0, 3), (90, 42, 200)])
def test_groups_and_merging(tokens: int, r: int, dim: int, order: str) -> None:
    cls = torch.tensor([0, tokens - 1, tokens // 2], device=DEVICE)
    source, target, kept, tome = reference.match(random(3, tokens, 8), r, cls)
    places = kept if order == "sequence" else tome
    expected = reference.groups(places, source, target, cls, tokens)
    for got, want in zip(triton.groups(places, source, target, cls, tokens), expected, strict=True):
        assert torch.equal(got, want)
    assert triton.groups(places, source, target, None, tokens)[2] is None
    group, size, _ = expected
    for dtype, relative in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)):
        x, grad = random(3, tokens, dim, dtype=dtype), random(3, tokens - r, dim, dtype=dtype)
        out, dx = triton.merge(x, places, source, group, size), triton.merge_backward(grad, group, size, tokens)
        assert (out.dtype, dx.dtype) == (dtype, dtype)
        assert_near(out, reference.merge(x.double(), places, source, group, size), relative)
        assert_near(dx, reference.merge_backward(grad.double(), group, size, tokens), relative)


# all of it


@with_kernels
@pytest.mark.usefixtures("instead_of_cpp")
def test_a_model_that_fuses() -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 3, "num_classes": 5, "img_size": 20, "patch_size": 4, "fusion": (0, 4, 3)}
    ours, torchs = (VisionMamba(**sizes, scan=scan).to(DEVICE) for scan in ("chunked", "reference"))
    torchs.load_state_dict(ours.state_dict())
    torchs.double()
    images = random(2, 3, 20, 20)
    logits, expected = ours(images), torchs(images.double())
    assert_near(logits, expected, 1e-5)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(ours.named_parameters(), torchs.parameters(), strict=True):
        assert p.grad is not None, name
        assert (p.grad - q.grad).norm() <= 1e-4 * q.grad.norm(), name
