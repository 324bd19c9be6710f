"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from famba.training.ema import Ema


def test_ema_closed_form():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    ema = Ema(model, decay=0.9)
    model.weight.data.fill_(1.0)
    for _ in range(10):
        ema.update(model)
    assert ema.state_dict()["weight"].item() == pytest.approx(1 - 0.9**10, rel=1e-6)
    storage = model.weight.data_ptr()
    with ema.applied_to(model):
        assert model.weight.item() == pytest.approx(1 - 0.9**10, rel=1e-6)
        assert model.weight.data_ptr() == storage
    assert model.weight.item() == 1.0


def test_ema_gives_the_weights_back_after_an_error():
    model = nn.Linear(2, 2)
    ema, own = Ema(model, 0.5), model.weight.detach().clone()
    ema.load_state_dict({name: torch.zeros_like(value) for name, value in ema.state_dict().items()})
    with pytest.raises(RuntimeError, match="shapes"), ema.applied_to(model):
        model(torch.zeros(1, 3))  # takes 2
    assert torch.equal(model.weight, own)


def test_ema_state_round_trip():
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.99)
    model.weight.data.add_(1.0)
    ema.update(model)
    other = Ema(model, 0.99)
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), ema.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="weight"):
        other.load_state_dict({"bias": torch.zeros(2)})
