"""In which dtype a layer computes. It is settled before a backend is chosen by it."""

import platform
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of the scan's streams, by a recipe's `precision`


def slowness(device: torch.device, precision: str) -> str | None:
    """Why a recipe's precision is slow here, and what to do; None where it is not.

    Without AVX-512 torch has no library for bf16 products on x86 and multiplies number by number: measured on Zen 3, a
    step of a small Vim takes six times as long as in fp32.
    """
    level = torch.backends.cpu.get_cpu_capability()
    if precision != "bf16" or device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or "512" in level:
        return None
    return "precision bf16: slow here, since torch multiplies bf16 fast only with AVX-512; precision: fp32 is faster"


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's type for x; None where autocast is off or leaves x as it is: float64, by PyTorch's own rule."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def without_autocast(device: str) -> AbstractContextManager[object]:
    """For operators that promote: outside of autocast they take float64 too."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
