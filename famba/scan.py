"""The selective scan for code outside of this package: `famba.scan.selective_scan`. The operators are in famba/ops/."""

from famba.ops import BACKENDS, Selection, available, choose, selective_scan

__all__ = ["BACKENDS", "Selection", "available", "choose", "selective_scan"]
