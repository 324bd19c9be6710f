"""Famba-V's experiments, made checkable: Vision Mamba, cross-layer token fusion, and the grid that judges them.

import famba
model = famba.vim_tiny(num_classes=100, fusion="upper")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["VisionMamba", "fusion", "scan", "vim_small", "vim_tiny"]

if TYPE_CHECKING:
    from famba import fusion, scan
    from famba.model import VisionMamba, vim_small, vim_tiny


def __getattr__(name: str) -> Any:
    """Import what is public on first use: Snakemake reads the configuration without paying for torch."""
    if name in ("fusion", "scan"):
        return import_module(f"famba.{name}")
    if name in __all__:
        return getattr(import_module("famba.model"), name)
    raise AttributeError(f"module 'famba' has no attribute {name!r}")
