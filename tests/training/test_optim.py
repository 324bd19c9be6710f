"""The learning rate, the optimiser and the loss: the paper's recipe, as timm carries it out."""

import importlib
import math

import pytest
import torch
from torch import nn

from famba.config import Recipe
from famba.data.augment import timm
from famba.model import VisionMamba
from famba.training import optim

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


# loss


def test_loss_is_soft_target_cross_entropy():
    logits, targets = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, 5).softmax(1)
    expected = -(targets * torch.log_softmax(logits, 1)).sum(1).mean()
    assert optim.loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    assert optim.loss(logits.bfloat16(), targets).dtype == torch.float32
