"""In which dtype a layer computes. It is settled before a backend is chosen by it."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of the scan's streams, by a recipe's `precision`


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's type for x; None where autocast is off or leaves x as it is: float64, by PyTorch's own rule."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def without_autocast(device: str) -> AbstractContextManager[object]:
    """For operators that promote: outside of autocast they take float64 too."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
