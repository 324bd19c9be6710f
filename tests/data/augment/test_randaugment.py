"""RandAugment on batches: timm's operations and policy, Pillow's pixels."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from famba.config import Recipe
from famba.data.augment import timm
from famba.data.augment.batched import TrainTransform
from famba.data.augment.randaugment import COLOUR, GEOMETRIC, OPERATIONS, Draw, Policy, draw, rand_augment
from famba.errors import InputError

POLICY = Policy.parse("rand-m9-mstd0.5-inc1")
INCREASING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")


def timm_name(name: str) -> str:
    return name + ("Increasing" if name in INCREASING else "Rel" if name.startswith("Translate") else "")


@pytest.fixture(scope="module")
def timm_operations():
    """timm's operations under the recipe's settings, by our names; level and sign are still to be set."""
    transform = timm.train_transform(Recipe(), 224)
    by_name = {operation.name: operation for operation in transform.transforms[2].ops}
    return {name: by_name[timm_name(name)] for name in OPERATIONS}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """An image as the recipe has it after its crop: enlarged, smooth, colourful, not using the full range."""
    rng = np.random.default_rng(4)
    small = rng.integers(20, 230, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((64, 64), Image.BICUBIC)


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()


def by_timm(operation, image: Image.Image, level: float, sign: int) -> Image.Image:
    """One operation of timm's at a level of 0..1 and with a sign, without its own draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm.data.auto_augment.random", SimpleNamespace(random=lambda: 0.9 if sign < 0 else 0.1))
        arguments = operation.level_fn(level * 10, operation.hparams) if operation.level_fn else ()
    return operation.aug_fn(image, *arguments, **dict(operation.kwargs))


def one_draw(*operations: tuple[str, float, int]) -> Draw:
    """The draw of a single image: (operation, level, sign) for each layer, "" for none."""
    names, levels, signs = zip(*operations, strict=True)
    index = [OPERATIONS.index(name) if name else -1 for name in names]
    return Draw(torch.tensor([index]), torch.tensor([levels], dtype=torch.float64), torch.tensor([signs]).double())


NONE = ("", 0.0, 1)
LEVELS = [(level, sign) for level in (0.0, 0.33, 0.85, 0.9, 0.97, 1.0) for sign in (-1, 1)]


def test_operations_are_timms(timm_operations):
    assert len(timm_operations) == len(OPERATIONS) == 15


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", COLOUR)
def test_colours_equal_pillows(timm_operations, picture, name, layer):
    for level, sign in LEVELS:
        expected = as_tensor(by_timm(timm_operations[name], picture, level, sign))
        layers = [NONE, NONE]
        layers[layer] = (name, level, sign)
        found = rand_augment(as_tensor(picture)[None], one_draw(*layers))[0]
        difference = (found - expected).abs()
        assert difference.max() <= 1, (level, sign)
        assert (difference > 0).float().mean() < 0.002, (level, sign)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_follows_pillows(timm_operations, picture, name):
    for level, sign in LEVELS:
        expected = as_tensor(by_timm(timm_operations[name], picture, level, sign))
        found = rand_augment(as_tensor(picture)[None], one_draw((name, level, sign), NONE))[0]
        assert_close_images(found, expected)


@pytest.mark.parametrize(
    "layers",
    [
        (("Rotate", 0.9, 1), ("ShearX", 0.8, -1)),
        (("TranslateY", 0.9, -1), ("Rotate", 0.95, -1)),
        (("Solarize", 0.7, 1), ("TranslateX", 0.9, 1)),  # colours before the fill
        (("TranslateX", 0.9, 1), ("Solarize", 0.7, 1)),  # and after it
        (("ShearY", 0.9, 1), ("AutoContrast", 0.9, 1)),
        (("Color", 0.9, 1), ("Posterize", 0.5, 1)),
        (("TranslateX", 0.9, 1), ("TranslateX", 0.9, -1)),  # there and back: what left the image is gone
    ],
    ids=lambda layers: "-".join(layer[0] for layer in layers),
)
def test_two_operations_keep_their_order(timm_operations, picture, layers):
    expected = picture
    for name, level, sign in layers:
        expected = by_timm(timm_operations[name], expected, level, sign)
    found = rand_augment(as_tensor(picture)[None], one_draw(*layers))[0]
    assert_close_images(found, as_tensor(expected))


def assert_close_images(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to the interpolation, and up to fill or image in pixels on the rim of the warped image.

    Operations in the wrong order make more than 9 % of the pixels differ by more than 8 levels.
    """
    difference = (found - expected).abs().amax(0)
    assert (difference > 8).float().mean() < 0.04
    assert difference[difference <= 8].mean() < 2.0


def test_degenerate_images_survive(timm_operations):
    """Flat and two-level images, on which histograms and ranges are empty."""
    flat = Image.new("RGB", (16, 16), (7, 200, 255))
    halves = Image.fromarray(np.repeat(np.array([[0] * 8 + [255] * 8], np.uint8), 16, 0)).convert("RGB")
    for image in (flat, halves):
        for name in COLOUR:
            expected = as_tensor(by_timm(timm_operations[name], image, 0.9, 1))
            found = rand_augment(as_tensor(image)[None], one_draw((name, 0.9, 1), NONE))[0]
            assert (found - expected).abs().max() <= 1, name


def test_images_do_not_touch_each_other(picture):
    """A batch of all kinds gives each image what it gets alone."""
    drawn = draw(POLICY, 64, torch.Generator().manual_seed(0))
    batch = as_tensor(picture).expand(64, -1, -1, -1) - torch.arange(64).view(-1, 1, 1, 1) % 5
    batch = batch.clamp(min=0)
    together = rand_augment(batch.clone(), drawn)
    for i in range(64):
        row = slice(i, i + 1)
        alone = rand_augment(batch[row].clone(), Draw(drawn.operation[row], drawn.level[row], drawn.sign[row]))
        assert torch.equal(alone[0], together[i])
    assert together.min() >= 0
    assert together.max() <= 255
    assert torch.equal(together, together.round())


def test_draws_have_the_policys_distribution():
    drawn = draw(POLICY, 60_000, torch.Generator().manual_seed(1))
    assert drawn.operation.shape == (60_000, 2)
    counts = Counter(drawn.operation.flatten().tolist())
    assert counts[-1] / 120_000 == pytest.approx(0.5, abs=0.01)
    for index in range(15):
        assert counts[index] / 120_000 == pytest.approx(0.5 / 15, rel=0.06)
    # timm: gauss(9, 0.5), clipped at 10
    rng = np.random.default_rng(0)
    expected = np.clip(rng.normal(9, 0.5, 120_000), 0, 10) / 10
    found = drawn.level.flatten().numpy()
    assert found.mean() == pytest.approx(expected.mean(), abs=1e-3)
    for q in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert np.quantile(found, q) == pytest.approx(np.quantile(expected, q), abs=2e-3)
    assert drawn.sign.mean() == pytest.approx(0, abs=0.02)
    assert set(drawn.sign.unique().tolist()) == {-1.0, 1.0}
    # the two layers are drawn independently, with replacement
    both = (drawn.operation[:, 0] == drawn.operation[:, 1]) & (drawn.operation[:, 0] >= 0)
    assert both.float().mean() == pytest.approx(0.25 / 15, rel=0.15)


@pytest.mark.slow
def test_whole_pipeline_has_timms_statistics():
    """Mean, spread and quantiles of the pixels after crop, flip, RandAugment and erasing: batched against timm's."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 6, 6, 3), dtype=np.uint8)
    images = np.stack([np.asarray(Image.fromarray(x).resize((32, 32), Image.BICUBIC)) for x in coarse])
    recipe = Recipe()
    transform = timm.train_transform(recipe, 48)
    views = 250
    with timm.kept_random_state():
        timm.seed_sample(0)
        expected = torch.stack([transform(timm.rgb(image)) for image in images for _ in range(views)])
    batched = TrainTransform(recipe, 48, "cpu")
    repeated = torch.from_numpy(images).repeat_interleave(views, 0)
    found = batched(repeated, torch.Generator().manual_seed(0))
    quantiles = torch.linspace(0.02, 0.98, 13)
    for channel in range(3):
        a, b = found[:, channel].flatten(), expected[:, channel].flatten()
        assert a.mean() == pytest.approx(b.mean().item(), abs=0.05)
        assert a.std() == pytest.approx(b.std().item(), rel=0.04)
        thinned = [x[:: len(x) // 1_000_000 + 1].quantile(quantiles) for x in (a, b)]
        assert (thinned[0] - thinned[1]).abs().max() < 0.12
    per_image = [x.mean((1, 2, 3)) for x in (found, expected)]
    assert (per_image[0].quantile(quantiles) - per_image[1].quantile(quantiles)).abs().max() < 0.15
    spread = [x.std((1, 2, 3)) for x in (found, expected)]
    assert (spread[0].quantile(quantiles) - spread[1].quantile(quantiles)).abs().max() < 0.12


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("rand-m9-mstd0.5-inc1", Policy(9, 0.5)),
        ("rand-m7-inc1", Policy(7, 0)),
        ("rand-m5-mstd1-p0.25-inc1", Policy(5, 1, 0.25)),
    ],
)
def test_policy_notation(text, policy):
    assert Policy.parse(text) == policy


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5", "rand-m9-n3-inc1", "augmix-m3", ""])
def test_unknown_policies_are_refused(text):
    with pytest.raises(InputError, match=r"write it like rand-m9-mstd0\.5-inc1"):
        Policy.parse(text)
