"""The arithmetic of a reduction: mixtures of kept, merged, pruned and dropped tokens, their weights and gradients."""

from itertools import product

import pytest
import torch
from torch import Tensor

from famba.methods import Reduction
from famba.ops import dispatch, reference
from tests.helpers.slow_methods import grouped, mean

MIXTURES = list(product([0, 3, 6], [0, 2, 5], [False, True], [False, True]))  # merged, dropped, weights, pruned


def mixture(merged: int, dropped: int, weighted: bool, pruned: bool, tokens: int = 15, batch: int = 2) -> Reduction:
    """Some tokens dropped, some joining any of the others, which are in no order; no class token."""
    generator = torch.Generator().manual_seed(100 * merged + 10 * dropped)
    order = torch.rand(batch, tokens, generator=generator).argsort(dim=1)
    source, kept = order[:, :merged], order[:, merged + dropped :]
    target = kept.gather(1, torch.randint(kept.shape[1], (batch, merged), generator=generator))
    weight = torch.rand(batch, tokens, generator=generator, dtype=torch.float64) + 0.5
    mask = torch.rand(batch, merged, generator=generator) < 0.5
    return Reduction(kept, source, target, tokens, None, weight if weighted else None, mask if pruned else None)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def expected(reduction: Reduction, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """By plain loops."""
    results = []
    for image, kept in enumerate(reduction.kept.tolist()):
        joined = list(zip(reduction.source[image].tolist(), reduction.target[image].tolist(), strict=True))
        mask = [False] * len(joined) if reduction.pruned is None else reduction.pruned[image].tolist()
        weight = [1.0] * reduction.tokens if reduction.weight is None else reduction.weight[image].tolist()
        pruned = [source for (source, _), out in zip(joined, mask, strict=True) if out]
        slots = grouped(kept, joined, weight.__getitem__, pruned)
        rows = hidden[image].tolist(), residual[image].tolist()
        results.append([[mean(rows[0], s.hidden) for s in slots], [mean(rows[1], s.residual) for s in slots]])
    streams = torch.tensor(results, dtype=torch.float64)  # (B, 2, T', C)
    return streams[:, 0], streams[:, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mix", MIXTURES, ids=str)
def test_streams_are_the_means_of_their_groups(mix: tuple[int, int, bool, bool], dtype: torch.dtype) -> None:
    reduction = mixture(*mix)
    hidden, residual = random(2, 15, 7, dtype=dtype), random(2, 15, 7, seed=1, dtype=dtype)
    want = expected(reduction, hidden, residual)
    rounding = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    for got, exact in zip(reduction.streams(hidden, residual), want, strict=True):
        assert got.dtype == dtype
        assert torch.allclose(got.double(), exact, rtol=rounding, atol=rounding)
    assert torch.equal(reduction.merge(residual), reduction.streams(hidden, residual)[1])


@pytest.mark.parametrize("mix", MIXTURES, ids=str)
def test_streams_are_differentiable(mix: tuple[int, int, bool, bool]) -> None:
    reduction = mixture(*mix)
    hidden, residual = random(2, 15, 2).requires_grad_(), random(2, 15, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(reduction.streams, (hidden, residual))
    assert torch.autograd.gradcheck(reduction.merge, residual)


@pytest.mark.parametrize("mix", MIXTURES, ids=str)
def test_kernels_reduce_as_torch_s_operators_do(mix: tuple[int, int, bool, bool]) -> None:
    """Gradients, too, and where more than half of the tokens join one of the others."""
    gradients = []
    for backend in (dispatch.token_backend(torch.device("cpu")), reference):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dispatch, "token_backend", lambda _, backend=backend: backend)
            reduction = mixture(*mix)
            leaves = [random(2, 15, 5, seed=seed, dtype=torch.float32).requires_grad_() for seed in (0, 1)]
            out = reduction.streams(*leaves)
            (out[0].square().sum() + out[1].square().sum()).backward()
            gradients.append([*out, *(leaf.grad for leaf in leaves)])
    for got, want in zip(*gradients, strict=True):
        assert torch.allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_all_but_one_can_join_it(dtype: torch.dtype) -> None:
    tokens = 9
    source = torch.tensor([[token for token in range(tokens) if token != 4]])
    reduction = Reduction(torch.tensor([[4]]), source, torch.full_like(source, 4), tokens)
    x = random(1, tokens, 3, dtype=dtype).requires_grad_()
    merged = reduction.merge(x)
    assert torch.allclose(merged.double(), x.double().mean(dim=1, keepdim=True), atol=1e-2)
    merged.sum().backward()
    assert torch.allclose(x.grad.double(), torch.full((1, tokens, 3), 1 / tokens).double(), rtol=1e-2)


def test_weights_are_not_rounded_to_bfloat16() -> None:
    """Equal tokens have that token for their mean, whatever they weigh."""
    reduction = mixture(6, 0, True, False)
    x = random(1, 1, 64).bfloat16().expand(2, 15, 64)
    assert torch.equal(reduction.merge(x), x[:, : 15 - 6])


def test_a_target_of_pruned_sources_alone_is_unchanged() -> None:
    """Bit for bit, with weights, and with two sources, whose group has three members."""
    pruned = torch.ones(2, 6, dtype=torch.bool)
    for weighted in (False, True):
        given = mixture(6, 2, weighted, False)
        reduction = Reduction(given.kept, given.source, given.target, 15, None, given.weight, pruned)
        x = random(2, 15, 33, dtype=torch.float32)
        hidden, _ = reduction.streams(x, x)
        assert torch.equal(hidden, x.gather(1, given.kept[..., None].expand(-1, -1, 33)))


def test_sizes_count_every_token_that_is_not_dropped() -> None:
    for merged, dropped, *_ in MIXTURES:
        reduction = mixture(merged, dropped, False, False)
        sizes = reduction.sizes(torch.ones(2, 15))
        assert sizes.shape == reduction.kept.shape
        assert sizes.sum(dim=1).tolist() == [15 - dropped] * 2
        gone = (reduction.destination < 0).sum(dim=1)
        assert gone.tolist() == [dropped] * 2
