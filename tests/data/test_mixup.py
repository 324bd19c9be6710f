"""Targets, mixup and CutMix: timm's, drawn as the recipe says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from famba.config import Recipe
from famba.data.augment import timm
from famba.data.mixup import Mix, cutmix_box, draw_mix, soft_targets

PAPER = Recipe()


def test_soft_targets():
    targets = soft_targets(torch.tensor([2, 0]), classes=5, smoothing=0.1)
    assert torch.allclose(targets, torch.tensor([[0.02, 0.02, 0.92, 0.02, 0.02], [0.92, 0.02, 0.02, 0.02, 0.02]]))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.001, 0.999), st.booleans(), st.integers(0, 31), st.integers(0, 31))
def test_mixing_equals_timms(lam, cutmix, y, x):
    mixup = timm.timm_data().Mixup(0.8, 1.0, num_classes=7, label_smoothing=0.1)
    mixup._params_per_batch = lambda: (lam, cutmix)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 6, 2, 2])
    with pytest.MonkeyPatch.context() as patch:  # the box's centre, of which timm draws y first
        centre = iter((y, x))
        patch.setattr(np.random, "randint", lambda low, high, size: next(centre))
        expected, expected_targets = mixup(images.clone(), labels)
    mix = cutmix_box(lam, 32, y, x) if cutmix else Mix(lam)
    before = images.clone()
    assert torch.equal(mix.images(images), expected)
    assert torch.equal(images, before)
    targets = mix.targets(soft_targets(labels, 7, 0.1))
    assert torch.allclose(targets, expected_targets, atol=1e-7)
    assert torch.allclose(targets.sum(1), torch.ones(4))


def test_mix_draws_follow_the_recipe():
    rng = np.random.default_rng(0)
    mixes = [draw_mix(PAPER, 224, rng) for _ in range(4000)]
    cutmixes = [mix for mix in mixes if mix.box]
    assert len(cutmixes) / 4000 == pytest.approx(0.5, abs=0.03)
    lams = np.array([mix.lam for mix in mixes if not mix.box])
    # Beta(0.8, 0.8) has mean 1/2 and variance 1 / (4 (2 * 0.8 + 1))
    assert lams.mean() == pytest.approx(0.5, abs=0.03)
    assert lams.var() == pytest.approx(1 / 10.4, rel=0.08)
    for mix in cutmixes:
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 224
        assert 0 <= left <= right <= 224
        assert mix.lam == pytest.approx(1 - (bottom - top) * (right - left) / 224**2)


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"mixup": 0, "cutmix": 0}, {"none"}),
        ({"mixup_prob": 0}, {"none"}),
        ({"mixup": 0}, {"cutmix"}),
        ({"cutmix": 0}, {"mixup"}),
        ({"mixup_switch_prob": 1}, {"cutmix"}),
    ],
)
def test_mix_can_be_switched_off(changes, kinds):
    rng = np.random.default_rng(0)
    mixes = [draw_mix(Recipe(**changes), 32, rng) for _ in range(50)]
    assert {"cutmix" if mix.box else "none" if mix.lam == 1 else "mixup" for mix in mixes} == kinds
