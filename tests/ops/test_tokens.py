"""Norm, matching and merging: the reference against torch's own operators, every backend against the reference."""

import pytest
import torch
from torch import Tensor

from famba.fusion import more_similar
from famba.methods import interface
from famba.methods.interface import most_similar
from famba.ops import chunked, mamba_ssm, reference
from famba.ops.dispatch import BY_NAME
from famba.ops.triton.tokens import _ranking
from tests.helpers.backends import CPP, TRITON, Compared, compared
from tests.helpers.match_cases import matches_the_reference
from tests.helpers.ties import not_finite, signs

FP64, FP32, BF16, FP16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
# of a rounding to the type; Triton's interpreter truncates to bfloat16
ROUNDING = {FP64: 1e-12, FP32: 1e-6, BF16: 1e-2, FP16: 1e-3}


@pytest.fixture(params=[*CPP, TRITON])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compared:
    return compared(request.param, monkeypatch)


def assert_near(got: Tensor, want: Tensor, relative: float) -> None:
    assert got.shape == want.shape
    assert (got.double() - want.double()).norm() <= relative * want.double().norm()


def double(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.double() for x in tensors]


def test_scan_backends_take_these_operators_from_the_reference() -> None:
    for name in ("norm", "norm_backward", "match", "groups", "merge", "merge_backward"):
        assert getattr(chunked, name) is getattr(mamba_ssm, name) is getattr(reference, name)


# the norm

SHAPES = [((2, 65, 40), FP32), ((70, 192), BF16), ((3, 16), FP16), ((7, 3), FP32), ((3, 5, 16), FP32), ((70, 40), FP64)]


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
@pytest.mark.parametrize("added", [None, FP64, FP32, BF16, FP16])
def test_norm(backend: Compared, shape: tuple[int, ...], dtype: torch.dtype, added: torch.dtype | None) -> None:
    x, weight = backend.random(*shape), backend.random(shape[-1], seed=2)
    output = None if added is None else backend.random(*shape, seed=1, dtype=added)
    out, rstd, total = backend.module.norm(x, output, weight, 1e-5, dtype)
    exact_out, exact_rstd, exact_total = reference.norm(*double(x, output, weight), 1e-5, FP64)
    assert (out.dtype, rstd.shape) == (dtype, (*shape[:-1], 1))
    assert total is x if added is None else total.dtype == torch.promote_types(FP32, added)
    assert_near(out, exact_out, max(ROUNDING[dtype], 1e-6))
    assert_near(rstd, exact_rstd, 1e-6)
    assert_near(total, exact_total, 1e-6)


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
@pytest.mark.parametrize("added", [FP64, FP32, BF16, FP16])
@pytest.mark.parametrize("of_the_sum", [False, True])
def test_gradients_of_norm(
    backend: Compared, shape: tuple[int, ...], dtype: torch.dtype, added: torch.dtype, of_the_sum: bool
) -> None:
    dout, total, weight = (backend.random(*shape, seed=3), backend.random(*shape), backend.random(shape[-1], seed=2))
    dout, dtotal = dout.to(dtype), backend.random(*shape, seed=4) if of_the_sum else None
    rstd = torch.rsqrt(total.square().mean(-1, keepdim=True) + 1e-5)
    dx, dadded, dweight = backend.module.norm_backward(dout, dtotal, total, weight, rstd, added)
    exact = reference.norm_backward(*double(dout, dtotal, total, weight, rstd), FP64)
    assert (dx.dtype, dadded.dtype, dweight.dtype) == (FP32, added, FP32)
    near = 1e-6 if backend.name == "cpu" else 2e-6
    assert_near(dx, exact[0], near)
    assert_near(dadded, exact[1], near if added == FP32 else near + ROUNDING[added])
    assert_near(dweight, exact[2], near)


@pytest.mark.parametrize("dtype", [FP64, FP32, BF16, FP16])
def test_the_norm_of_one_token_has_gradients(backend: Compared, dtype: torch.dtype) -> None:
    """Of shape (C,), as of (1, C), to the last bit."""
    dout, total, weight = (backend.random(6, seed=seed, dtype=dtype) for seed in range(3))
    rstd = torch.rsqrt(total.square().mean(-1, keepdim=True) + 1e-5)
    found = backend.module.norm_backward(dout, None, total, weight, rstd, dtype)
    expected = backend.module.norm_backward(dout[None], None, total[None], weight, rstd[None], dtype)
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, want.view(6))


def test_the_reference_s_norm_is_torch_s() -> None:
    here = Compared("reference", reference, torch.device("cpu"))
    x, added, weight = (
        here.random(4, 9, 6, dtype=FP64),
        here.random(4, 9, 6, seed=1, dtype=FP64),
        here.random(6).double(),
    )
    grads = here.random(4, 9, 6, seed=2, dtype=FP64), here.random(4, 9, 6, seed=3, dtype=FP64)
    leaves = [t.requires_grad_() for t in (x, added, weight)]
    total = x + added
    out = torch.nn.functional.rms_norm(total, (6,), weight, 1e-5)
    expected = out, total, *torch.autograd.grad((out, total), leaves, grads)
    with torch.no_grad():
        found, rstd, sums = reference.norm(x, added, weight, 1e-5, FP64)
        dx, dadded, dweight = reference.norm_backward(grads[0], grads[1], sums, weight, rstd, FP64)
    for got, want in zip((found, sums, dx, dadded, dweight), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


# matching


@pytest.mark.parametrize(("tokens", "dim"), [(197, 192), (197, 40), (66, 70), (66, 40), (65, 7), (2, 3), (1, 3)])
def test_matching(backend: Compared, tokens: int, dim: int) -> None:
    matches_the_reference(backend, tokens, dim, tokens // 3, None)
    if tokens > 3:
        matches_the_reference(backend, tokens, dim, tokens // 3, torch.tensor([0, tokens - 1, tokens // 2]))


@pytest.mark.parametrize("seed", range(12))
def test_matching_as_far_as_it_goes(backend: Compared, seed: int) -> None:
    tokens = 4 + 3 * seed
    cls = torch.randint(tokens, (3,), generator=torch.Generator().manual_seed(seed))
    matches_the_reference(backend, tokens, 5, (tokens - 1) // 2, cls)
    matches_the_reference(backend, tokens, 5, 0, cls)


@pytest.mark.parametrize("pairs", [1, 60, 250])
@pytest.mark.parametrize("tokens", [2, 41, 66])
def test_long_sequences_are_matched_block_by_block(monkeypatch: pytest.MonkeyPatch, tokens: int, pairs: int) -> None:
    """Four signs, whose norm is two: similarities are exact, and many of them tie."""
    metric = torch.randint(2, (3, tokens, 4), generator=torch.Generator().manual_seed(tokens)).float() * 2 - 1
    cls, r = torch.tensor([0, tokens - 1, tokens // 2]), (tokens - 1) // 2
    source, target = torch.arange(tokens)[None, ::2].expand(3, -1), torch.arange(tokens)[None, 1::2].expand(3, -1)

    def compared() -> tuple[torch.Tensor, ...]:
        above = more_similar(metric, 0.4, cls)
        return *reference.match(metric, r, cls), *most_similar(metric, source, target), above

    whole, held = compared(), []
    monkeypatch.setattr(reference, "PAIRS", pairs)
    monkeypatch.setattr(interface, "PAIRS", pairs)
    links = reference._links
    monkeypatch.setattr(reference, "_links", lambda *given: held.append(made := links(*given)) or made)
    for got, want in zip(compared(), whole, strict=True):
        assert torch.equal(got, want)
    assert max(block[0].numel() for block in held) <= max(pairs, tokens // 2)


@pytest.mark.parametrize("tokens", [101, 201])
def test_equals_and_nothing_go_to_the_earlier_token(backend: Compared, tokens: int) -> None:
    """On wide rows, where equal tokens lie in different vectors and different lanes."""
    for module in (backend.module, reference):
        ones = module.match(torch.ones(1, tokens, 3, device=backend.device), 40, None)
        assert ones[0].tolist() == [list(range(0, 80, 2))]
        assert ones[1].tolist() == [[1] * 40]
        cls = torch.tensor([1], device=backend.device)
        nothing = module.match(torch.zeros(1, tokens, 3, device=backend.device), 40, cls)
        assert nothing[1].tolist() == [[3] * 40]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in Triton's interpreter
@pytest.mark.parametrize("metrics", [signs, not_finite])
def test_ties_and_what_is_not_finite_have_one_outcome(backend: Compared, metrics) -> None:  # type: ignore[no-untyped-def]
    for seed in range(16 if backend.interpreted else 40):
        metric, r, cls = metrics(seed)
        found = backend.module.match(metric.to(backend.device), r, cls.to(backend.device))
        for got, want in zip(found, reference.match(metric, r, cls), strict=True):
            assert torch.equal(got.cpu(), want), seed


# merging


@pytest.mark.parametrize("order", ["sequence", "tome"])
@pytest.mark.parametrize(("tokens", "r", "dim"), [(65, 25, 40), (9, 0, 3), (90, 42, 200)])
def test_groups_and_merging(backend: Compared, tokens: int, r: int, dim: int, order: str) -> None:
    dim = min(dim, 70) if backend.interpreted else dim  # it takes seconds for wide tokens
    cls = torch.tensor([0, tokens - 1, tokens // 2], device=backend.device)
    source, target, kept, tome = reference.match(backend.random(3, tokens, 8), r, cls)
    _merges_as_the_reference(backend, kept if order == "sequence" else tome, source, target, cls, dim)


@pytest.mark.parametrize(("tokens", "r", "dim"), [(90, 80, 40), (33, 32, 5), (197, 120, 192)])
def test_more_than_half_may_join_any_of_the_others(backend: Compared, tokens: int, r: int, dim: int) -> None:
    """In no order, and many to one: methods other than Famba-V's pairs of two halves."""
    if backend.interpreted and tokens > 100:
        pytest.skip("takes ten seconds under the interpreter")
    order = backend.random(3, tokens).argsort(dim=1)
    source, places = order[:, :r], order[:, r:]
    target = places.gather(1, order[:, :r] % (tokens - r))
    _merges_as_the_reference(backend, places, source, target, places[:, 0], dim)


def test_long_sequences_are_ranked_and_grouped(backend: Compared) -> None:
    tokens, r, cls = 1100, 140, torch.tensor([550], device=backend.device)
    metric = backend.random(1, tokens, 3)
    found, expected = backend.module.match(metric, r, cls), reference.match(metric.double(), r, cls)
    source, target, kept, _ = expected
    found += backend.module.groups(kept, source, target, cls, tokens)
    expected += reference.groups(kept, source, target, cls, tokens)
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, want)


def test_a_lane_of_triton_compares_no_more_at_once_in_longer_sequences() -> None:
    """At 4,097 tokens a program of fixed size spilled its registers 24,000 times, and compiled for minutes."""
    for size in (1, 99, 190, 393, 2049, 4097, 8193, 16385):
        made = _ranking(size)
        assert made["BLOCK"] >= size
        assert made["BLOCK"] * made["STEP"] <= max(32 * 32 * made["num_warps"], made["BLOCK"])


def _merges_as_the_reference(
    backend: Compared, places: Tensor, source: Tensor, target: Tensor, cls: Tensor, dim: int
) -> None:
    r, tokens = source.shape[1], source.shape[1] + places.shape[1]
    expected = reference.groups(places, source, target, cls, tokens)
    for got, want in zip(backend.module.groups(places, source, target, cls, tokens), expected, strict=True):
        assert torch.equal(got, want)
    assert backend.module.groups(places, source, target, None, tokens)[2] is None
    group, size, _ = expected
    for dtype in (FP64, FP32, BF16, FP16):
        x, grad = backend.random(3, tokens, dim, dtype=dtype), backend.random(3, tokens - r, dim, dtype=dtype)
        out = backend.module.merge(x, places, source, group, size)
        dx = backend.module.merge_backward(grad, group, size, tokens)
        assert (out.dtype, dx.dtype) == (dtype, dtype)
        assert_near(out, reference.merge(x.double(), places, source, group, size), ROUNDING[dtype])
        assert_near(dx, reference.merge_backward(grad.double(), group, size, tokens), ROUNDING[dtype])


def test_every_backend_offers_every_operator() -> None:
    names = ("conv", "scan", "norm", "norm_backward", "match", "groups", "merge", "merge_backward", "unavailable")
    for name, module in BY_NAME.items():
        assert all(callable(getattr(module, operator)) for operator in names), name
        assert (module.passes is not None) == (name in ("cpu", "triton"))
