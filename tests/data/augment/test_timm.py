"""timm's transform, set up as the recipe says."""

import random
from importlib import metadata

import numpy as np
import pytest
import torch

from famba.config import Recipe
from famba.data import dataset
from famba.data.augment import timm
from famba.errors import InputError
from tests.helpers.images import smooth_image


def test_timm_transform_is_the_recipes():
    transform = timm.train_transform(Recipe(), 224)
    names = [type(stage).__name__ for stage in transform.transforms]
    assert names == [
        "RandomResizedCropAndInterpolation",
        "RandomHorizontalFlip",
        "RandAugment",
        "MaybeToTensor",
        "Normalize",
        "RandomErasing",
    ]
    crop, flip, augment, _, normalize, erasing = transform.transforms
    assert (crop.size, crop.scale, crop.ratio) == ((224, 224), (0.08, 1.0), (3 / 4, 4 / 3))
    assert crop.interpolation.value == "bicubic"
    assert flip.p == 0.5
    assert (len(augment.ops), augment.num_layers) == (15, 2)
    assert all((op.magnitude, op.magnitude_std, op.prob) == (9, 0.5, 0.5) for op in augment.ops)
    assert normalize.mean.tolist() == pytest.approx(dataset.MEAN)
    assert (erasing.probability, erasing.per_pixel, erasing.max_count) == (0.25, True, 1)


def test_timm_transform_without_rand_augment_leaves_colours_alone():
    transform = timm.train_transform(Recipe(rand_augment=None, random_erasing=0.0), 32)
    names = [type(stage).__name__ for stage in transform.transforms]
    assert names == ["RandomResizedCropAndInterpolation", "RandomHorizontalFlip", "MaybeToTensor", "Normalize"]


def test_posterize_to_no_bits_is_black():
    """Magnitude 10, which m9-mstd0.5 is clipped to now and then, asks for 0 bits; Pillow 13 refuses that."""
    transform = timm.train_transform(Recipe(rand_augment="rand-m10-p1-inc1"), 32)
    posterize = next(op for op in transform.transforms[2].ops if op.name == "PosterizeIncreasing")
    image = timm.rgb(smooth_image(16, 16, 3))
    assert not np.asarray(posterize(image)).any()
    posterize.magnitude = 5  # 4 - int(0.5 * 4) = 2 bits
    assert np.array_equal(np.asarray(posterize(image)), np.asarray(image) & 0b11000000)


def test_every_operation_of_the_recipe_runs():
    transform = timm.train_transform(Recipe(rand_augment="rand-m9-mstd3-p1-inc1"), 16)
    image = timm.rgb(smooth_image(16, 16, 3))
    with timm.kept_random_state():
        timm.seed_sample(0)
        for operation in transform.transforms[2].ops:
            for _ in range(30):
                assert operation(image).size == (16, 16)


def test_an_unknown_policy_is_refused():
    with pytest.raises(InputError, match="rand_augment 'rand-q9' is not"):
        timm.train_transform(Recipe(rand_augment="rand-q9"), 32)


def test_missing_timm_says_what_to_install(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(InputError, match=r"needs torchvision, .* pip install '\.\[paper\]'"):
        timm.train_transform(Recipe(), 224)


def test_random_state_is_kept():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    with timm.kept_random_state():
        timm.seed_sample(2**63 + 5)
        assert (random.random(), np.random.rand(), torch.rand(1).item()) != expected
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_grey_images_become_rgb():
    grey = smooth_image(8, 8, 1)
    image = timm.rgb(grey)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), grey.repeat(3, axis=2))
