"""Training as `famba train` runs it, data included: loader, augmentation, mixup, steps; against the steps alone."""

import numpy as np
import pytest
import torch

from famba.config import ARCHITECTURES, Architecture
from famba.cost.bench import cell_of
from famba.data.loader import TrainLoader
from famba.strategies import strategy
from famba.training.timing import running

CPU, CLASSES = torch.device("cpu"), 100
MODELS = {
    "vim_tiny": (ARCHITECTURES["vim_tiny"], 8),
    "smoke": (Architecture(embed_dim=64, depth=12, img_size=32, patch_size=4), 64),
}


class Noise:
    """A data set of CIFAR-100's shape."""

    def __init__(self, images):
        rng = np.random.default_rng(0)
        self.train_images = rng.integers(256, size=(images, 32, 32, 3), dtype=np.uint8)
        self.train_labels = rng.integers(CLASSES, size=images)
        self.test_images, self.test_labels = self.train_images[:1], self.train_labels[:1]
        self.classes = tuple(map(str, range(CLASSES)))


@pytest.mark.parametrize("strategy_name", ["baseline", "upper"])
@pytest.mark.parametrize("model", MODELS)
def bench_against_steps_alone(versus, benchmark, backend, model, strategy_name):
    """The subject is two optimiser steps of fresh data; the reference, two on images that are there already."""
    architecture, batch = MODELS[model]
    tokens = architecture.tokens if model == "smoke" else None
    cell = cell_of(architecture, strategy(strategy_name, architecture.depth, tokens), batch)
    _, alone, _ = running(cell, CPU, backend, CLASSES)
    step = alone.func
    loader = TrainLoader(Noise(2 * batch), cell.recipe, architecture.img_size, 0, CPU)
    epochs = iter(range(1 << 30))

    def with_data():
        for batches in loader.epoch(next(epochs)):
            step(batches)

    def twice():
        alone()
        alone()

    seconds = versus(with_data, {"steps_alone": twice}, rounds=3)
    benchmark.extra_info["images_per_s"] = round(loader.steps * batch / seconds["subject"], 2)
