"""The loader: what is trained depends on seed and epoch alone, and arrives as the model takes it."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from famba import data
from famba.config import Recipe
from famba.data.loader import EvalLoader, TrainLoader, rank_parts
from famba.errors import InputError

TENSOR = Recipe(
    augmentation="tensor", rand_augment=None, global_batch=48, mixup_batch=16, micro_batch=16, eval_resize=None
)
TIMM = Recipe(global_batch=48, mixup_batch=16, micro_batch=16, workers=0)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def few(digits):
    """Small enough for whole epochs through timm: three steps of 48 views."""
    return replace(digits, train_images=digits.train_images[:150], train_labels=digits.train_labels[:150])


def collect(dataset, recipe, world_size=1, epoch=1, seed=5, img_size=16):
    """An epoch's images and targets, step by step, all ranks' parts put together."""
    ranks = [TrainLoader(dataset, recipe, img_size, seed, "cpu", rank, world_size) for rank in range(world_size)]
    for step in zip(*(loader.epoch(epoch) for loader in ranks), strict=True):
        micro_batches = [micro for rank in step for micro in rank]
        yield tuple(torch.cat(parts) for parts in zip(*micro_batches, strict=True))


def assert_same(one, other):
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(a[0], b[0]), f"images of step {step}"
        assert torch.equal(a[1], b[1]), f"targets of step {step}"


@pytest.mark.parametrize("recipe", [TENSOR, TIMM], ids=["tensor", "timm"])
@pytest.mark.parametrize("world_size", [2, 3, 4, 6])
def test_what_is_trained_does_not_depend_on_the_number_of_ranks(few, recipe, world_size):
    """Two ranks of 24 share the middle group of 16; six of 8 share every one."""
    assert_same(collect(few, recipe), collect(few, recipe, world_size))


@pytest.mark.parametrize("recipe", [TENSOR, TIMM], ids=["tensor", "timm"])
@pytest.mark.parametrize("micro_batch", [1, 4, 8])
def test_what_is_trained_does_not_depend_on_the_micro_batch(few, recipe, micro_batch):
    assert_same(collect(few, recipe), collect(few, recipe.model_copy(update={"micro_batch": micro_batch})))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_trained_does_not_depend_on_the_workers(few, workers):
    assert_same(collect(few, TIMM), collect(few, TIMM.model_copy(update={"workers": workers})))


@pytest.mark.parametrize("recipe", [TENSOR, TIMM], ids=["tensor", "timm"])
def test_epochs_and_seeds_differ_and_repeat(few, recipe):
    def first(**key):
        return next(collect(few, recipe, **key))[0]

    assert torch.equal(first(), first())
    assert not torch.equal(first(), first(epoch=2))
    assert not torch.equal(first(), first(seed=6))


def test_batches_are_what_the_model_takes(digits):
    loader = TrainLoader(digits, TENSOR, 32, 0, "cpu")
    assert loader.steps == 1280 // 48
    steps = list(loader.epoch(0))
    assert len(steps) == loader.steps
    for micro_batches in steps:
        assert [len(images) for images, _ in micro_batches] == [16, 16, 16]
        for images, targets in micro_batches:
            assert (images.shape, images.dtype) == ((16, 3, 32, 32), torch.float32)
            assert (targets.shape, targets.dtype) == ((16, 10), torch.float32)
            assert images.isfinite().all()
            assert torch.allclose(targets.sum(1), torch.ones(16))
    assert loader.wait_s > 0


def test_views_of_an_image_lie_in_different_groups(digits):
    loader = TrainLoader(digits, TENSOR, 16, 0, "cpu")
    for group in loader.groups(0):
        assert len(np.unique(group.indices)) == len(group.indices)
    step = np.concatenate([group.indices for group in loader.groups(0)[:3]])
    assert len(np.unique(step)) == 16


def test_labels_belong_to_their_images(digits):
    """Without any mixing, crop, flip or erasing an image is the test transform's, and its target is its own label."""
    recipe = TENSOR.model_copy(
        update={
            "mixup": 0.0,
            "cutmix": 0.0,
            "hflip": 0.0,
            "random_erasing": 0.0,
            "crop_scale": (1.0, 1.0),
            "repeats": 1,
        }
    )
    as_test = replace(digits, test_images=digits.train_images, test_labels=digits.train_labels)
    known = {
        image.numpy().tobytes(): label.item()
        for images, labels in EvalLoader(as_test, recipe, 16, "cpu")
        for image, label in zip(images, labels, strict=True)
    }
    found = 0
    for images, targets in collect(digits, recipe):
        for image, target in zip(images, targets, strict=True):
            if (label := known.get(image.numpy().tobytes())) is not None:
                assert target.argmax() == label
                found += 1
    assert found > 0.8 * 1280  # a few crops are not the whole image: any ratio that rounds to an area of 64 is allowed


@pytest.mark.parametrize(("recipe", "workers"), [(TENSOR, 0), (TIMM, 0), (TIMM, 1)])
def test_global_random_state_is_left_alone(few, recipe, workers):
    loader = TrainLoader(few, recipe.model_copy(update={"workers": workers}), 16, 0, "cpu")
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    next(loader.epoch(0))
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_an_epoch_may_be_left_early(few):
    recipe = TIMM.model_copy(update={"workers": 2})
    loader = TrainLoader(few, recipe, 16, 5, "cpu")
    abandoned = loader.epoch(0)
    next(abandoned)
    abandoned.close()
    whole = [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in loader.epoch(1)]
    assert_same(whole, collect(few, TIMM))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_surfaces(few, workers):
    broken = replace(few, train_images=few.train_images.astype(np.complex64))
    loader = TrainLoader(broken, TIMM.model_copy(update={"workers": workers}), 16, 0, "cpu")
    with pytest.raises(TypeError, match="data type"):
        next(loader.epoch(0))


def test_workers_are_no_more_than_cpus(few, monkeypatch):
    monkeypatch.setattr("famba.data.loader.usable_cpus", lambda: 1)
    assert TrainLoader(few, TIMM.model_copy(update={"workers": 25}), 16, 0, "cpu").workers == 1


def test_rank_parts_tile_the_global_batch():
    recipe = Recipe(global_batch=512, mixup_batch=128)
    assert rank_parts(recipe, 0, 1) == {group: slice(0, 128) for group in range(4)}
    assert rank_parts(recipe, 3, 4) == {3: slice(0, 128)}
    assert rank_parts(recipe, 5, 8) == {2: slice(64, 128)}


def test_world_must_divide_the_batch(few):
    with pytest.raises(InputError, match="global_batch 48 is not a multiple of the 5 processes"):
        TrainLoader(few, TENSOR, 16, 0, "cpu", rank=0, world_size=5)


def test_a_set_below_one_batch_is_refused(few):
    with pytest.raises(InputError, match="set a smaller global_batch"):
        TrainLoader(few, Recipe(), 16, 0, "cpu")


@pytest.mark.parametrize("recipe", [TENSOR, TIMM.model_copy(update={"eval_resize": 20})], ids=["tensor", "timm"])
def test_evaluation_covers_the_test_set_in_order(digits, recipe):
    loader = EvalLoader(digits, recipe.model_copy(update={"eval_batch": 100}), 16, "cpu")
    batches = list(loader)
    assert len(loader) == len(digits.test_labels)
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.from_numpy(digits.test_labels))
    assert {images.shape[1:] for images, _ in batches} == {(3, 16, 16)}
    assert max(len(images) for images, _ in batches) == 100
    again = list(loader)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, again, strict=True))
    single = EvalLoader(digits, recipe.model_copy(update={"eval_batch": 1}), 16, "cpu", rank=1, world_size=2)
    assert torch.equal(single.first(2), loader.first(2))
    assert torch.allclose(loader.first(2), batches[0][0][:2], atol=1e-6)
    assert len(loader.first(1000)) == len(loader)
