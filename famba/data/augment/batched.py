"""Augmentation and evaluation transforms of a whole batch on its device, straight from the stored 8-bit images.

The distributions are those of the per-image pipeline in `timm`: crop boxes and erased rectangles are drawn with the
same ten attempts and rounding, and cropped images are resampled to the same pixels (`resample`).
"""

import math

import torch
from torch import Tensor

from famba.config import Recipe
from famba.data.augment.randaugment import Policy, draw, rand_augment
from famba.data.augment.resample import resample, resize_weights
from famba.data.dataset import MEAN, STD
from famba.errors import InputError

CROP_RATIO = (3 / 4, 4 / 3)
ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 1 / 0.3)
ATTEMPTS = 10  # at a box that fits, before the fall-back: torchvision's and timm's number


class Normalize:
    """0..255 -> ImageNet's mean 0 and deviation 1; a grey image gets three equal channels first."""

    def __init__(self, device: torch.device | str) -> None:
        self.mean = 255 * torch.tensor(MEAN, device=device)[:, None, None]
        self.std = 255 * torch.tensor(STD, device=device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, S, S) -> (B, 3, S, S) float32, contiguous."""
        return (images - self.mean).div_(self.std).contiguous()


class TrainTransform:
    """Random resized crop, flip, RandAugment and random erasing of a batch, as the recipe sets them.

    The flip is folded into the resampling weights. Boxes and operations are drawn on the host, which then knows every
    shape: no step waits for the device. Raises InputError for a `rand_augment` that is not known here.
    """

    def __init__(self, recipe: Recipe, img_size: int, device: torch.device | str) -> None:
        self.recipe, self.img_size = recipe, img_size
        self.policy = Policy.parse(recipe.rand_augment) if recipe.rand_augment else None
        self.normalize = Normalize(device)
        self.noise = torch.Generator(device)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """images (B, H, W, 1 or 3) uint8 -> (B, 3, S, S) float32; every draw follows from the generator, a CPU one."""
        batch, height, width, _ = images.shape
        boxes = torch.stack(crop_boxes(batch, height, width, self.recipe.crop_scale, generator))
        top, left, box_height, box_width = boxes.to(images.device, non_blocking=True)
        flip = torch.rand(batch, generator=generator) < self.recipe.hflip
        rows = resize_weights(top, box_height, height, self.img_size)
        columns = resize_weights(left, box_width, width, self.img_size)
        columns = torch.where(flip.to(images.device, non_blocking=True)[:, None, None], columns.flip(1), columns)
        x = resample(images, rows, columns)
        if self.policy is not None:
            x = rand_augment(x.expand(-1, 3, -1, -1).contiguous(), draw(self.policy, batch, generator))
        self.noise.manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
        return erase(self.normalize(x), self.recipe.random_erasing, generator, self.noise)


class EvalTransform:
    """Resize the shorter side to `eval_resize` (null: img_size), take the centre, normalise: the recipe's evaluation.

    Raises InputError when the crop is larger than the resized image.
    """

    def __init__(self, recipe: Recipe, img_size: int, device: torch.device | str) -> None:
        self.shorter = recipe.eval_resize or img_size
        self.img_size = img_size
        if self.shorter < img_size:
            raise InputError(f"recipe: eval_resize {self.shorter} is less than the model's img_size {img_size}")
        self.normalize = Normalize(device)

    def __call__(self, images: Tensor) -> Tensor:
        """images (B, H, W, 1 or 3) uint8 -> (B, 3, S, S) float32."""
        height, width = images.shape[1:3]
        rows, columns = (self._weights(size, min(height, width), images.device) for size in (height, width))
        return self.normalize(resample(images, rows, columns))

    def _weights(self, size: int, shorter: int, device: torch.device) -> Tensor:
        """Resize an axis of an image whose shorter side is given, and keep the centre: (1, S, size)."""
        resized = self.shorter * size // shorter
        first = round((resized - self.img_size) / 2)
        whole = torch.zeros(1, device=device)
        return resize_weights(whole, whole + size, size, resized)[:, first : first + self.img_size]


def crop_boxes(
    batch: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes of RandomResizedCrop: top, left, height, width, each (batch,) whole pixels in float32.

    Area uniform in `scale` of the image, ratio log-uniform in 3/4..4/3, rounded; the first of ten attempts that fits,
    else the largest centred box of an allowed ratio.
    """
    box_height, box_width = _rectangles(batch, height * width, scale, CROP_RATIO, generator, tall=False)
    fits = (box_height <= height) & (box_width <= width)
    ratio = min(max(width / height, CROP_RATIO[0]), CROP_RATIO[1])
    fall_back = (round(min(height, width / ratio)), round(min(width, height * ratio)))
    box_height, box_width = _first(fits, (box_height, box_width), fall_back)
    free_height, free_width = height - box_height, width - box_width
    any_fits = fits.any(1)
    top = torch.where(any_fits, _place(free_height, generator), (free_height / 2).floor())
    left = torch.where(any_fits, _place(free_width, generator), (free_width / 2).floor())
    return top, left, box_height, box_width


def erase(images: Tensor, probability: float, generator: torch.Generator, noise: torch.Generator) -> Tensor:
    """Random erasing, "pixel" mode: one rectangle of standard normal noise in an image, with the given probability.

    images (B, C, H, W), normalised -> the same, changed in place. Area uniform in 2 %..1/3 of the image, ratio
    log-uniform in 0.3..3.33; the first of ten attempts that fits, else none. Rectangles are drawn from `generator` on
    the host, noise from `noise` on the images' device.
    """
    height, width = images.shape[2:]
    rows = (torch.rand(len(images), generator=generator) < probability).nonzero()[:, 0]
    box_height, box_width = _rectangles(len(rows), height * width, ERASED_AREA, ERASED_RATIO, generator, tall=True)
    fits = (box_height < height) & (box_width < width)
    box_height, box_width = _first(fits, (box_height, box_width), (0, 0))
    top, left = _place(height - box_height, generator), _place(width - box_width, generator)
    # the mask is made where the images are: as a copy from here it would take 1.6 MB for a batch of 128
    boxes = torch.stack((top, box_height, left, box_width)).to(images.device, non_blocking=True)
    inside = _between(height, boxes[0], boxes[1])[:, None, :, None] & _between(width, boxes[2], boxes[3])[:, None, None]
    there = rows.to(images.device, non_blocking=True)
    pixels = torch.randn((len(rows), *images.shape[1:]), generator=noise, device=images.device)
    images[there] = torch.where(inside, pixels, images[there])
    return images


def _place(free: Tensor, generator: torch.Generator) -> Tensor:
    """A whole number uniform in 0..free, for each element."""
    return ((free + 1) * torch.rand(free.shape, generator=generator)).floor()


def _rectangles(
    count: int,
    area: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
    tall: bool,
) -> tuple[Tensor, Tensor]:
    """Heights and widths of the attempts, (count, ATTEMPTS) each; `tall`: the ratio is of height to width."""
    target = area * (scale[0] + (scale[1] - scale[0]) * torch.rand(count, ATTEMPTS, generator=generator))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * torch.rand(count, ATTEMPTS, generator=generator))
    long, short = (target * aspect).sqrt().round(), (target / aspect).sqrt().round()
    return (long, short) if tall else (short, long)


def _first(valid: Tensor, candidates: tuple[Tensor, Tensor], fall_back: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Of (batch, attempts) candidates the first valid one, or the fall-back: (batch,) each."""
    first = valid.byte().argmax(1, keepdim=True)
    found = valid.any(1)
    height, width = (
        torch.where(found, values.gather(1, first)[:, 0], other)
        for values, other in zip(candidates, fall_back, strict=True)
    )
    return height, width


def _between(size: int, start: Tensor, extent: Tensor) -> Tensor:
    """(batch, size) mask of the pixels [start, start + extent)."""
    pixel = torch.arange(size, device=start.device)
    return (pixel >= start[:, None]) & (pixel < (start + extent)[:, None])
