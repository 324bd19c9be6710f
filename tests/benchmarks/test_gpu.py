"""The benchmarks that need a GPU: what of them can be shown without one."""

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys

import pytest

from tests.helpers import ROOT


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


@pytest.mark.slow
def test_the_gpu_script_rehearses_on_a_cpu(gpu, tmp_path):
    """All sections run; at toy sizes on a CPU the speed targets mean nothing, correctness does.

    Two of them as the script runs them, each in a process of its own; the others here, where torch is imported already.
    """
    out = tmp_path / "gpu.json"
    given = ["--device", "cpu", "--quick", "--only", "correctness", "throughput", "--out", str(out)]
    subprocess.run([sys.executable, "benchmarks/gpu.py", *given], cwd=ROOT, check=True)
    found = json.loads(out.read_text())
    suite = gpu.Suite("cpu", quick=True)
    for name, (section, _) in gpu.SECTIONS.items():
        if name not in found:
            section(suite, gpu.Found(tmp_path / name))
            found[name] = json.loads((tmp_path / name).read_text())
    for made in found.values():
        assert not isinstance(made, dict) or not {"failed", "cut"} & made.keys(), made
    assert found["extrapolation"].keys() == suite.models.keys()
    assert found["verdicts"]["correct"]["met"]
    assert all(verdict["met"] is not None for verdict in gpu.verdicts(found).values())
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
