"""The paper protocol's augmentation: timm's transforms, one image at a time, on the CPU.

timm and torchvision are imported here only, and only when this augmentation is used.
"""

import functools
import importlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from famba.config import Recipe
from famba.errors import InputError
from famba.text import install


def train_transform(recipe: Recipe, img_size: int) -> Callable[[Image.Image], Tensor]:
    """timm's training transform under the recipe: RGB image -> (3, img_size, img_size) float32.

    Crop and resize (bicubic), flip, RandAugment, normalisation, random erasing ("pixel"), as DeiT calls it; colour
    jitter is off, as it always is beside RandAugment. Raises InputError when timm or torchvision is missing, or when
    timm does not understand `rand_augment`.
    """
    create_transform = timm_data().create_transform
    try:
        transform = create_transform(
            img_size,
            is_training=True,
            scale=recipe.crop_scale,
            hflip=recipe.hflip,
            color_jitter=None,
            auto_augment=recipe.rand_augment,
            interpolation="bicubic",
            re_prob=recipe.random_erasing,
            re_mode="pixel",
            re_count=1,
        )
    except (AssertionError, KeyError, ValueError):
        raise InputError(
            f"recipe: rand_augment {recipe.rand_augment!r} is not a timm policy; see timm's rand-* strings"
        ) from None
    for stage in transform.transforms:
        for operation in getattr(stage, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    return transform


def rgb(pixels: np.ndarray | Image.Image) -> Image.Image:
    """(H, W, 1 or 3) uint8 -> RGB image, which a file's is already."""
    if isinstance(pixels, Image.Image):
        return pixels
    return Image.fromarray(pixels[:, :, 0]).convert("RGB") if pixels.shape[2] == 1 else Image.fromarray(pixels)


def seed_sample(seed: int) -> None:
    """Seed what timm's transforms draw from: the CPU generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the training's CUDA generator too


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Give back the states that `seed_sample` overwrites."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest bits of each channel; 0 bits leave a black image.

    timm asks for 0 bits at magnitude 10, which m9-mstd0.5 reaches; Pillow used to draw it black and now refuses.
    """
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def timm_data() -> Any:
    """The module timm.data. Raises InputError when timm or torchvision is missing."""
    try:
        version = metadata.version("torchvision")
        if "+cpu" in torch.__version__ and "+" not in version:
            _declare_vision_operators()
        return importlib.import_module("timm.data")
    except (metadata.PackageNotFoundError, ModuleNotFoundError) as error:
        raise InputError(
            f"recipe: augmentation timm needs {error.name}, which is not installed: {install('paper')}; "
            "or set augmentation: tensor"
        ) from None


@functools.cache  # an operator lives as long as the library that declares it
def _declare_vision_operators() -> torch.library.Library:
    """Let torchvision import beside a CPU build of torch.

    PyPI's torchvision is built for CUDA; its operators do not load there, and the import dies while it describes
    them ("operator torchvision::nms does not exist"). Declared, they need not exist: no transform calls them.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
