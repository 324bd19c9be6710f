"""How many steps an epoch has, and the order of its images: the paper's counts, and DeiT's sampler."""

import pytest
import torch

from famba.config import Recipe
from famba.data import sampling
from famba.data.seeds import derived_seed
from famba.errors import InputError

PAPER = Recipe()


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


def test_an_epoch_of_fewer_steps_begins_as_the_whole_one():
    batches = {"global_batch": 64, "mixup_batch": 64, "micro_batch": 64, "repeats": 1}
    short, whole = Recipe(**batches, steps_per_epoch=3), Recipe(**batches)
    assert sampling.steps_per_epoch(640, short) == 3
    order = sampling.epoch_order(640, short, seed=3, epoch=1)
    assert torch.equal(order, sampling.epoch_order(640, whole, seed=3, epoch=1)[: 3 * 64])
    with pytest.raises(InputError, match="steps_per_epoch 11 is more than the 10 steps of 64 that 640 training images"):
        sampling.steps_per_epoch(640, Recipe(**batches, steps_per_epoch=11))


def test_a_recipe_of_fewer_steps_is_none_of_the_paper():
    assert Recipe(steps_per_epoch=97).preset == "custom"
    assert "steps_per_epoch" not in PAPER.model_dump()


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
