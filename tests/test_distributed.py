"""Two processes with gloo train what one process trains."""

import os
import subprocess
import sys

import pytest
import torch
from test_train import ROOT, cell, weights

from famba.record import read_row


def train(folder, processes):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    settings = cell(epochs=2, mixup=0.8, cutmix=1.0).model_dump_json()
    command = ["-m", "famba", "train", "--cell", settings, "--out", str(folder / "row.json")]
    subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        check=True,
    )
    return read_row(folder / "row.json")


@pytest.mark.slow
def test_two_processes_train_the_same_weights(tmp_path):
    alone, together = train(tmp_path / "1", 1), train(tmp_path / "2", 2)
    assert (alone.environment.world_size, together.environment.world_size) == (1, 2)
    expected, found = weights(tmp_path / "1"), weights(tmp_path / "2")
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=1e-5), name
    assert together.metrics.last.top1 == pytest.approx(alone.metrics.last.top1, abs=0.6)  # two of 360 images
    assert together.metrics.images_seen == alone.metrics.images_seen
