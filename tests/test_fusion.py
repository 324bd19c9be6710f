"""Matching and merging against ToMe's golden arrays, and the rules that ToMe does not have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from famba import fusion
from famba.errors import InputError
from famba.fusion import match, strategy, tokens_per_layer
from famba.ops import dispatch, reference
from tests.helpers import ROOT
from tests.helpers.ties import expected_pairs, not_finite, signs

GOLDEN = np.load(ROOT / "tests" / "files" / "fusion.npz")


def _pairs_of_torch(metric: torch.Tensor, r: int, protected: int | torch.Tensor) -> fusion.Match:
    """The matching of torch's operators, whatever kernels there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "token_backend", lambda _: reference)
        return match(metric, r, protected)


@pytest.mark.parametrize("case", range(6))
def test_merge_in_tome_order_is_tome_s(case):
    metric, values, expected = (torch.from_numpy(GOLDEN[f"{case}/{n}"]) for n in ("metric", "values", "merged"))
    protected = 0 if GOLDEN[f"{case}/class_token_first"] else None
    pairs = match(metric, int(GOLDEN[f"{case}/r"]), protected)
    order = "tome" if pairs.r else "sequence"  # with nothing to fuse ToMe returns its input untouched
    merged = pairs.merge(values, order)
    assert torch.allclose(merged, expected, rtol=0, atol=1e-12)


def test_the_paper_s_schedules():
    """paper-facts §2, column by column: layers, tokens removed, mean share of tokens seen by the mixer."""
    share = {"baseline": 100.0, "all": 55.6, "interleaved": 57.4, "lower": 45.7, "upper": 63.8}
    share |= {"lower_18": 46.9, "upper_18": 67.4}
    layers = {
        "baseline": [],
        "all": list(range(24)),
        "interleaved": list(range(1, 24, 2)),
        "lower": list(range(19)),
        "upper": list(range(5, 24)),
        "lower_18": list(range(18)),
        "upper_18": list(range(6, 24)),
    }
    r = {"baseline": 0, "all": 7, "interleaved": 14} | dict.fromkeys(("lower", "upper", "lower_18", "upper_18"), 9)
    for name, percent in share.items():
        schedule = strategy(name)
        assert schedule == tuple(r[name] if i in layers[name] else 0 for i in range(24))
        trace = tokens_per_layer(schedule, 197, 98)
        assert 100 * sum(trace[:24]) / (24 * 197) == pytest.approx(percent, abs=0.05)
        assert strategy(name, 24, 197) == schedule


@given(depth=st.integers(1, 60), tokens=st.integers(1, 400))
def test_a_scaled_schedule_removes_the_paper_s_share(depth, tokens):
    removed_by = {"all": 168, "interleaved": 168, "lower": 171, "upper": 171, "lower_18": 162, "upper_18": 162}
    for name, removed in removed_by.items():
        counts = strategy(name, depth, tokens)
        used = [r for r in counts if r] or [0]
        assert len(counts) == depth
        if depth > 1:  # interleaved has no layer to fuse in a model of one
            assert sum(counts) == round(removed * (tokens - 1) / 196)
        assert max(counts) - min(used) <= 1
        assert {i for i, r in enumerate(counts) if r} <= {i for i, r in enumerate(strategy(name, depth)) if r}


@pytest.mark.parametrize("name", ["uper", "none"])
def test_unknown_strategy_is_one_clear_error(name):
    with pytest.raises(
        InputError, match=f"unknown fusion strategy '{name}'; (did you mean 'upper'|known: baseline, all)"
    ):
        strategy(name)


def brute_force(x: torch.Tensor, metric: torch.Tensor, r: int, protected: int | None) -> torch.Tensor:
    """One sequence, token by token, in plain Python: the definition that `match` and `merge` must meet."""
    tokens = len(x)
    unit = metric / metric.norm(dim=1, keepdim=True)
    evens = [i for i in range(0, tokens, 2) if i != protected]
    odds = [i for i in range(1, tokens, 2) if i != protected]
    links = []
    for i in evens if odds else []:
        best = max(odds, key=lambda j: (float(unit[i] @ unit[j]), -j))
        links.append((-float(unit[i] @ unit[best]), i, best))
    groups = {i: [i] for i in range(tokens)}
    for _, i, j in sorted(links)[:r]:
        groups[j].append(i)
        del groups[i]
    return torch.stack([x[groups[i]].mean(dim=0) for i in sorted(groups)])


@settings(deadline=None, max_examples=150)
@given(
    tokens=st.integers(1, 21),
    r=st.integers(0, 25),
    place=st.one_of(st.none(), st.integers(0, 20)),
    seed=st.integers(0, 10**6),
)
def test_sequence_order_meets_the_definition(tokens, r, place, seed):
    generator = torch.Generator().manual_seed(seed)
    metric = torch.randn(3, tokens, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(3, tokens, 4, generator=generator, dtype=torch.float64)
    protected = None if place is None else place % tokens
    pairs = match(metric, r, protected)
    merged = pairs.merge(x)
    removed = min(r, (tokens - (protected is not None)) // 2)
    if tokens == 3 and protected == 1:
        removed = 0  # its only possible partner is the class token
    assert merged.shape == (3, tokens - removed, 4)
    for b in range(3):
        assert torch.allclose(merged[b], brute_force(x[b], metric[b], removed, protected), atol=1e-12)
    if protected is not None:
        for order in ("sequence", "tome"):
            index = pairs.protected_after(order)
            assert torch.equal(pairs.merge(x, order)[torch.arange(3), index], x[:, protected])
    total = {order: pairs.merge(x, order).sort(dim=1).values for order in ("sequence", "tome")}
    assert torch.allclose(total["sequence"], total["tome"])  # the same tokens, in another order


@settings(deadline=None, max_examples=50)
@given(
    tokens=st.integers(4, 40), seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 9), min_size=1, max_size=6)
)
def test_the_class_token_is_found_again_after_every_fusion(tokens, seed, counts):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, tokens, 6, generator=generator)
    cls = int(torch.randint(tokens, (1,), generator=generator))
    expected, protected, trace = x[:, cls].clone(), cls, []
    for r in counts:
        if r:
            pairs = match(x, r, protected)
            x, protected = pairs.merge(x), pairs.protected
            assert torch.equal(x[torch.arange(4), protected], expected)
        trace.append(x.shape[1])
    assert tokens_per_layer(counts, tokens, cls) == (*trace, trace[-1])


def test_ties_go_to_the_earlier_token():
    pairs = match(torch.ones(2, 10, 3), r=2)
    assert pairs.source.tolist() == [[0, 2]] * 2
    assert pairs.target.tolist() == [[1, 1]] * 2


@pytest.mark.parametrize("metrics", [signs, not_finite])
@pytest.mark.parametrize("matching", [match, _pairs_of_torch], ids=["kernels", "torch"])
def test_ties_and_what_is_not_finite_have_one_outcome(metrics, matching):
    for seed in range(60):
        metric, r, cls = metrics(seed)
        pairs = matching(metric, r, cls)
        for b in range(2):
            found = pairs.source[b].tolist(), pairs.target[b].tolist()
            assert found == expected_pairs(metric[b], r, int(cls[b])), seed
        assert not (pairs.source == cls[:, None]).any()
        assert not (pairs.target == cls[:, None]).any()
        merged = pairs.merge(torch.ones_like(metric))
        assert merged.shape[1] == metric.shape[1] - r


def test_equal_tokens_tie_wherever_they_stand():
    """What sums round to must not depend on a token's place in the batched product."""
    token = torch.randn(1, 1, 192, generator=torch.Generator().manual_seed(0))
    for tokens in (9, 50, 197):
        for pairs in (match(token.expand(2, tokens, 192), 4, 0), _pairs_of_torch(token.expand(2, tokens, 192), 4, 0)):
            assert pairs.source.tolist() == [[2, 4, 6, 8]] * 2
            assert pairs.target.tolist() == [[1] * 4] * 2


def test_a_zero_vector_is_similar_to_nothing():
    metric = torch.zeros(1, 6, 3)
    metric[:, 4:] = 1
    pairs = match(metric, r=1)
    assert (pairs.source.item(), pairs.target.item()) == (4, 5)


@pytest.mark.parametrize("order", ["sequence", "tome"])
def test_merge_is_differentiable(order):
    pairs = match(torch.randn(2, 9, 4), r=3, protected=4)
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: pairs.merge(t, order), x)


def test_bfloat16_tokens_are_matched_in_float32():
    metric = torch.randn(2, 33, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        low = match(metric, 8, protected=16)
    full = match(metric.float(), 8, protected=16)
    assert torch.equal(low.source, full.source)
    assert torch.equal(low.target, full.target)
    assert low.merge(metric).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match(torch.ones(4, 3), 1), r"\(B, T, C\)"),
        (lambda: match(torch.ones(1, 4, 3), -1), "negative"),
        (lambda: match(torch.ones(1, 4, 3), 1, protected=4), "outside"),
        (lambda: match(torch.ones(1, 4, 3), 1).merge(torch.ones(1, 5, 3)), "the match is for"),
        (lambda: match(torch.ones(1, 4, 3), 1).merge(torch.ones(1, 4, 3), "shuffled"), "order"),
        (lambda: match(torch.ones(2, 5, 3), 1, torch.tensor([1, 10**12])), "lie outside sequences of 5"),
        (lambda: match(torch.ones(2, 5, 3), 1, torch.tensor([1, 2, 3])), r"one index or \(2,\) of them"),
        (lambda: match(torch.ones(2, 5, 3), 1, torch.tensor([1.0, 2.0])), "torch.float32"),
        (lambda: match(torch.ones(2, 5, 3), 1, np.int64(9)), "lies outside a sequence of 5"),
        (lambda: match(torch.ones(2, 5, 3), 1).merge(torch.ones(2, 5)), r"the match is for \(2, 5, C\)"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
