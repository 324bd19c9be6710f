"""What trainings leave, and whether two of them left the same."""

from pathlib import Path

import torch

from famba.results.row import read_row
from famba.training import checkpoint


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def ends_as(folder: Path, undisturbed: Path) -> None:
    assert same(weights(folder), weights(undisturbed))
    assert read_row(folder / "row.json").metrics == read_row(undisturbed / "row.json").metrics
    for name in ("tokens.npz", "predictions.npz"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert checkpoint.present(folder) == []
