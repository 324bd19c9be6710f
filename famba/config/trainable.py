"""What a training is checked for before anything is spent on it, beyond the range of each setting by itself.

Experiments and cells are checked where they enter (experiment.py). Of rows `schedule_problem` alone is checked: what
has been trained stays readable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from famba.config import protocol
from famba.config.methods import PLACEMENTS
from famba.config.settings import Recipe
from famba.strategies import NAMED, beyond_cap
from famba.text import count

if TYPE_CHECKING:
    from famba.config import Cell

_NUMBER = r"\d+(?:\.\d+)?"
# what timm's rand_augment_transform (1.0.31) and famba/data/augment/randaugment.py read, as a test compares
RAND_AUGMENT = {
    "timm": rf"rand(?:-(?:m\d+|n\d+|inc\d+|mmax\d+|mstd{_NUMBER}|p{_NUMBER}|t\w+))*",
    "tensor": rf"rand-m{_NUMBER}(?:-mstd{_NUMBER})?(?:-p{_NUMBER})?-inc1",
}

# beyond these a value is a slip of the keyboard; nothing published comes near them
UPPER_BOUNDS = {
    "threads": 1024,
    "processes": 4096,
    "recipe.epochs": 100_000,
    "recipe.repeats": 100,
    "recipe.eval_resize": 4096,
    "recipe.eval_batch": 2**16,
    "recipe.global_batch": 2**20,
    "recipe.workers": 1024,
    "recipe.lr": 10_000,
    "recipe.warmup_lr": 10_000,
    "recipe.min_lr": 10_000,
    "recipe.weight_decay": 1000,
    "recipe.eps": 1,
    "recipe.mixup": 1000,
    "recipe.cutmix": 1000,
}


def unmet(cell: Cell) -> str | None:
    """The first thing that is wrong, beginning with its key; None if the cell can be trained as written."""
    return next(_problems(cell), None)


def _problems(cell: Cell) -> Iterator[str]:
    yield from _beyond_bounds(cell)
    yield from _of_recipe(cell.recipe)
    img_size, resize = cell.architecture.img_size, cell.recipe.eval_resize
    if resize is not None and resize < img_size:
        yield (
            f"recipe.eval_resize: {resize} is less than the {img_size} pixels of {cell.model}; "
            f"set at least that, or null for the image size itself"
        )
    if cell.data is not None and cell.data.size is None and cell.recipe.augmentation == "tensor":
        yield (
            "data.size: recipe.augmentation tensor takes images of one size; set the pixels of a side, or "
            "augmentation: timm, which takes each image as it is"
        )
    if cell.fusion.varies and cell.fusion.late and cell.fusion.method in PLACEMENTS:
        yield f"schedules.{cell.strategy}: a threshold counts before the mixer; set placement: before or input"
    if cell.fusion.varies and cell.recipe.cuda_graphs:
        yield f"recipe.cuda_graphs: a graph has fixed shapes, and the threshold of {cell.strategy} has not; set false"
    share, micro = cell.recipe.global_batch // cell.processes, cell.recipe.micro_batch
    if cell.recipe.cuda_graphs and share % micro and micro % share:
        yield (
            f"recipe.cuda_graphs: a graph has fixed shapes, and the {share} images of each of {cell.processes} "
            f"processes are no whole number of micro-batches of {micro}; set one that divides {share}, or false"
        )
    if problem := schedule_problem(cell):
        yield problem
    if deviation := protocol.deviation(cell):
        yield f"{deviation} ({cell.protocol}): set it so, or protocol: custom, which claims no published experiment"


def _beyond_bounds(cell: Cell) -> Iterator[str]:
    values = {"threads": cell.threads, "processes": cell.processes}
    values |= {f"recipe.{name}": value for name, value in cell.recipe}
    for key, bound in UPPER_BOUNDS.items():
        value = values[key]
        if value is not None and value > bound:
            shown = f"{value:,}" if isinstance(value, int) else f"{value:g}"
            yield f"{key}: {shown} is more than {bound:,}, the most that is accepted"


def _of_recipe(recipe: Recipe) -> Iterator[str]:
    if recipe.warmup_epochs > recipe.epochs:
        yield f"recipe.warmup_epochs: {recipe.warmup_epochs} of only {count(recipe.epochs, 'epoch')}"
    default = Recipe.model_fields["warmup_lr"].default  # a tiny batch scales the peak below it
    if recipe.warmup_epochs and recipe.warmup_lr > max(recipe.peak_lr, default):
        yield f"recipe.warmup_lr: {recipe.warmup_lr:g} is above the peak of {recipe.peak_lr:.3g}, which it rises to"
    if recipe.min_lr > recipe.peak_lr:
        yield (
            f"recipe.min_lr: {recipe.min_lr:g} is above the peak of {recipe.peak_lr:.3g} "
            f"(lr {recipe.lr:g} at a global_batch of {recipe.global_batch} instead of 512)"
        )
    low, high = recipe.crop_scale
    if low > high:
        yield f"recipe.crop_scale: [{low:g}, {high:g}] is not [least, largest] share of the image"
    written = RAND_AUGMENT[recipe.augmentation]
    if recipe.rand_augment is not None and not re.fullmatch(written, recipe.rand_augment):
        yield (
            f"recipe.rand_augment: {recipe.rand_augment!r} is no RandAugment that augmentation {recipe.augmentation} "
            "knows; write it like rand-m9-mstd0.5-inc1, or null for none"
        )


def schedule_problem(cell: Cell) -> str | None:
    """Why a schedule cannot be fused: at most half of a layer's tokens can be; None if it can.

    A larger r would be silently capped, which is a different schedule. `budget: proportional` is exempt: its shares are
    capped by definition.
    """
    published = cell.strategy in NAMED
    found = beyond_cap(cell.schedule, cell.architecture.tokens, cell.architecture.cls_index)
    if found is None or (published and cell.fusion.budget == "proportional"):
        return None
    layer, asked, possible = found
    what = "fusion.budget: paper's" if published else f"schedules.{cell.strategy}:"
    instead = "; fusion: {budget: proportional} scales it" if published else ""
    return (
        f"{what} {cell.strategy} asks for {asked} tokens in layer {layer} of {cell.model}, "
        f"where {possible} can be fused, half of those that are left{instead}"
    )
