"""Famba-V's experiments, made checkable: Vision Mamba, cross-layer token fusion, and the grid that judges them."""

__version__ = "0.1.0"
