"""How large the data sets are, without reading one. No numpy here: Snakemake asks before it submits a job."""

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
