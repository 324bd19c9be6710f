"""Seeds: derived ones differ, and one call seeds every generator."""

import random

import numpy as np
import torch

from famba.data.seeds import derived_seed, seed_everything


def test_derived_seeds_differ():
    seeds = {derived_seed(s, name, a, b) for s in range(3) for name in "ab" for a in range(5) for b in range(5)}
    assert len(seeds) == 3 * 2 * 5 * 5
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_seed_everything_covers_python_numpy_and_torch():
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(7)
    first = draws()
    seed_everything(7)
    assert draws() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
