"""`famba bench` on a toy model: every part runs, is counted, and reaches the table and the file."""

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from famba.cli import main
from famba.commands.bench import table
from famba.config import Architecture
from famba.cost.bench import bench, cell_of, layer_runs
from famba.cost.roofline import Probe, Rates, interleaved_s, measured
from tests.helpers import ROOT

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
    rates = measured(CPU, "bf16", rounds=1, small=True)
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


# the GPU's script


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


@pytest.mark.slow
def test_the_gpu_script_rehearses_on_a_cpu(tmp_path):
    """All sections run; at toy sizes on a CPU the speed targets mean nothing, correctness does."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--quick", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    found = json.loads(out.read_text())
    for made in found.values():
        assert not isinstance(made, dict) or not {"failed", "cut"} & made.keys(), made
    assert found["verdicts"]["correct"]["met"]
    assert all(verdict["met"] is not None for verdict in found["verdicts"].values())
    assert found["whole_model"]["released"]["logits"] < 1e-5


@pytest.mark.slow
def test_what_the_compiler_makes_of_the_triton_kernels(tmp_path):
    """It takes less than the interpreter does; and what it would compute twice shows in the loops."""
    pytest.importorskip("triton")
    out = tmp_path / "sass.json"
    subprocess.run([sys.executable, "benchmarks/sass.py", "--out", str(out)], cwd=ROOT, check=True)
    made = json.loads(out.read_text())
    assert made["extensions"] == {} or importlib.util.find_spec("selective_scan_cuda")
    found = made["kernels"]
    assert (
        found.keys() == json.loads((ROOT / "benchmarks" / "results" / "sass-sm90.json").read_text())["kernels"].keys()
    )
    assert {name for name, made in found.items() if made["spill_instructions"]} <= {"scan_backward"}
    for name, most in {"scan_forward": 9, "scan_backward": 28, "conv_forward": 21, "conv_backward": 37}.items():
        assert 0 < found[name]["each"] <= most, name


@pytest.mark.skipif(importlib.util.find_spec("selective_scan_cuda") is not None, reason="mamba-ssm is installed")
def test_what_needs_mamba_ssm_says_so_without_it():
    said = subprocess.run(
        [sys.executable, "benchmarks/launches.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("launches.py: mamba-ssm and causal-conv1d are not installed")


def test_both_compilers_results_are_of_both_gpus():
    """The A100 and Hopper: the same kernels of both extensions, and the same Triton kernels."""
    found = {arch: json.loads((ROOT / f"benchmarks/results/sass-sm{arch}.json").read_text()) for arch in (80, 90)}
    for arch, made in found.items():
        assert made["arch"] == arch
        assert made["kernels"].keys() == found[90]["kernels"].keys()
        assert made["extensions"].keys() == {
            *("causal_conv1d_fwd", "causal_conv1d_bwd", "selective_scan_fwd", "selective_scan_bwd")
        }
        for name, kernel in made["extensions"].items():
            assert kernel["instructions"] > 0
            assert kernel["of"] == found[90]["extensions"][name]["of"], name


def test_a_section_that_is_cut_off_says_so(gpu):
    args = argparse.Namespace(device="cpu", quick=True)
    assert gpu.run_section("prediction", 0.1, args) == {"cut": "after 0.1 s"}


def test_a_section_that_fails_says_why(gpu):
    args = argparse.Namespace(device="meta", quick=True)  # argparse would not let it through
    made = gpu.run_section("prediction", 60, args)
    assert "invalid choice: 'meta'" in made["failed"]


def test_a_target_whose_section_was_lost_has_no_verdict(gpu):
    lost = gpu.verdicts({"scan": {"name": "triton"}, "strategies": {"cut": "after 80 s"}})
    assert all(verdict["met"] is None for verdict in lost.values())
    assert set(lost) == {"correct", *gpu.TARGETS}
    half = {"vim_tiny": {"images_per_s": 9000.0, "evaluation_ms_per_image": 0.05, "data_adds": 0.01}, "cut": "after"}
    whole = {"scan": {"name": "triton"}, "throughput": half, "extrapolation": gpu.extrapolation({"throughput": half})}
    verdicts = gpu.verdicts(whole)
    assert verdicts["vim_tiny_images_per_s"]["met"]
    assert verdicts["vim_tiny_300_epochs_minutes"]["met"]
    assert verdicts["vim_small_images_per_s"]["met"] is None
    assert verdicts["data_adds"]["met"] is None
