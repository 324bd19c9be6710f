"""A checkpoint that a command runs under several settings: its data set, its device, and one set of weights for all."""

import argparse
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from famba import data, ops
from famba.commands import chosen
from famba.commands.chosen import Chosen, Setting
from famba.commands.options import positive
from famba.config.datasets import DATA_HELP, data_folder
from famba.config.image_folder import ImageFolder, ListedFolder, listed
from famba.cost import memory
from famba.cost.bench import cell_of
from famba.data.loader import EvalLoader
from famba.errors import CheckFailed, InputError
from famba.model import VisionMamba
from famba.ops.precision import slowness
from famba.system import float32
from famba.system.device import pick_device
from famba.training import checks, weights
from famba.training.evaluate import Forward


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint, on which data and device."""
    chosen.add_arguments(parser)
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"{', '.join(data.NAMES)}, or the manifest of an image folder [the training's]",
    )
    parser.add_argument("--root", type=Path, default=data_folder(), metavar="DIR", help=DATA_HELP)
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="[the training's, else fp32]")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads [all cores]")


def names(text: str) -> list[str]:
    """For argparse: A,B."""
    return [name for name in text.split(",") if name]


@dataclass(frozen=True)
class Some(data.Dataset):
    """A data set with some images of a split as its test set. `places`: where they are in that split."""

    places: np.ndarray


def some(dataset: data.Dataset, places: np.ndarray, training: bool = False) -> Some:
    """The images at these places of the test set, or of the training set."""
    images, labels = dataset.test_images, dataset.test_labels
    if training:
        images, labels = dataset.train_images, dataset.train_labels
    return Some(**{**vars(dataset), "test_images": images[places], "test_labels": labels[places]}, places=places)


class Loaded:
    """A checkpoint, a data set and a device, as the options say. Raises InputError where they do not fit.

    Attributes:
        stored, chosen: the file, and the model that it is of.
        scan: the backend.
        fitted: how the weights fit, once there is a model.
    """

    fitted: weights.Fitted

    def __init__(self, args: argparse.Namespace) -> None:
        self.stored = weights.read(args.checkpoint, args.weights)
        self.chosen = chosen.model_of(args, self.stored)
        name, folder = _dataset(args, self.chosen)
        self.device = pick_device(args.device)
        if args.threads:
            torch.set_num_threads(args.threads)
        float32.fix()
        self.scan = ops.choose(self.device, requested=args.scan)
        self.dataset = data.load(name, args.root, folder)
        precision = args.precision or self.chosen.recipe.precision
        if warning := slowness(self.device, precision):
            print(warning, file=sys.stderr)
        self.recipe = self.chosen.recipe.model_copy(update={"precision": precision})
        self.autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=precision == "bf16")
        self._stored_cls_position = args.stored_cls_position
        self._own: dict[str, torch.Tensor] | None = None

    @property
    def classes(self) -> int:
        return len(self.dataset.classes)

    def forward(self, setting: Setting) -> Forward:
        """The model under a setting; all share one set of weights. Raises InputError where its method cannot act."""
        return self.of_model(setting.build(self.chosen.architecture, self.classes, self.scan.name))

    def of_model(self, model: VisionMamba) -> Forward:
        """The same of a model that has been built. Raises InputError where the weights do not fit."""
        if self._own is None:
            self.fitted = weights.fit(self.stored, model, self._stored_cls_position)
            for note in self.fitted.notes:
                print(f"{self.stored.path}: {note}")
            self._own = model.to(self.device).state_dict()
        else:
            model.to(self.device).load_state_dict(self._own, assign=True)
        return _FiniteForward(model, self.autocast)

    def images(self, some: Some) -> EvalLoader:
        """The images as the model takes them."""
        return EvalLoader(some, self.recipe, self.chosen.architecture.img_size, self.device)

    def fitting(self, name: str, batch: int) -> AbstractContextManager[None]:
        """Memory that runs out in a pass of `batch` images, the value of `name`, is reported as bad input."""
        shape = self.chosen.architecture
        of_one = {"precision": self.recipe.precision, "epochs": 1, "warmup_epochs": 0}

        def advice(_: BaseException) -> str:
            cell = cell_of(shape, (0,) * shape.depth, 1, **of_one)
            return memory.forward_remedy(cell, self.device, name, batch)

        return memory.reported(self.chosen.name, advice)

    def evaluating(self) -> AbstractContextManager[None]:
        """The same in a pass over images of the data set."""
        return self.fitting("recipe.eval_batch", self.recipe.eval_batch)

    def tested(self, limit: int | None) -> Some:
        """The test set, or some of its images, evenly spaced: a set may be sorted by class."""
        every = len(self.dataset.test_images)
        return some(self.dataset, evenly(every, min(limit or every, every)))


def _dataset(args: argparse.Namespace, model: Chosen) -> tuple[str, ListedFolder | None]:
    """The data set that --dataset names, else the training's; an image folder's name is that of its manifest's file."""
    if args.dataset is None:
        if model.dataset is None:
            raise InputError(f"{args.checkpoint}: does not say of which data set it is; name one: --dataset")
        return model.dataset, model.folder
    if args.dataset in data.NAMES or not Path(args.dataset).is_file():
        return args.dataset, model.folder if args.dataset == model.dataset else None
    return Path(args.dataset).stem, listed(ImageFolder(manifest=args.dataset))


def evenly(every: int, wanted: int) -> np.ndarray:
    """So many of 0, 1, ..., every - 1, evenly spaced."""
    return np.arange(wanted) * every // wanted


class _FiniteForward(Forward):
    """Raises CheckFailed where a logit is not finite."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """See `Forward`."""
        logits = super().__call__(images)
        if not logits.isfinite().all():
            first = checks.first_not_finite(self.model, [images], self.autocast)
            raise CheckFailed(f"logits are not finite; first not finite: {first}")
        return logits
