"""A mixer taken apart, and HSA's alignment: the state decays where a token was dropped."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from famba.mixer import Mixer
from famba.model import VisionMamba

BACKENDS = ["cpu", "chunked", "reference"]


def mixer(backend: str, dtype: torch.dtype = torch.float32) -> Mixer:
    torch.manual_seed(0)
    made = Mixer(24, backend=backend)
    made.reset_parameters(depth=4)
    with torch.no_grad():  # Vim starts the backward direction's at zero
        made.get_parameter("dt_proj_b.bias").uniform_(-3, -1)
    return made.to(dtype)


def tokens(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, length, 24, generator=torch.Generator().manual_seed(length), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_apart_it_is_the_same_mixer(backend: str, bf16: bool, cpp_kernels: None) -> None:
    results = []
    for apart in (False, True):
        one, hidden = mixer(backend), tokens(17).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            if apart:
                gated, scanned = one(hidden, True)
                out, scanned = one.project(gated.sum(dim=0)), scanned()
            else:
                out = one(hidden)
        out.float().square().sum().backward()
        results.append([out, hidden.grad, *(parameter.grad for parameter in one.parameters())])
    assert gated.shape == (2, 2, 17, 48)
    assert [x.shape[2:] for x in scanned] == [(17, 48), (17, 48), (17, 16), (17, 16)]
    for got, want in zip(*results, strict=True):
        assert got.dtype == want.dtype
        relative = (got.double() - want.double()).norm() / want.double().norm()
        assert relative < (3e-2 if bf16 else 1e-5)


def slow_mixer(one: Mixer, hidden: Tensor, position: list[int], length: int) -> tuple[Tensor, dict[str, Tensor]]:
    """One sequence (T, C), step by step over all `length` steps of the input sequence, in both directions.

    A step whose token is gone has zero input and the step softplus(bias). Convolution and projections see the tokens
    that remain, as in the mixer.
    """
    x, z = F.linear(hidden, one.in_proj.weight).chunk(2, dim=-1)
    total, seen = torch.zeros_like(x), {}
    for suffix, a_log, d in (("", one.A_log, one.D), ("_b", one.A_b_log, one.D_b)):
        its = lambda name, suffix=suffix: one.get_parameter(name.replace(".", f"{suffix}.", 1))  # noqa: E731
        order = list(range(len(position)))[:: -1 if suffix else 1]  # in the direction's own time
        u = torch.zeros_like(x)
        for now, token in enumerate(order):
            value = its("conv1d.bias").clone()
            for back in range(one.get_parameter("conv1d.weight").shape[2]):
                if now - back >= 0:
                    value = value + its("conv1d.weight")[:, 0, -1 - back] * x[order[now - back]]
            u[token] = F.silu(value)
        dt, B, C = (u @ its("x_proj.weight").T).split([one.dt_rank, one.d_state, one.d_state], dim=-1)
        delta = F.softplus(dt @ its("dt_proj.weight").T + its("dt_proj.bias"))
        gone = F.softplus(its("dt_proj.bias"))
        state = torch.zeros_like(a_log)  # (D, N)
        y = torch.zeros_like(x)
        for place in range(length)[:: -1 if suffix else 1]:
            if place not in position:
                state = torch.exp(gone[:, None] * -a_log.exp()) * state
                continue
            t = position.index(place)
            state = torch.exp(delta[t][:, None] * -a_log.exp()) * state + (delta[t] * u[t])[:, None] * B[t]
            y[t] = (state * C[t]).sum(dim=-1) + d * u[t]
        seen[f"y{suffix}"], seen[f"delta{suffix}"] = y, delta
        total = total + y * F.silu(z)
    return F.linear(total / 2, one.out_proj.weight), seen


POSITIONS = [[0, 1, 2, 3, 4, 5, 6], [0, 3, 4, 9, 10, 17, 18], [5, 6, 7, 8, 11, 12, 13], [2, 4, 6, 8, 10, 12, 14]]


@pytest.mark.parametrize(("backend", "dtype"), [*((b, torch.float32) for b in BACKENDS), ("reference", torch.float64)])
def test_the_state_decays_at_every_missing_step(backend: str, dtype: torch.dtype, cpp_kernels: None) -> None:
    one, length = mixer(backend, dtype), 20
    near = 1e-12 if dtype == torch.float64 else 2e-5
    for first, second in pairwise(POSITIONS):
        hidden = tokens(7, dtype)
        gated, scanned = one(hidden, True, torch.tensor([first, second]))
        out, scanned = one.project(gated.sum(dim=0)), scanned()
        for image, position in enumerate((first, second)):
            with torch.no_grad():
                want, seen = slow_mixer(one, hidden[image], position, length)
            for got in (out, one(hidden, False, torch.tensor([first, second]))):
                assert torch.allclose(got[image], want, rtol=0, atol=near * want.abs().max())
            for direction, suffix in enumerate(("", "_b")):
                assert torch.allclose(scanned.y[direction, image], seen[f"y{suffix}"], atol=near)
                assert torch.allclose(scanned.delta[direction, image], seen[f"delta{suffix}"], atol=near)


def test_without_gaps_alignment_changes_nothing() -> None:
    one, hidden = mixer("reference", torch.float64), tokens(7, torch.float64)
    for position in (None, torch.arange(3, 10).expand(2, -1)):
        gated, _ = one(hidden, True, position)
        for out in (one.project(gated.sum(dim=0)), one(hidden, False, position)):
            assert torch.allclose(out, one(hidden), atol=1e-14)


def test_a_step_that_underflows_adds_nothing() -> None:
    one = mixer("reference")
    with torch.no_grad():
        one.get_parameter("dt_proj.bias").fill_(-1e4)
    hidden = tokens(4).requires_grad_()
    position = torch.tensor([[0, 3, 4, 9]]).expand(2, -1)
    gated, _ = one(hidden, True, position)
    out = one(hidden, False, position)
    (gated.sum() + out.sum()).backward()
    assert gated.isfinite().all()
    assert out.isfinite().all()
    assert hidden.grad.isfinite().all()


def test_alignment_is_a_gradient_s_business_too() -> None:
    one = mixer("reference", torch.float64)
    position = torch.tensor([[0, 3, 4, 9]])
    hidden = tokens(4, torch.float64)[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: one(x, True, position)[0], hidden)
    assert torch.autograd.gradcheck(lambda x: one(x, False, position), hidden)


@pytest.mark.parametrize("backend", BACKENDS)
def test_aligned_in_bfloat16_with_every_gradient(backend: str, cpp_kernels: None) -> None:
    """Against float32: a mixer that nobody looks into sums the directions before it gates them."""
    position = torch.tensor(POSITIONS[1:3])
    results = []
    for apart, bf16 in ((True, False), (True, True), (False, False), (False, True)):
        one, hidden = mixer(backend), tokens(7).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = one(hidden, apart, position)
            out = one.project(out[0].sum(dim=0)) if apart else out
        assert out.dtype == (torch.bfloat16 if bf16 else torch.float32)
        out.float().square().sum().backward()
        results.append([out, hidden.grad, *(parameter.grad for parameter in one.parameters())])
    for near, other in zip((3e-2, 1e-5, 3e-2), results[1:], strict=True):
        for got, want in zip(other, results[0], strict=True):
            assert (got.double() - want.double()).norm() < near * want.double().norm()


@pytest.mark.parametrize("align", [True, False])
def test_hsa_aligns_the_layers_after_a_drop(align: bool) -> None:
    """The mixers after a drop get the positions that remain; without `align`, and before a drop, none is missing."""
    model = VisionMamba(16, 4, 4, 32, 8, method="hsa", settings={"align": align}, fusion=(0, 4, 3, 0))
    given: list[Tensor | None] = []
    kept: list[Tensor] = []
    for block in model.blocks:
        block.mixer.register_forward_pre_hook(lambda _, args: given.append(args[2] if len(args) > 2 else None))
        if block.method is not None:
            block.method.register_forward_hook(lambda _, __, made: kept.append(made[2].kept))
    model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    if not align:
        assert given == [None] * 4
        return
    assert given[:2] == [None] * 2
    left = torch.arange(17).expand(2, -1).gather(1, kept[0])
    for got, want in zip(given[2:], (left, left.gather(1, kept[1])), strict=True):
        assert got is not None
        assert torch.equal(got, want)
