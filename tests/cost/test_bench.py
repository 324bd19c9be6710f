"""`famba bench` on a toy model: every part runs, is counted, and reaches the table and the file."""

import json

import pytest
import torch

from famba.cli import main
from famba.commands.bench import table
from famba.config import Architecture
from famba.cost.bench import bench, cell_of, layer_runs
from famba.cost.roofline import Probe, Rates, interleaved_s

CPU = torch.device("cpu")
TOY = Architecture(embed_dim=16, depth=2, img_size=32, patch_size=4)
PARTS = ["scan forward", "scan backward", "conv forward", "conv backward", "GEMMs", "norm", "fusion", "whole step"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_parts_are_measured_and_bounded(precision):
    rates, parts = bench(cell_of(TOY, (0, 0), 2, precision=precision), CPU, "chunked", rounds=1, small=True)
    assert [part.name for part in parts] == PARTS
    for part in parts:
        assert part.measured_s > 0
        assert part.bound_s > 0
        assert part.share == pytest.approx(part.bound_s / part.measured_s)
    assert sum(part.bound_s for part in parts[:-1]) < 10 * parts[-1].bound_s
    text = table(rates, parts, "toy")
    assert all(name in text for name in PARTS)


def test_any_batch_and_size_can_be_measured():
    """Nothing is trained: what a recipe asks of its learning rate and evaluation is no matter here."""
    large = Architecture(embed_dim=16, depth=2, img_size=512, patch_size=16)
    assert cell_of(large, (0, 0), 1).recipe.micro_batch == 1


def test_the_work_of_a_part_grows_with_the_batch():
    one, four = (layer_runs(cell_of(TOY, (0, 0), batch), CPU, "chunked") for batch in (1, 4))
    for name, (_, work) in one.items():
        assert four[name][1] == work * 4


def test_rates_are_what_the_seconds_say():
    probe = Probe(CPU, "fp32", small=True)
    rates = probe.rates({"gemm": 1.0, "exp": 1.0, "copy": 1.0})
    halved = probe.rates({"gemm": 2.0, "exp": 2.0, "copy": 2.0})
    assert rates.gemm_flops == 2 * 256**3 == 2 * halved.gemm_flops
    assert rates.exps == 2 * halved.exps
    assert rates.moved == 2 * 4 * (1 << 20) == 2 * halved.moved


def test_a_measured_device_says_so():
    probe = Probe(CPU, "bf16", small=True)
    rates = probe.rates(interleaved_s(probe.runs, CPU, rounds=1))
    assert isinstance(rates, Rates)
    assert rates.source == "measured"
    assert min(rates.gemm_flops, rates.exps, rates.moved) > 0


def test_runs_take_turns():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = interleaved_s(runs, CPU, rounds=3, warm_up=1)
    assert "".join(order) == "ab" + "ab" * 3
    assert set(seconds) == {"a", "b"}


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    out = tmp_path / "bench.json"
    toy = ["--batch", "1", "--depth", "1", "--img-size", "32", "--scan", "chunked", "--rounds", "1"]
    assert main(["bench", *toy, "--device", "cpu", "--json", str(out)]) == 0
    assert "whole step" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert [part["name"] for part in found["parts"]] == PARTS
    assert found["scan"]["name"] == "chunked"
    assert found["environment"]["packages"]["torch"] == torch.__version__


def test_a_size_that_does_not_divide_is_one_line(capsys):
    assert main(["bench", "--img-size", "30", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "multiple of patch_size" in error
    assert error.count("\n") == 1
