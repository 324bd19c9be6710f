"""What a training multiplies in float32 is float32, and its row says so."""

from pathlib import Path

import torch

from famba.results.row import Arithmetic
from famba.system import float32
from famba.training.train import Training
from tests.helpers.cells import cell as micro_cell


def test_every_training_multiplies_in_full_float32(tmp_path):
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    row = Training(micro_cell(epochs=1), tmp_path, Path("data")).run()
    assert row.arithmetic == Arithmetic(float32_matmul="highest", tf32=False)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_row_records_the_arithmetic_in_force():
    try:
        torch.set_float32_matmul_precision("high")
        assert float32.arithmetic() == Arithmetic(float32_matmul="high", tf32=True)
    finally:
        float32.fix()
    assert float32.arithmetic() == Arithmetic(float32_matmul="highest", tf32=False)
