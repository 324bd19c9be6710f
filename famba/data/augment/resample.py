"""Bicubic crop-and-resize of a batch, one box per image, as two batched matrix products.

The kernel, the antialiasing, the 8-bit rounding between the passes and the treatment of borders (pixels outside the
box do not exist) are Pillow's, so a batch on the device gets the pixels that the recipe's per-image pipeline gives it:
exactly where images are enlarged, but for ties between two levels. Where a box shrinks more in height than in width,
Pillow 13 takes the vertical pass first, and levels differ by the rounding in between.
"""

import torch
from torch import Tensor


def keys_cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5, which Pillow's BICUBIC uses."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def resize_weights(start: Tensor, extent: Tensor, size_in: int, size_out: int) -> Tensor:
    """Weights that resize the pixels [start, start + extent) of an axis of size_in to size_out.

    start, extent (B,) whole pixels -> (B, size_out, size_in) float32, rows summing to 1.
    """
    start, extent = start.float()[:, None, None], extent.float()[:, None, None]
    scale = extent / size_out
    centre = start + (torch.arange(size_out, device=start.device)[:, None] + 0.5) * scale  # (B, size_out, 1)
    pixel = torch.arange(size_in, device=start.device) + 0.5
    weights = keys_cubic((pixel - centre) / scale.clamp(min=1))  # (B, size_out, size_in)
    weights = weights * ((pixel > start) & (pixel < start + extent))
    return weights / weights.sum(-1, keepdim=True)


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resize every image with its own weights: rows (B, S, H) and columns (B, T, W); B may be 1 in both.

    images (B, H, W, C) uint8 -> (B, C, S, T) float32, whole numbers from 0 to 255.
    """
    batch, height, width, channels = images.shape
    rows, columns = rows.expand(batch, -1, -1), columns.expand(batch, -1, -1)
    x = images.permute(0, 1, 3, 2).reshape(batch, height * channels, width).float()
    x = to_8_bit(torch.bmm(x, columns.transpose(1, 2)))  # (B, H * C, T)
    x = to_8_bit(torch.bmm(rows, x.view(batch, height, -1)))  # (B, S, C * T)
    return x.view(batch, rows.shape[1], channels, -1).transpose(1, 2)


def to_8_bit(x: Tensor) -> Tensor:
    """Round half up and clip to 0..255, in place, as Pillow does after each pass."""
    return x.add_(0.5).floor_().clamp_(0, 255)
