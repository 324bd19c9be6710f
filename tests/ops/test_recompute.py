"""What is made again must be the same, must not be kept, and must be made once per backward pass."""

import pytest
import torch

from famba.ops.recompute import Recompute


def run(weight: torch.Tensor, x: torch.Tensor, recomputed: bool) -> tuple[torch.Tensor, list[int]]:
    made = []

    def middle() -> torch.Tensor:
        made.append(1)
        return (x @ weight).sigmoid()

    with Recompute() as recompute:
        h = recompute(middle) if recomputed else middle()
        out = (h * h.sin()).sum() + (h.view(-1)[2:] ** 2).sum()  # saved three times, once as a strided view
    return out, made


def test_gradients_are_those_of_the_kept_tensor_and_it_is_made_once_more():
    weight, x = torch.randn(5, 4, requires_grad=True), torch.randn(3, 5)
    kept, _ = run(weight, x, recomputed=False)
    (expected,) = torch.autograd.grad(kept, weight)
    out, made = run(weight, x, recomputed=True)
    assert torch.equal(out, kept)
    assert len(made) == 1
    (grad,) = torch.autograd.grad(out, weight)
    assert torch.equal(grad, expected)
    assert len(made) == 2


def test_autocast_is_entered_again():
    weight, x = torch.randn(5, 4, requires_grad=True), torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out, made = run(weight, x, recomputed=True)
    out.backward()
    assert len(made) == 2
    assert weight.grad.isfinite().all()


def test_nothing_is_prepared_without_a_gradient():
    with torch.no_grad():
        out, made = run(torch.randn(5, 4), torch.randn(3, 5), recomputed=True)
    assert out.grad_fn is None
    assert len(made) == 1


@pytest.mark.parametrize("times", [2])
def test_a_graph_can_be_walked_again(times):
    weight, x = torch.randn(5, 4, requires_grad=True), torch.randn(3, 5)
    out, _ = run(weight, x, recomputed=True)
    first, second = (torch.autograd.grad(out, weight, retain_graph=True)[0] for _ in range(times))
    assert torch.equal(first, second)
