"""The order of an epoch's images: DeiT's sampler with repeated augmentation (paper-facts §4)."""

import torch
from torch import Tensor

from famba.config import Recipe
from famba.data.seeds import derived_seed
from famba.errors import InputError

SAMPLER_BLOCK = 256  # DeiT's sampler keeps a multiple of 256 of an epoch's views (samplers.py: RASampler)


def steps_per_epoch(images: int, recipe: Recipe) -> int:
    """Optimiser steps in an epoch over a training set of so many images; the last, partial batch is dropped.

    With repeated augmentation an epoch keeps floor(images / 256) * 256 views (a set below 256: one per image), as
    DeiT's sampler does: 97 steps of 512 for 50,000 images. Raises InputError when the set is smaller than one batch, or
    than the recipe's `steps_per_epoch`.
    """
    views = images
    if recipe.repeats > 1 and images >= SAMPLER_BLOCK:
        views = images // SAMPLER_BLOCK * SAMPLER_BLOCK
    if views < recipe.global_batch:
        raise InputError(
            f"recipe: global_batch {recipe.global_batch} is more than the {views} views in an epoch of {images} "
            "training images; set a smaller global_batch"
        )
    whole = views // recipe.global_batch
    asked = recipe.steps_per_epoch
    if asked is not None and asked > whole:
        raise InputError(
            f"recipe: steps_per_epoch {asked} is more than the {whole} steps of {recipe.global_batch} that {images} "
            "training images give; set fewer, or leave it out"
        )
    return asked or whole


def epoch_order(images: int, recipe: Recipe, seed: int, epoch: int) -> Tensor:
    """Indices of an epoch's images in the order of use: (steps * global_batch,) int64.

    Repeated augmentation: a permutation with each index `repeats` times in a row, cut after the last full batch, so
    an epoch sees about 1 / repeats of the images; the recipe's `steps_per_epoch` cuts it further. Global batch i is the
    slice [i * global_batch, (i + 1) * global_batch): the union of the batches that DeiT's sampler deals to its ranks,
    whatever their number.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    order = torch.randperm(images, generator=generator).repeat_interleave(recipe.repeats)
    return order[: steps_per_epoch(images, recipe) * recipe.global_batch].clone()  # frees the unused views
