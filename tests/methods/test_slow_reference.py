"""Every method against itself in plain Python loops, on random and on tied tokens."""

from dataclasses import replace

import pytest
import torch

from famba.methods import Seen
from famba.strategies import capped
from tests.helpers.method_cases import DETERMINED, Case, label, made, sequence, tokens_seen
from tests.helpers.slow_methods import mean, slow

SIZES = [(4, 1), (5, 2), (10, 3), (17, 8), (26, 12), (33, 5)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def seen_by(case: Case, tokens: int, r: int, dtype: torch.dtype, tied: bool) -> Seen:
    """Three sequences, whose class tokens stand first, in the middle, and anywhere."""
    first, anywhere = (0, 0) if case[1].get("placement") == "inside" else (tokens // 2, tokens - 1 - tokens // 3)
    seen = tokens_seen(tokens, torch.tensor([0, first, anywhere]), 7 * tokens + r, dtype, tied)
    return replace(seen, r=capped(r, tokens, True, None))


@pytest.mark.parametrize("tied", [False, True], ids=["random", "tied"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", DETERMINED, ids=label)
def test_tokens_are_those_of_the_slow_reference(case: Case, dtype: torch.dtype, tied: bool) -> None:
    for tokens, r in SIZES:
        seen = seen_by(case, tokens, r, dtype, tied)
        hidden, residual, reduction = made(case)(seen)
        assert hidden.dtype == residual.dtype == dtype
        assert hidden.shape[1] == residual.shape[1] == tokens - seen.r
        sizes = reduction.sizes(seen.size)
        for image in range(len(hidden)):
            one = sequence(seen, image)
            slots = slow(case[0], one, case[1])
            assert reduction.kept[image].tolist() == [slot.token for slot in slots]
            rows = seen.residual[image].double().tolist()
            for got, want in (
                (hidden, [mean(one.hidden, slot.hidden) for slot in slots]),
                (residual, [mean(rows, slot.residual) for slot in slots]),
            ):
                assert torch.allclose(
                    got[image].double(), torch.tensor(want, dtype=torch.float64), rtol=0, atol=TOLERANCE[dtype]
                )
            assert sizes[image].tolist() == [sum(one.size[token] for token in slot.residual) for slot in slots]
            assert reduction.cls_after is not None
            place = int(reduction.cls_after[image])
            assert slots[place].token == one.cls
            assert torch.equal(hidden[image, place], seen.hidden[image, one.cls])
            assert torch.equal(residual[image, place], seen.residual[image, one.cls])


@pytest.mark.parametrize("case", DETERMINED, ids=label)
def test_tied_tokens_do_tie(case: Case) -> None:
    """The test above would not see how ties are broken if there were none."""
    seen = seen_by(case, 17, 8, torch.float64, tied=True)
    one = sequence(seen, 0)
    if case[0] in ("famba_v", "rmeeto"):
        found = [sum(p * q for p, q in zip(one.hidden[2], row, strict=True)) for row in one.hidden[1::2]]
    else:
        found = [sum(max(0.0, value) for value in (*one.y[0][token], *one.y[1][token])) for token in one.patches]
    assert len(set(found)) < len(found)


def test_hsa_s_published_counts_are_a_schedule() -> None:
    """ceil(0.8 (N - 1)) of 196, 157 and 126 patches."""
    tokens, kept = 197, []
    for r in (39, 31, 25):
        tokens -= capped(r, tokens, True, None)
        kept.append(tokens - 1)
    assert kept == [157, 126, 101]
