import importlib
import random
from importlib import metadata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from famba.config import Recipe
from famba.data import dataset
from famba.data.augment import batched, timm
from famba.data.augment.resample import resample, resize_weights
from famba.errors import InputError

PLAIN = Recipe(augmentation="tensor", rand_augment=None, random_erasing=0.0)
MEAN, STD = torch.tensor(dataset.MEAN)[:, None, None], torch.tensor(dataset.STD)[:, None, None]


def smooth_image(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """A picture-like (H, W, C) uint8 array: large structures, some noise, the full range."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noisy = np.asarray(coarse) + rng.normal(0, 8, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)[:, :, :channels]


def generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation: 0..255."""
    return (images * STD + MEAN) * 255


# resampling


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_crop_and_resize_give_pillows_pixels(data):
    height, width = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
    top, left = data.draw(st.integers(0, height - 2)), data.draw(st.integers(0, width - 2))
    box_height, box_width = data.draw(st.integers(2, height - top)), data.draw(st.integers(2, width - left))
    size = data.draw(st.sampled_from([8, 16, 32, 50]))  # enlarges and reduces
    image = smooth_image(height, width, 3)
    box = (left, top, left + box_width, top + box_height)
    expected = np.asarray(Image.fromarray(image).crop(box).resize((size, size), Image.BICUBIC)).astype(int)
    rows = resize_weights(torch.tensor([top]), torch.tensor([box_height]), height, size)
    columns = resize_weights(torch.tensor([left]), torch.tensor([box_width]), width, size)
    found = resample(torch.from_numpy(image)[None], rows, columns)[0].permute(1, 2, 0).numpy()
    difference = np.abs(found - expected)
    if max(box_height, box_width) <= size:
        assert difference.max() <= 2
        assert difference.mean() < 0.07  # ties between two levels, which small boxes have many of
    else:  # Pillow's order of passes varies
        assert difference.max() <= 12
        assert difference.mean() < 0.6


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 64), st.integers(1, 80), st.data())
def test_weights_are_an_average_inside_the_box(size_in, size_out, data):
    start = data.draw(st.integers(0, size_in - 1))
    extent = data.draw(st.integers(1, size_in - start))
    weights = resize_weights(torch.tensor([start]), torch.tensor([extent]), size_in, size_out)[0]
    assert weights.shape == (size_out, size_in)
    torch.testing.assert_close(weights.sum(1), torch.ones(size_out))
    outside = torch.ones(size_in, dtype=torch.bool)
    outside[start : start + extent] = False
    assert not weights[:, outside].any()


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


# timm's transform


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
