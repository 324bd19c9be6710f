"""Seeds: every random draw comes from `derived_seed`.

A draw depends on the seed and on where in the training it is made, and never on the number of processes.
"""

import random
import zlib

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy (32 bits, as it takes) and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def derived_seed(seed: int, stream: str, *position: int) -> int:
    """A 64-bit seed for one draw: of the named stream, at a position such as (epoch, step, group)."""
    key = (zlib.crc32(stream.encode()), seed, *position)
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
