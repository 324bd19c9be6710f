"""The data sets, and the way of their images to the model.

`load` a data set, `fetch` what is missing, `verify` what is there, `show` a sheet of samples.

Every byte is checked against a pinned sha256 before it is parsed, and the identity of a data set goes into each result
row. `cifar100` is the paper's; `fashion-mnist` and `digits` are real images for machines without it.
"""

from famba.data.acquire import fetch, pull
from famba.data.dataset import Dataset, Identity
from famba.data.registry import NAMES, load, verify
from famba.data.sheet import show

__all__ = ["NAMES", "Dataset", "Identity", "fetch", "load", "pull", "show", "verify"]
