"""Batches between the stored images and the training loop.

What a global batch holds depends on the seed, the epoch and the step alone: never on how many ranks share it, how it
is cut into micro-batches or how many processes load it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils import data

from famba.config import Recipe
from famba.data.augment import batched, timm
from famba.data.mixup import draw_mix, soft_targets
from famba.data.sampling import epoch_order, steps_per_epoch
from famba.data.seeds import derived_seed
from famba.errors import InputError
from famba.system.host import usable_cpus

Batch = tuple[Tensor, Tensor]
PREFETCHED = 2  # groups per loading process: at 224 pixels and groups of 128 each takes 77 MB


class Images(Protocol):
    """What the loaders need of a `famba.data.Dataset`: images (N, H, W, C) uint8, labels (N,) int64, class names."""

    @property
    def train_images(self) -> np.ndarray: ...
    @property
    def train_labels(self) -> np.ndarray: ...
    @property
    def test_images(self) -> np.ndarray: ...
    @property
    def test_labels(self) -> np.ndarray: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


class Group(NamedTuple):
    """Images that share one mixup draw: their places in the epoch's order, and the indices that stand there."""

    epoch: int
    step: int
    group: int
    places: np.ndarray  # (mixup_batch,)
    indices: np.ndarray  # (mixup_batch,)


class TrainLoader:
    """One rank's training batches, epoch by epoch.

    A global batch is dealt out like cards to groups of `mixup_batch` images, as DeiT's sampler deals it to its ranks,
    so that the repeated views of an image lie in different groups. Rank r takes the r-th of `world_size` equal parts of
    the groups laid end to end; a group that it shares with another rank is loaded and mixed whole, then cut.

    Args:
        dataset: see `Images`.
        img_size: pixels of the square images that come out.
        seed: of the training.
        rank, world_size: this process, and the number of processes.

    Attributes:
        steps: optimiser steps per epoch.
        workers: loading processes in use: the recipe's, but never more than there are CPUs.
        wait_s: seconds that the training loop has waited for this loader, over all epochs.

    Raises InputError when the set is smaller than a global batch, `world_size` does not divide that, or timm is
    missing.
    """

    def __init__(
        self,
        dataset: Images,
        recipe: Recipe,
        img_size: int,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if recipe.global_batch % world_size:
            raise InputError(
                f"recipe: global_batch {recipe.global_batch} is not a multiple of the {world_size} processes"
            )
        self.recipe, self.img_size, self.seed, self.device = recipe, img_size, seed, torch.device(device)
        self.images = len(dataset.train_images)
        self.classes = len(dataset.classes)
        self.steps = steps_per_epoch(self.images, recipe)
        self.wait_s = 0.0
        self.workers = 0
        self._labels = torch.tensor(dataset.train_labels)
        self._parts = rank_parts(recipe, rank, world_size)
        self._augmented: Callable[[list[Group]], Iterator[Tensor]]
        if recipe.augmentation == "tensor":
            self._augmented = _OnDevice(dataset.train_images, recipe, img_size, seed, self.device)
        else:
            self.workers = min(recipe.workers, usable_cpus())
            one_by_one = _PerImage(dataset.train_images, recipe, img_size, seed)
            self._augmented = _InWorkers(one_by_one, self.workers, self.device) if self.workers else one_by_one.groups

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """This rank's optimiser steps from `first_step` on; iterate over one epoch at a time.

        Each is a list of micro-batches on the device: images (m, 3, S, S) and targets (m, classes), float32, with
        m <= micro_batch and the m of a step adding up to global_batch / world_size.
        """
        began = time.perf_counter()
        groups = self.groups(epoch)[first_step * len(self._parts) :]
        images = self._augmented(groups)
        for step in range(self.steps - first_step):
            micro_batches: list[Batch] = []
            for part, group in zip(self._parts.values(), groups[step * len(self._parts) :], strict=False):
                whole = self._mix(next(images), group)
                cut = [x[part].split(self.recipe.micro_batch) for x in whole]
                micro_batches += zip(*cut, strict=True)
            self.wait_s += time.perf_counter() - began
            yield micro_batches
            began = time.perf_counter()

    def groups(self, epoch: int) -> list[Group]:
        """The groups of an epoch that this rank has a part in, step by step."""
        order = epoch_order(self.images, self.recipe, self.seed, epoch).numpy()
        places = np.arange(len(order)).reshape(self.steps, self.recipe.mixup_batch, -1)  # [step, image, group]
        return [
            Group(epoch, step, group, places[step, :, group], order[places[step, :, group]])
            for step in range(self.steps)
            for group in self._parts
        ]

    def _mix(self, images: Tensor, group: Group) -> Batch:
        """Mixup or cutmix of a whole group: images (mixup_batch, 3, S, S) -> the same, and targets."""
        draw = derived_seed(self.seed, "mix", group.epoch, group.step, group.group)
        mix = draw_mix(self.recipe, self.img_size, np.random.default_rng(draw))
        labels = self._labels[group.indices].to(self.device, non_blocking=True)
        targets = soft_targets(labels, self.classes, self.recipe.label_smoothing)
        return mix.images(images), mix.targets(targets)


class EvalLoader:
    """The test set in its order, resized to img_size on the device batch by batch. `len` is in images.

    Of `world_size` processes, this one gets every world_size-th batch from the rank-th on.
    """

    def __init__(
        self,
        dataset: Images,
        recipe: Recipe,
        img_size: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.batch, self.device = recipe.eval_batch, torch.device(device)
        self._share = slice(rank, None, world_size)
        self._transform = batched.EvalTransform(recipe, img_size, device)
        self._images = torch.tensor(dataset.test_images, device=device)  # uint8: CIFAR's test set takes 31 MB
        self._labels = torch.tensor(dataset.test_labels, device=device)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def places(self) -> list[slice]:
        """Where the images of each batch are in the test set."""
        return [slice(at, at + self.batch) for at in range(0, len(self), self.batch)][self._share]

    def __iter__(self) -> Iterator[Batch]:
        """Images (b, 3, S, S) float32 and labels (b,) int64."""
        images, labels = self._images.split(self.batch), self._labels.split(self.batch)
        for batch, its_labels in zip(images[self._share], labels[self._share], strict=True):
            yield self._transform(batch), its_labels


def rank_parts(recipe: Recipe, rank: int, world_size: int) -> dict[int, slice]:
    """The groups of a global batch that a rank has a part in, and which of their images are its own."""
    share, size = recipe.global_batch // world_size, recipe.mixup_batch
    first, end = rank * share, (rank + 1) * share
    return {
        group: slice(max(first - group * size, 0), min(end - group * size, size))
        for group in range(first // size, -(-end // size))
    }


class _OnDevice:
    """Augments whole groups on the device, which holds the training set as uint8."""

    def __init__(self, images: np.ndarray, recipe: Recipe, img_size: int, seed: int, device: torch.device) -> None:
        self.images = torch.tensor(images, device=device)
        self.transform = batched.TrainTransform(recipe, img_size, device)
        self.seed, self.device = seed, device

    def __call__(self, groups: list[Group]) -> Iterator[Tensor]:
        generator = torch.Generator()
        for group in groups:
            generator.manual_seed(derived_seed(self.seed, "augment", group.epoch, group.step, group.group))
            images = self.images[torch.from_numpy(group.indices).to(self.device, non_blocking=True)]
            yield self.transform(images, generator)


class _PerImage(data.Dataset):
    """Augments groups image by image with timm, each image under a seed of its own."""

    def __init__(self, images: np.ndarray, recipe: Recipe, img_size: int, seed: int) -> None:
        self.images, self.recipe, self.img_size, self.seed = images, recipe, img_size, seed
        timm.train_transform(recipe, img_size)  # a missing package is found here, not in a worker

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        return timm.train_transform(self.recipe, self.img_size)

    def __getitem__(self, group: Group) -> Tensor:
        """(mixup_batch, 3, S, S) float32."""
        out = torch.empty(len(group.indices), 3, self.img_size, self.img_size)
        for slot, place, index in zip(out, group.places.tolist(), group.indices.tolist(), strict=True):
            timm.seed_sample(derived_seed(self.seed, "augment", group.epoch, place))
            slot.copy_(self.transform(timm.rgb(self.images[index])))
        return out

    def groups(self, groups: list[Group]) -> Iterator[Tensor]:
        """In this process, whose own random state is left as it is."""
        for group in groups:
            with timm.kept_random_state():
                images = self[group]
            yield images


class _InWorkers:
    """Runs `_PerImage` in processes that live as long as the loader and stay a few groups ahead."""

    def __init__(self, one_by_one: _PerImage, workers: int, device: torch.device) -> None:
        self.device = device
        self.groups: list[Group] = []
        self.loader = data.DataLoader(
            one_by_one,
            batch_size=None,  # a group is a batch already
            sampler=_Tasks(self.groups),
            num_workers=workers,  # each runs torch with one thread
            prefetch_factor=PREFETCHED,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the training's
        )

    def __call__(self, groups: list[Group]) -> Iterator[Tensor]:
        self.groups[:] = groups
        for images in self.loader:
            yield images.to(self.device, non_blocking=True)


class _Tasks(data.Sampler):
    """Hands the groups of the current epoch to the workers."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)
