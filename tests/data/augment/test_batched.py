"""The batched transforms: torchvision's pixels in evaluation, timm's distributions in training."""

import importlib
import random

import numpy as np
import pytest
import torch
from PIL import Image

from famba.config import Recipe
from famba.data import dataset
from famba.data.augment import batched, timm
from famba.errors import InputError
from tests.helpers.images import smooth_image

PLAIN = Recipe(augmentation="tensor", rand_augment=None, random_erasing=0.0)
MEAN, STD = torch.tensor(dataset.MEAN)[:, None, None], torch.tensor(dataset.STD)[:, None, None]


def generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation: 0..255."""
    return (images * STD + MEAN) * 255


# evaluation


@pytest.mark.parametrize(
    ("shape", "img_size", "eval_resize"),
    [
        ((32, 32, 3), 224, 256),
        ((28, 28, 1), 32, 36),
        ((30, 45, 3), 32, 40),
        ((40, 31, 3), 24, 25),
        ((8, 8, 1), 32, None),
    ],
)
def test_evaluation_equals_torchvisions(shape, img_size, eval_resize):
    timm.timm_data()
    transforms = importlib.import_module("torchvision.transforms")

    image = smooth_image(*shape)
    recipe = PLAIN.model_copy(update={"eval_resize": eval_resize})
    reference = transforms.Compose(
        [
            transforms.Resize(eval_resize or img_size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(img_size),
            transforms.ToTensor(),
            transforms.Normalize(dataset.MEAN, dataset.STD),
        ]
    )
    expected = pixels(reference(timm.rgb(image)))
    found = pixels(batched.EvalTransform(recipe, img_size, "cpu")(torch.from_numpy(image)[None])[0])
    assert found.shape == (3, img_size, img_size)
    difference = (found - expected).abs()
    assert difference.max() < 1.01
    assert (difference > 0.01).float().mean() < 0.01


def test_evaluation_cannot_crop_more_than_it_resized():
    with pytest.raises(InputError, match="eval_resize 256 is less than the model's img_size 288"):
        batched.EvalTransform(Recipe(), 288, "cpu")


# the batched training transform


def test_training_transform_is_a_crop_a_resize_and_a_flip():
    """With the whole image as the only crop, what is left is Pillow's resize, mirrored for about half the images."""
    recipe = PLAIN.model_copy(update={"crop_scale": (1.0, 1.0)})
    image = smooth_image(16, 16, 1)
    transform = batched.TrainTransform(recipe, 16, "cpu")
    found = transform(torch.from_numpy(image)[None].expand(400, -1, -1, -1), torch.Generator().manual_seed(0))
    expected = batched.EvalTransform(recipe.model_copy(update={"eval_resize": None}), 16, "cpu")(
        torch.from_numpy(image)[None]
    )
    whole = (found == expected).flatten(1).all(1)
    mirrored = (found == expected.flip(3)).flatten(1).all(1)
    # scale (1, 1) leaves the ratio to chance: only a near-square box fits, or the fall-back, the whole image
    assert (whole | mirrored).float().mean() > 0.9
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.1)


def test_draws_come_from_the_generator_alone():
    images = torch.randint(0, 256, (8, 28, 28, 1), dtype=torch.uint8)
    transform = batched.TrainTransform(Recipe(augmentation="tensor", rand_augment=None), 32, "cpu")
    first = transform(images, torch.Generator().manual_seed(1))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(first, transform(images, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, transform(images, torch.Generator().manual_seed(2)))
    assert torch.equal(state, torch.get_rng_state())
    assert first.shape == (8, 3, 32, 32)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("size", [(32, 32), (20, 60)])
def test_crop_boxes_have_timms_distribution(size):
    timm_transforms = timm.timm_data().transforms
    height, width = size
    image = Image.new("RGB", (width, height))
    random.seed(0)
    draw = timm_transforms.RandomResizedCropAndInterpolation.get_params
    expected = np.array([draw(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(20_000)])  # top, left, height, width
    boxes = batched.crop_boxes(20_000, height, width, (0.08, 1.0), torch.Generator().manual_seed(0))
    found = torch.stack(boxes, 1).numpy()
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= (height, width)).all()
    assert np.array_equal(found, found.round())
    for column in range(4):
        assert found[:, column].mean() == pytest.approx(expected[:, column].mean(), rel=0.02)
        quantiles = np.linspace(0.05, 0.95, 7)
        a, b = (np.quantile(x[:, column], quantiles) for x in (found, expected))
        assert np.abs(a - b).max() <= 1  # whole pixels


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_erased_rectangles_have_timms_distribution(size):
    height, width = size
    timm_erasing = timm.timm_data().random_erasing.RandomErasing(0.25, mode="pixel", max_count=1, device="cpu")
    random.seed(0)
    torch.manual_seed(0)
    blank = torch.zeros(6000, 1, height, width)
    expected = timm_erasing(blank.clone())
    found = batched.erase(blank.clone(), 0.25, *generators(0))
    areas = [(x != 0).flatten(1).sum(1).float() / (height * width) for x in (found, expected)]
    assert (areas[0] > 0).float().mean() == pytest.approx(0.25, abs=0.025)
    hit = [area[area > 0] for area in areas]
    assert hit[0].max() <= 0.40  # a third, and rounding
    quantiles = torch.linspace(0.1, 0.9, 9)
    assert (hit[0].quantile(quantiles) - hit[1].quantile(quantiles)).abs().max() < 0.03
    where = [(x != 0).float().mean((0, 1)) for x in (found, expected)]
    assert (where[0] - where[1]).abs().max() < 0.03
    noise = found[found != 0]
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)


def test_what_is_erased_is_a_rectangle_and_the_rest_is_untouched():
    images = torch.full((50, 3, 24, 24), 7.0)
    erased = batched.erase(images, 1.0, *generators(3))
    for mask in (erased != 7).all(1):
        rows, columns = mask.any(1), mask.any(0)
        assert mask.any()
        assert torch.equal(mask, rows[:, None] & columns)
        assert (rows.int().diff() != 0).sum() <= 2
        assert (columns.int().diff() != 0).sum() <= 2
    assert torch.equal((erased != 7).any(1), (erased != 7).all(1))
