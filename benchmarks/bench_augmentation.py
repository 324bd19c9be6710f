"""A batch of 224-pixel training images from stored 32 x 32 ones, batched: against timm, one image after the other."""

import numpy as np
import pytest
import torch

from famba.config import Recipe
from famba.data.augment import batched
from famba.data.augment.timm import kept_random_state, rgb, train_transform

BATCH, SIZE = 64, 224
STORED = np.random.default_rng(0).integers(256, size=(BATCH, 32, 32, 3), dtype=np.uint8)
RECIPES = {"paper": Recipe(), "no_rand_augment": Recipe(rand_augment=None)}


@pytest.mark.parametrize("name", RECIPES)
def bench_against_timm(versus, benchmark, name):
    recipe = RECIPES[name]
    images, generator = torch.from_numpy(STORED), torch.Generator().manual_seed(0)
    transform, one_by_one = batched.TrainTransform(recipe, SIZE, "cpu"), train_transform(recipe, SIZE)

    def timm():
        with kept_random_state():
            return torch.stack([one_by_one(rgb(image)) for image in STORED])

    seconds = versus(lambda: transform(images, generator), {"timm": timm}, rounds=7)
    benchmark.extra_info["images_per_s"] = round(BATCH / seconds["subject"], 1)
