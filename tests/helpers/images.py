"""Made-up images."""

import numpy as np
from PIL import Image


def smooth_image(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """A picture-like (H, W, C) uint8 array: large structures, some noise, the full range."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noisy = np.asarray(coarse) + rng.normal(0, 8, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)[:, :, :channels]
