"""Batches between the stored images and the training loop.

What a global batch holds depends on the seed, the epoch and the step alone: never on how many ranks share it, how it
is cut into micro-batches or how many processes load it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils import data

from famba.config import Recipe
from famba.data.augment import batched, timm
from famba.data.dataset import Dataset
from famba.data.image_files import ImageFiles, centred
from famba.data.mixup import draw_mix, soft_targets
from famba.data.sampling import epoch_order, steps_per_epoch
from famba.data.seeds import derived_seed
from famba.errors import InputError
from famba.system.host import usable_cpus

Batch = tuple[Tensor, Tensor]
PREFETCHED = 2  # groups per loading process: at 224 pixels and groups of 128 each takes 77 MB


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
        dataset: Dataset,
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
        images = dataset.train_images
        if recipe.augmentation == "timm" or isinstance(images, ImageFiles):
            self.workers = min(recipe.workers, usable_cpus())
        if recipe.augmentation == "tensor":
            on_device = (
                _InWorkers(_Decoded(images), self.workers, self.device)
                if isinstance(images, ImageFiles)
                else _Stored(images, self.device)
            )
            self._augmented = _OnDevice(on_device, recipe, img_size, seed, self.device)
        elif self.workers:
            self._augmented = _InWorkers(_PerImage(images, recipe, img_size, seed), self.workers, self.device)
        else:
            self._augmented = _PerImage(images, recipe, img_size, seed).groups

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

    Of `world_size` processes, this one gets every world_size-th batch from the rank-th on. Files are decoded and
    resized in as many loading processes as the recipe has, anew in each evaluation.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        img_size: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.batch, self.device = recipe.eval_batch, torch.device(device)
        self._share = slice(rank, None, world_size)
        self.labels = torch.tensor(dataset.test_labels, device=device)  # of all images, (N,)
        self._images: Callable[[Sequence[slice]], Iterator[Tensor]]
        transform, images = batched.EvalTransform(recipe, img_size, device), dataset.test_images
        if isinstance(images, ImageFiles):
            work = _Centred(images, transform.shorter, img_size)
            loaded = _InWorkers(work, min(recipe.workers, usable_cpus()), self.device, persistent=False)
            every = np.arange(len(images))
            self._images = lambda places: map(transform.normalize, loaded([every[place] for place in places]))
        else:
            stored = torch.tensor(images, device=device)  # uint8: CIFAR's test set takes 31 MB
            self._images = lambda places: (transform(stored[place]) for place in places)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def places(self) -> list[slice]:
        """Where the images of each batch are in the test set."""
        return [slice(at, at + self.batch) for at in range(0, len(self), self.batch)][self._share]

    def __iter__(self) -> Iterator[Batch]:
        """Images (b, 3, S, S) float32 and labels (b,) int64."""
        labels = self.labels.split(self.batch)[self._share]
        yield from zip(self._images(self.places), labels, strict=True)

    def first(self, images: int) -> Tensor:
        """The first images of the test set, as many as there are, in any batch and any process: (b, 3, S, S)."""
        (found,) = self._images([slice(images)])
        return found


def rank_parts(recipe: Recipe, rank: int, world_size: int) -> dict[int, slice]:
    """The groups of a global batch that a rank has a part in, and which of their images are its own."""
    share, size = recipe.global_batch // world_size, recipe.mixup_batch
    first, end = rank * share, (rank + 1) * share
    return {
        group: slice(max(first - group * size, 0), min(end - group * size, size))
        for group in range(first // size, -(-end // size))
    }


class _OnDevice:
    """Augments whole groups on the device. `stored` gives their images, (mixup_batch, H, W, C) uint8, there."""

    def __init__(
        self,
        stored: Callable[[list[Group]], Iterator[Tensor]],
        recipe: Recipe,
        img_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.stored = stored
        self.transform = batched.TrainTransform(recipe, img_size, device)
        self.seed = seed

    def __call__(self, groups: list[Group]) -> Iterator[Tensor]:
        generator = torch.Generator()
        for group, images in zip(groups, self.stored(groups), strict=True):
            generator.manual_seed(derived_seed(self.seed, "augment", group.epoch, group.step, group.group))
            yield self.transform(images, generator)


class _Stored:
    """The training set as uint8 on the device."""

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self.images, self.device = torch.tensor(images, device=device), device

    def __call__(self, groups: list[Group]) -> Iterator[Tensor]:
        for group in groups:
            yield self.images[torch.from_numpy(group.indices).to(self.device, non_blocking=True)]


class _Decoded(data.Dataset):
    """Decodes groups of files that are of one size."""

    def __init__(self, images: ImageFiles) -> None:
        self.images = images

    def __getitem__(self, group: Group) -> Tensor:
        """(mixup_batch, S, S, 3) uint8."""
        return torch.from_numpy(np.stack([np.asarray(self.images[index]) for index in group.indices.tolist()]))


class _Centred(data.Dataset):
    """Decodes the files of a batch, and brings them to the model's size as the recipe's evaluation does."""

    def __init__(self, images: ImageFiles, shorter: int, img_size: int) -> None:
        self.images, self.shorter, self.img_size = images, shorter, img_size

    def __getitem__(self, places: np.ndarray) -> Tensor:
        """(b, 3, S, S) uint8."""
        out = np.empty((len(places), self.img_size, self.img_size, 3), np.uint8)
        for slot, place in zip(out, places.tolist(), strict=True):
            path = self.images.path(place)
            slot[:] = np.asarray(centred(self.images[place], self.shorter, self.img_size, path))
        return torch.from_numpy(out).permute(0, 3, 1, 2)


class _PerImage(data.Dataset):
    """Augments groups image by image with timm, each image under a seed of its own."""

    def __init__(self, images: np.ndarray | ImageFiles, recipe: Recipe, img_size: int, seed: int) -> None:
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
    """Runs `work` on tasks in processes that stay a few tasks ahead; without workers, in this one.

    persistent: they live as long as the loader, else as long as one iteration.
    """

    def __init__(self, work: data.Dataset, workers: int, device: torch.device, persistent: bool = True) -> None:
        self.device = device
        self.tasks: list[Any] = []
        self.loader = data.DataLoader(
            _Told(work),
            batch_size=None,  # a task is a batch already
            sampler=self.tasks,
            num_workers=workers,  # each runs torch with one thread
            prefetch_factor=PREFETCHED if workers else None,
            persistent_workers=persistent and workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the training's
        )

    def __call__(self, tasks: Sequence[Any]) -> Iterator[Tensor]:
        self.tasks[:] = tasks
        for images in self.loader:
            if isinstance(images, InputError):
                raise images
            yield images.to(self.device, non_blocking=True)


class _Told(data.Dataset):
    """Returns an InputError of a worker, which would come out of a DataLoader with the worker's traceback."""

    def __init__(self, work: data.Dataset) -> None:
        self.work = work

    def __getitem__(self, task: Any) -> Any:
        try:
            return self.work[task]
        except InputError as error:
            return error
