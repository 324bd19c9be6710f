"""How large the data sets are, without reading one. No numpy here: Snakemake asks before it submits a job."""

import os
from pathlib import Path
from typing import NamedTuple


class Sizes(NamedTuple):
    """`train`, `test`: images. `stored`: height, width and channels of one."""

    train: int
    test: int
    stored: tuple[int, int, int]
    classes: int


DATASETS = {
    "cifar100": Sizes(50_000, 10_000, (32, 32, 3), 100),
    "fashion-mnist": Sizes(60_000, 10_000, (28, 28, 1), 10),
    "digits": Sizes(1_437, 360, (8, 8, 1), 10),
}


DATA_HELP = "where the data sets are [FAMBA_DATA, else data]"


def data_folder() -> Path:
    """Where the data sets are unless a command names another folder: FAMBA_DATA, else `data` in the working folder."""
    return Path(os.environ.get("FAMBA_DATA") or "data")
