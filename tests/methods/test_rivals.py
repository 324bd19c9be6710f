"""R-MeeTo and ToMe against outputs of their own code: several merges in a row, each on what the last has left."""

import numpy as np
import pytest
import torch
from torch import Tensor

from famba.fusion import match
from famba.methods import Reduction, Seen
from famba.methods.interface import History, Tokens
from famba.methods.rmeeto import RMeeTo
from tests.helpers import ROOT

GOLDEN = np.load(ROOT / "tests" / "files" / "rivals.npz")
RUNS = sorted({name.partition("/")[0] for name in GOLDEN.files})


def arrays(run: str, step: int) -> dict[str, Tensor]:
    prefix = f"{run}/{step}/"
    return {n.removeprefix(prefix): torch.from_numpy(GOLDEN[n]) for n in GOLDEN.files if n.startswith(prefix)}


def steps(run: str) -> int:
    return len({name.split("/")[1] for name in GOLDEN.files if name.startswith(f"{run}/")})


def assert_same(got: Tensor, want: Tensor) -> None:
    assert torch.allclose(got, want.to(got.dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("run", [run for run in RUNS if run.startswith("rmeeto")])
def test_rmeeto(run: str) -> None:
    method, tokens = RMeeTo(prune="prune" in run), None
    assert steps(run) > 1
    for step in range(steps(run)):
        its = arrays(run, step)
        batch, length, _ = its["hidden"].shape
        if tokens is None:
            cls = its["cls"].expand(batch).long()
            tokens = Tokens(cls, History(torch.arange(length).expand(batch, -1), its["size"][..., 0].float()))
        assert tokens.history is not None
        assert torch.equal(torch.as_tensor(tokens.cls), its["cls"].expand(batch))
        seen = Seen(
            its["hidden"],
            its["residual"],
            torch.as_tensor(tokens.cls),
            int(its["r"]),
            None,
            lambda: None,
            tokens.history,
        )
        hidden, residual, reduction = method(seen)
        assert_same(hidden, its["merged_hidden"])
        assert_same(residual, its["merged_residual"])
        tokens = tokens.after(reduction)
        assert torch.equal(torch.as_tensor(tokens.cls), its["merged_cls"].expand(batch))
        assert tokens.history is not None
        assert_same(tokens.history.size, its["merged_size"][..., 0])


@pytest.mark.parametrize("run", [run for run in RUNS if run.startswith("tome")])
def test_size_weighted_merging_is_tome_s(run: str) -> None:
    for step in range(steps(run)):
        its = arrays(run, step)
        metric, size = its["metric"], its["size"][..., 0]
        pairs = match(metric, int(its["r"]), 0 if its["class_token_first"] else None)
        reduction = Reduction(pairs.tome, pairs.source, pairs.target, metric.shape[1], None, size)
        assert_same(reduction.merge(its["values"]), its["merged"])
        assert_same(reduction.sizes(size), its["merged_size"][..., 0])
