"""Soft targets, mixup and cutmix (paper-facts §4), with the arithmetic of timm.data.Mixup in its batch mode."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from famba.config import Recipe


def soft_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """labels (B,) -> (B, classes) float32: smoothing / classes everywhere, 1 - smoothing more at the label."""
    off = smoothing / classes
    targets = torch.full((len(labels), classes), off, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + off)


@dataclass(frozen=True)
class Mix:
    """One mixup or cutmix for a whole batch, each image's partner being the one at the mirrored place in the batch.

    `lam` is the image's own share; `box` = (top, bottom, left, right) in pixels is what cutmix takes from the partner,
    None for mixup. The same arithmetic as timm.data.Mixup in its "batch" mode.
    """

    lam: float = 1.0
    box: tuple[int, int, int, int] | None = None

    def images(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape; x itself is left alone."""
        if self.box is not None:
            top, bottom, left, right = self.box
            mixed = x.clone()
            mixed[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
            return mixed
        return x if self.lam == 1 else x.mul(self.lam).add_(x.flip(0).mul_(1 - self.lam))

    def targets(self, y: Tensor) -> Tensor:
        """Soft targets y (B, classes) -> the same shape."""
        return y * self.lam + y.flip(0) * (1 - self.lam)


def draw_mix(recipe: Recipe, size: int, rng: np.random.Generator) -> Mix:
    """Draw a Mix for images of size x size pixels. Alpha 0 switches mixup or cutmix off."""
    if not (recipe.mixup or recipe.cutmix) or rng.random() >= recipe.mixup_prob:
        return Mix()
    cutmix = bool(recipe.cutmix) and (not recipe.mixup or rng.random() < recipe.mixup_switch_prob)
    alpha = recipe.cutmix if cutmix else recipe.mixup
    lam = float(rng.beta(alpha, alpha))
    return cutmix_box(lam, size, *map(int, rng.integers(size, size=2))) if cutmix else Mix(lam)


def cutmix_box(lam: float, size: int, y: int, x: int) -> Mix:
    """The cutmix of a square of about (1 - lam) of the image around pixel (y, x), lam corrected to what is inside.

    The rounding is that of the pinned timm 1.0.31 (mixup.py: rand_bbox).
    """
    side = int(size * math.sqrt(1 - lam))
    top, bottom = max(y - side // 2, 0), min(y + (side + 1) // 2, size)
    left, right = max(x - side // 2, 0), min(x + (side + 1) // 2, size)
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, bottom, left, right))
