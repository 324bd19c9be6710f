"""What gpu_training.py brings back from a machine that returns few and small files."""

from __future__ import annotations

import io
import lzma
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from famba.errors import CheckFailed
from famba.training.checkpoint import WEIGHTS

FILE_LIMIT = 16 * 2**20  # bytes of a packed file
PACKED = ("row.json", "epochs.csv", "steps.csv", "predictions.npz", "tokens.npz", "train.log")


def pack(out: Path, folder: Path, weights: bool) -> None:
    """Write gpu-training.tar.gz with the plan, the experiment, and the rows, tables, predictions and logs so far.

    `weights`: also the weights of each finished cell in bfloat16, xz-compressed; --init of `famba train` takes them
    once unpacked. Checkpoints are left out: with the optimiser's state one has 112 MB. Raises CheckFailed if a file
    is too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "gpu-training.tar.gz", "w:gz") as archive:
        files = [out / "plan.json", out / "experiment.yaml"]
        files += [path for name in PACKED for path in sorted(out.glob(f"cells/*/{name}"))]
        for path in files:
            archive.add(path, Path("gpu-training", path.relative_to(out)))
    if weights:
        finished = sorted(out.glob(f"cells/*/{WEIGHTS}"))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda path: pack_weights(path, folder / f"{path.parent.name}-bf16.pt.xz"), finished))
    for path in sorted(folder.iterdir()):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        if path.stat().st_size > FILE_LIMIT:
            raise CheckFailed(f"{path}: more than {FILE_LIMIT / 2**20:.0f} MiB")


def pack_weights(weights: Path, path: Path) -> None:
    state = torch.load(weights, map_location="cpu", weights_only=True)["model"]
    plain = io.BytesIO()
    torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, plain)
    # two bytes a number: the exponents compress, the mantissas do not
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "lc": 0, "lp": 1, "pb": 1}]
    path.write_bytes(lzma.compress(plain.getvalue(), filters=filters))
