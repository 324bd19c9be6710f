"""The training recipe as functions: learning rate, weight decay, sampling order, mixup, loss, weight averaging.

It is the released Famba-V scripts' (paper-facts §4), which run DeiT's main.py with timm. Every random draw comes from
`derived_seed`, so it depends on the seed and on where in the training it is made, and never on the number of processes.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from famba.config import Recipe
from famba.errors import InputError

NO_DECAY = ("pos_embed", "cls_token")
SAMPLER_BLOCK = 256  # DeiT's sampler keeps a multiple of 256 of an epoch's views (samplers.py: RASampler)


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy (32 bits, as it takes) and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def derived_seed(seed: int, stream: str, *position: int) -> int:
    """A 64-bit seed for one draw: of the named stream, at a position such as (epoch, step, group)."""
    key = (zlib.crc32(stream.encode()), seed, *position)
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def learning_rate(recipe: Recipe, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The learning rate of an epoch's step, both counted from 0; `steps`: optimiser steps in an epoch.

    timm's cosine with linear warm-up, in which the cosine is not shifted by the warm-up. With `sched_on_updates` it
    advances at every optimiser step (timm's --sched-on-updates). Without, it advances once an epoch as in DeiT, after
    the epoch: epoch e >= 1 runs at schedule(e - 1), and epochs 0 and 1 both run at `warmup_lr`.
    """
    t = epoch + step / steps if recipe.sched_on_updates else max(epoch - 1, 0)
    if t < recipe.warmup_epochs:
        return recipe.warmup_lr + t * (recipe.peak_lr - recipe.warmup_lr) / recipe.warmup_epochs
    return recipe.min_lr + 0.5 * (recipe.peak_lr - recipe.min_lr) * (1 + math.cos(math.pi * t / recipe.epochs))


_SLOW, SLOW_LIMIT = 0.1, 0.21  # of the peak; of the steps: a plain cosine to zero alone has 20.5 % below a tenth


@dataclass(frozen=True)
class Rates:
    """The learning rates that a training will run.

    first, peak, last: rates. peak_step: the first step at the peak, from 0, of `steps`. slow: share of the steps that
    run below a tenth of the rate that the recipe asks for, which a short training may never reach.
    """

    first: float
    peak: float
    last: float
    peak_step: int
    steps: int
    slow: float

    @property
    def warning(self) -> str | None:
        """That many steps hardly learn, if many do."""
        if self.slow <= SLOW_LIMIT:
            return None
        return (
            f"{self.slow:.0%} of the steps run below a tenth of the recipe's peak rate and hardly learn; "
            "fewer warmup_epochs or a higher warmup_lr or min_lr change that"
        )

    def __str__(self) -> str:
        return (
            f"learning rate: {self.first:.3g} first, {self.peak:.3g} at most (step {self.peak_step + 1:,} of "
            f"{self.steps:,}), {self.last:.3g} last; {self.slow:.1%} of the steps below a tenth of the recipe's peak"
        )


def rates(recipe: Recipe, steps: int) -> Rates:
    """The rates of a training of `steps` optimiser steps an epoch."""
    every = [learning_rate(recipe, epoch, step, steps) for epoch in range(recipe.epochs) for step in range(steps)]
    peak = max(every)
    slow = sum(lr < _SLOW * recipe.peak_lr for lr in every) / len(every)
    return Rates(every[0], peak, every[-1], every.index(peak), len(every), slow)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for the optimiser: decayed parameters, and those that are not.

    Vectors, biases, the position embedding and the class token are not decayed. A_log is a matrix and is decayed: the
    released code ignores the flag on it (paper-facts §5.15).
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or name.endswith(".bias") or name.rpartition(".")[2] in NO_DECAY
            groups[not exempt].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, fused into one kernel; starts at the rate of the first step.

    For CUDA graphs the rate is a tensor, which `set_learning_rate` fills in place.
    """
    device = next(model.parameters()).device
    captured = recipe.cuda_graphs and device.type == "cuda"
    lr = learning_rate(recipe, 0)
    return torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay),
        lr=torch.tensor(lr, device=device) if captured else lr,
        betas=recipe.betas,
        eps=recipe.eps,
        fused=device.type in ("cpu", "cuda"),
        capturable=captured,
    )


def set_learning_rate(optimizer: torch.optim.AdamW, lr: float) -> None:
    """Put a rate in force for all groups."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def steps_per_epoch(images: int, recipe: Recipe) -> int:
    """Optimiser steps in an epoch over a training set of so many images; the last, partial batch is dropped.

    With repeated augmentation an epoch keeps floor(images / 256) * 256 views (a set below 256: one per image), as
    DeiT's sampler does: 97 steps of 512 for 50,000 images. Raises InputError when the set is smaller than one batch.
    """
    views = images
    if recipe.repeats > 1 and images >= SAMPLER_BLOCK:
        views = images // SAMPLER_BLOCK * SAMPLER_BLOCK
    if views < recipe.global_batch:
        raise InputError(
            f"recipe: global_batch {recipe.global_batch} is more than the {views} views in an epoch of {images} "
            "training images; set a smaller global_batch"
        )
    return views // recipe.global_batch


def epoch_order(images: int, recipe: Recipe, seed: int, epoch: int) -> Tensor:
    """Indices of an epoch's images in the order of use: (steps * global_batch,) int64.

    Repeated augmentation: a permutation with each index `repeats` times in a row, cut after the last full batch, so
    an epoch sees about 1 / repeats of the images. Global batch i is the slice [i * global_batch, (i + 1) *
    global_batch): the union of the batches that DeiT's sampler deals to its ranks, whatever their number.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    order = torch.randperm(images, generator=generator).repeat_interleave(recipe.repeats)
    return order[: steps_per_epoch(images, recipe) * recipe.global_batch].clone()  # frees the unused views


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


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of logits (B, classes) against soft targets (B, classes), in float32; the mean over the batch."""
    return nn.functional.cross_entropy(logits.float(), targets)


class Ema:
    """Exponential moving average of a model's parameters: average <- decay * average + (1 - decay) * parameter.

    timm's ModelEma, without warm-up. A VisionMamba has no buffers, and none are averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the parameters as they are now: once after each optimiser step."""
        torch._foreach_lerp_(list(self._average.values()), list(model.parameters()), 1 - self.decay)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model holds the average; its own parameters are back after it.

        Values are copied into the same storage, so that captured graphs of the model stay valid.
        """
        parameters = [parameter.detach() for parameter in model.parameters()]
        own = [parameter.clone() for parameter in parameters]
        torch._foreach_copy_(parameters, list(self._average.values()))
        try:
            yield
        finally:
            torch._foreach_copy_(parameters, own)

    def state_dict(self) -> dict[str, Tensor]:
        """The average, under the model's parameter names."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over an average. Raises ValueError unless it has exactly this model's parameter names."""
        if state.keys() != self._average.keys():
            raise ValueError(f"not the average of this model: {sorted(state.keys() ^ self._average.keys())} differ")
        for name, average in self._average.items():
            average.copy_(state[name])
