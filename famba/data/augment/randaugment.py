"""RandAugment of a whole batch on its device: timm's `rand-m9-mstd0.5-inc1` and its like.

Two operations are drawn per image. An image's geometric ones compose into a single warp, which stands between the
first and the second operation's change of colours; that keeps the drawn order in all four cases. Operations follow
Pillow's arithmetic on 8-bit levels and run only on the images that drew them: the draws are made on the host, so no
size has to be fetched from the device. Geometric ones differ from Pillow by the interpolation kernel (its affine
bicubic has a = -1, torch's -0.75) and, for two in a row, by interpolating once instead of twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from famba.errors import InputError

LAYERS = 2
FILL = (124.0, 116.0, 104.0)  # ImageNet's mean level, where a warp looks outside the image


@dataclass(frozen=True)
class Policy:
    """magnitude and its deviation on a scale of 0..10; chance of each of the two operations."""

    magnitude: float
    deviation: float
    probability: float = 0.5

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read timm's notation, rand-m<magnitude>[-mstd<deviation>][-p<probability>]-inc1. Raises InputError."""
        number = r"(\d+(?:\.\d+)?)"
        found = re.fullmatch(rf"rand-m{number}(?:-mstd{number})?(?:-p{number})?-inc1", text)
        if not found:
            raise InputError(
                f"recipe: rand_augment {text!r} is not known on the device; "
                "write it like rand-m9-mstd0.5-inc1, or set augmentation: timm"
            )
        magnitude, deviation, probability = found.groups()
        return cls(float(magnitude), float(deviation or 0), float(probability or 0.5))


@dataclass(frozen=True)
class Draw:
    """What each image of a batch goes through: (B, LAYERS) each, on the host. Operation -1 changes nothing."""

    operation: Tensor  # index into OPERATIONS
    level: Tensor  # 0..1, the magnitude over 10
    sign: Tensor  # -1 or 1, for operations that go both ways


def draw(policy: Policy, batch: int, generator: torch.Generator) -> Draw:
    """Draw for a batch as timm does: uniform over the operations, with replacement; clipped normal magnitudes."""
    shape = (batch, LAYERS)
    operation = torch.randint(len(OPERATIONS), shape, generator=generator)
    applied = torch.rand(shape, generator=generator) < policy.probability
    magnitude = policy.magnitude + policy.deviation * torch.randn(shape, generator=generator, dtype=torch.float64)
    sign = torch.where(torch.rand(shape, generator=generator) > 0.5, -1.0, 1.0).double()
    return Draw(torch.where(applied, operation, -1), magnitude.clamp(0, 10) / 10, sign)


def rand_augment(images: Tensor, drawn: Draw) -> Tensor:
    """images (B, 3, S, S) float32, whole numbers 0..255 -> the same, changed in place."""
    _recolour(images, drawn, layer=0)
    _warp(images, drawn)
    _recolour(images, drawn, layer=1)
    return images


def _recolour(images: Tensor, drawn: Draw, layer: int) -> None:
    """Apply one layer's operations on colours, each to the images that drew it."""
    for index, name in enumerate(OPERATIONS):
        if name in COLOUR:
            rows = (drawn.operation[:, layer] == index).nonzero()[:, 0]
            if len(rows):
                there = rows.to(images.device, non_blocking=True)
                argument = _argument(name, drawn.level[rows, layer], drawn.sign[rows, layer])
                argument = argument.float().to(images.device, non_blocking=True)[:, None, None, None]
                images[there] = COLOUR[name](images[there], argument)


def _argument(name: str, level: Tensor, sign: Tensor) -> Tensor:
    """What timm's LEVEL_TO_ARG makes of a magnitude: bits, threshold, levels added, or factor."""
    if name == "Posterize":
        return 4 - (level * 4).floor()
    if name == "Solarize":
        return 256 - (level * 256).floor()
    if name == "SolarizeAdd":
        return (level * 110).floor()
    return (1 + sign * level * 0.9).clamp(min=0.1)


def _auto_contrast(x: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a flat one stays."""
    low, high = x.amin((2, 3), keepdim=True).double(), x.amax((2, 3), keepdim=True).double()
    scale = 255 / (high - low).clamp(min=1)
    stretched = (x * scale + -low * scale).floor().clamp(0, 255)
    return torch.where(high > low, stretched, x).float()


def _equalize(x: Tensor, _: Tensor) -> Tensor:
    """Flatten each channel's histogram, as ImageOps.equalize does."""
    levels = x.flatten(2).long()  # (b, 3, S * S)
    histogram = torch.zeros(*x.shape[:2], 256, dtype=torch.long, device=x.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels))
    last = histogram.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - last) // 255  # (b, 3, 1)
    before = histogram.cumsum(2) - histogram
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(2, levels), levels).view_as(x).float()


def _blend(degenerate: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Image.blend: from the degenerate image (factor 0) over x (1) to beyond."""
    return (degenerate + factor * (x - degenerate)).clamp(0, 255).floor()


def _luma(x: Tensor) -> Tensor:
    """(b, 3, S, S) -> (b, 1, S, S): Pillow's conversion to grey, in its fixed point."""
    red, green, blue = x.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).float()[:, None]


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = (_luma(x).double().mean((2, 3), keepdim=True) + 0.5).floor()
    return _blend(mean.float(), x, factor)


def _sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the 3 x 3 smoothed image; the outermost pixels stay."""
    kernel = torch.ones(3, 1, 3, 3, device=x.device)
    kernel[:, :, 1, 1] = 5
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = (nn.functional.conv2d(x, kernel, groups=3) / 13 + 0.5).floor()
    return _blend(smooth, x, factor)


COLOUR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": lambda x, _: 255 - x,
    "Posterize": lambda x, bits: x - x % 2 ** (8 - bits),
    "Solarize": lambda x, threshold: torch.where(x < threshold, x, 255 - x),
    "SolarizeAdd": lambda x, add: torch.where(x < 128, (x + add).clamp(max=255), x),
    "Color": lambda x, factor: _blend(_luma(x), x, factor),
    "Contrast": _contrast,
    "Brightness": lambda x, factor: _blend(torch.zeros_like(x), x, factor),
    "Sharpness": _sharpness,
}
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
OPERATIONS = (*COLOUR, *GEOMETRIC)


def _warp(images: Tensor, drawn: Draw) -> None:
    """Apply the geometric operations of both layers in one interpolation, to the images that drew any."""
    rows = (drawn.operation >= len(COLOUR)).any(1).nonzero()[:, 0]
    if not len(rows):
        return
    size = images.shape[-1]
    there = rows.to(images.device, non_blocking=True)
    maps = torch.stack([_affine(drawn, rows, layer, size) for layer in range(LAYERS)])  # (LAYERS, b, 2, 3)
    maps = maps.float().to(images.device, non_blocking=True)
    axis = torch.arange(size, device=images.device) + 0.5
    place = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(1, -1, 2)  # (1, S * S, 2): x, y
    inside = torch.ones((), dtype=torch.bool, device=images.device)
    for affine in maps.flip(0).unbind():  # from the output back through the second operation, then the first
        place = place @ affine[:, :, :2].transpose(1, 2) + affine[:, None, :, 2]  # (b, S * S, 2)
        inside = inside & ((place >= 0) & (place < size)).all(-1)
    grid = (place * (2 / size) - 1).view(len(rows), size, size, 2)
    warped = nn.functional.grid_sample(images[there], grid, mode="bicubic", padding_mode="border", align_corners=False)
    fill = torch.stack([torch.full((1, 1), level, device=images.device) for level in FILL])
    images[there] = torch.where(inside.view(-1, 1, size, size), warped.round_().clamp_(0, 255), fill)


def _affine(drawn: Draw, rows: Tensor, layer: int, size: int) -> Tensor:
    """Pillow's map from an output pixel's centre to the input's, in pixels: (b, 2, 3); the identity for colours."""
    operation = drawn.operation[rows, layer]
    amount = drawn.level[rows, layer] * drawn.sign[rows, layer]

    def only(name: str, value: Tensor) -> Tensor:
        return torch.where(operation == OPERATIONS.index(name), value, 0)

    angle = only("Rotate", -amount * math.radians(30))
    sine, cosine = angle.sin(), angle.cos()
    centre = size / 2
    x = (cosine, sine + only("ShearX", amount * 0.3), centre * (1 - cosine - sine))
    y = (-sine + only("ShearY", amount * 0.3), cosine, centre * (1 - cosine + sine))
    shift = (only("TranslateX", amount * 0.45 * size), only("TranslateY", amount * 0.45 * size))
    return torch.stack([torch.stack([*x[:2], x[2] + shift[0]], -1), torch.stack([*y[:2], y[2] + shift[1]], -1)], dim=1)
