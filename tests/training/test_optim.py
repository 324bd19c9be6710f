import importlib
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from famba.config import Recipe
from famba.data import sampling
from famba.data.augment import timm
from famba.data.mixup import Mix, cutmix_box, draw_mix, soft_targets
from famba.data.seeds import derived_seed, seed_everything
from famba.errors import InputError
from famba.model import VisionMamba
from famba.training import optim
from famba.training.ema import Ema

PAPER = Recipe()


@pytest.fixture(scope="module")
def vim() -> VisionMamba:
    return VisionMamba(embed_dim=32, depth=2, img_size=32, patch_size=8, num_classes=10, scan="reference")


# learning rate


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 1e-6),
        (1, 1e-6),  # stepped after the epoch: the first step sets schedule(0), again the start of the warm-up
        (2, 1e-6 + (5e-4 - 1e-6) / 5),
        (5, 4.002e-4),
        (6, 4.9966e-4),  # the peak: the cosine, not shifted, is at 5 / 300 already
        (150, 1e-5 + 2.45e-4 * (1 + math.cos(math.pi * 149 / 300))),
        (299, 1e-5 + 2.45e-4 * (1 + math.cos(math.pi * 298 / 300))),
    ],
)
def test_learning_rate_of_the_paper(epoch, expected):
    assert optim.learning_rate(PAPER, epoch) == pytest.approx(expected, rel=1e-5)


def test_learning_rate_peaks_at_epoch_6():
    rates = [optim.learning_rate(PAPER, epoch) for epoch in range(300)]
    assert max(range(300), key=rates.__getitem__) == 6
    assert rates[6:] == sorted(rates[6:], reverse=True)


def test_the_rates_that_the_paper_runs():
    run = optim.rates(PAPER, 97)
    assert (run.first, run.steps, run.peak_step) == (1e-6, 29_100, 6 * 97)
    assert run.peak == pytest.approx(4.9966e-4, rel=1e-4)
    assert run.slow == pytest.approx(0.187, abs=1e-3)
    assert run.warning is None


@pytest.mark.parametrize(
    ("changes", "slow"),
    [
        ({"epochs": 2, "warmup_epochs": 1}, 1.0),  # both epochs at the lowest rate
        ({"epochs": 4, "warmup_epochs": 1, "sched_on_updates": True}, 0.2075),
        ({"epochs": 4, "warmup_epochs": 2, "warmup_lr": 5e-4, "sched_on_updates": True}, 0.18),
        ({"epochs": 300, "warmup_epochs": 0, "min_lr": 0, "sched_on_updates": True}, 0.205),  # a plain cosine
    ],
)
def test_a_training_that_hardly_learns_is_told(changes, slow):
    run = optim.rates(Recipe(**changes), 100)
    assert run.slow == pytest.approx(slow, abs=0.003)
    assert (run.warning is not None) == (slow > 0.21)
    if run.warning:
        assert f"{run.slow:.0%} of the steps" in run.warning


def test_learning_rate_follows_timms_scheduler():
    timm.timm_data()
    scheduler_class = importlib.import_module("timm.scheduler").CosineLRScheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PAPER.peak_lr)
    scheduler = scheduler_class(optimizer, t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    for epoch in range(300):
        assert optim.learning_rate(PAPER, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        scheduler.step(epoch)


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_learning_rate_per_step_follows_timms_scheduler(warmup):
    """As timm's train.py with --sched-on-updates: `step_update` after every update, times counted in updates."""
    timm.timm_data()
    scheduler_class = importlib.import_module("timm.scheduler").CosineLRScheduler

    settings, steps = Recipe(epochs=4, warmup_epochs=warmup, sched_on_updates=True), 7
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.peak_lr)
    scheduler = scheduler_class(
        optimizer, t_initial=4 * steps, lr_min=1e-5, warmup_t=warmup * steps, warmup_lr_init=1e-6, t_in_epochs=False
    )
    for update in range(4 * steps):
        rate = optim.learning_rate(settings, *divmod(update, steps), steps)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        scheduler.step_update(update + 1)


def test_learning_rate_per_epoch_is_the_same_at_every_step():
    assert {optim.learning_rate(PAPER, 3, step, 97) for step in range(97)} == {optim.learning_rate(PAPER, 3)}


def test_learning_rate_scales_with_the_batch_and_may_skip_the_warm_up():
    small = Recipe(global_batch=128, warmup_epochs=0)
    assert optim.learning_rate(small, 0) == pytest.approx(1.25e-4)


# optimiser


def test_what_is_decayed(vim):
    decayed, exempt = optim.parameter_groups(vim, 0.1)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in vim.named_parameters()}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    exempt_names = {names[id(parameter)] for parameter in exempt["params"]}
    assert decayed_names | exempt_names == set(names.values())
    assert not decayed_names & exempt_names
    mixer = "layers.0.mixer."
    assert {mixer + "A_log", mixer + "A_b_log", mixer + "conv1d.weight", "head.weight"} <= decayed_names
    assert {mixer + "D", mixer + "D_b", mixer + "dt_proj.bias", mixer + "conv1d.bias"} <= exempt_names
    assert {"pos_embed", "cls_token", "head.bias", "norm_f.weight", "layers.1.norm.weight"} <= exempt_names


def test_optimizer_is_the_recipes(vim):
    optimizer = optim.optimizer(vim, PAPER)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (1e-6, (0.9, 0.999), 1e-8)
    before = {name: parameter.detach().clone() for name, parameter in vim.named_parameters()}
    for parameter in vim.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # no gradient: all that moves is what decays
    moved = {name for name, parameter in vim.named_parameters() if not torch.equal(parameter, before[name])}
    assert "layers.0.mixer.A_b_log" in moved
    assert not {"pos_embed", "cls_token", "layers.0.mixer.D", "head.bias"} & moved


# sampling


def test_paper_step_count():
    assert sampling.steps_per_epoch(50_000, PAPER) == 97
    assert sampling.steps_per_epoch(50_000, PAPER) * PAPER.epochs == 29_100


@pytest.mark.parametrize(
    ("images", "batch", "repeats", "steps"),
    [
        (50_000, 512, 1, 97),
        (1500, 64, 1, 23),
        (1500, 64, 3, 20),  # 1280 views
        (255, 64, 3, 3),  # below DeiT's block of 256, of which it would keep nothing
        (512, 512, 3, 1),
    ],
)
def test_step_counts(images, batch, repeats, steps):
    settings = Recipe(global_batch=batch, mixup_batch=batch, micro_batch=batch, repeats=repeats)
    assert sampling.steps_per_epoch(images, settings) == steps


def test_too_small_a_set_is_refused():
    with pytest.raises(InputError, match="global_batch 512 is more than the 256 views"):
        sampling.steps_per_epoch(511, PAPER)


def test_an_epoch_sees_a_third_of_the_images():
    order = sampling.epoch_order(50_000, PAPER, seed=0, epoch=0)
    assert order.shape == (97 * 512,)
    assert order.unique().numel() / 50_000 == pytest.approx(0.331, abs=5e-4)
    triples = order[: len(order) // 3 * 3].view(-1, 3)
    assert (triples == triples[:, :1]).all()


def test_order_without_repeats_is_a_permutation():
    settings = Recipe(repeats=1, global_batch=64, mixup_batch=64, micro_batch=64)
    order = sampling.epoch_order(640, settings, seed=3, epoch=1)
    assert torch.equal(order.sort().values, torch.arange(640))


def test_order_depends_on_seed_and_epoch_only():
    torch.manual_seed(0)
    first = sampling.epoch_order(50_000, PAPER, seed=1, epoch=2)
    torch.manual_seed(1)
    assert torch.equal(first, sampling.epoch_order(50_000, PAPER, seed=1, epoch=2))
    assert not torch.equal(first, sampling.epoch_order(50_000, PAPER, seed=2, epoch=1))
    assert not torch.equal(first, sampling.epoch_order(50_000, PAPER, seed=1, epoch=3))


def test_order_is_what_deits_ranks_take_together():
    """DeiT's RASampler (deit/samplers.py), for four ranks of 128, on our permutation."""
    generator = torch.Generator().manual_seed(derived_seed(0, "order", 5))
    views = torch.randperm(50_000, generator=generator).repeat_interleave(3)
    ranks = [views[rank::4][: 50_000 // 256 * 256 // 4] for rank in range(4)]
    order = sampling.epoch_order(50_000, PAPER, seed=0, epoch=5)
    for step in (0, 1, 96):
        union = torch.cat([rank[128 * step : 128 * (step + 1)] for rank in ranks])
        assert torch.equal(union.sort().values, order[512 * step : 512 * (step + 1)].sort().values)


def test_derived_seeds_differ():
    seeds = {derived_seed(s, name, a, b) for s in range(3) for name in "ab" for a in range(5) for b in range(5)}
    assert len(seeds) == 3 * 2 * 5 * 5
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_seed_everything_covers_python_numpy_and_torch():
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(7)
    first = draws()
    seed_everything(7)
    assert draws() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


# targets, mixup, loss


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


def test_loss_is_soft_target_cross_entropy():
    logits, targets = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, 5).softmax(1)
    expected = -(targets * torch.log_softmax(logits, 1)).sum(1).mean()
    assert optim.loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    assert optim.loss(logits.bfloat16(), targets).dtype == torch.float32


# weight averaging


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
