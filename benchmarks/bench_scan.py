"""The selective scan, forward and backward: against `chunked`, a loop over time steps, and the exponentials' roof."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from famba import ops
from famba.config import Architecture
from famba.cost.bench import cell_of, layer_runs
from famba.cost.roofline import Probe

CPU = torch.device("cpu")
# in one direction, as other implementations are measured
BATCH, LENGTH, DIM, STATE = 32, 197, 384, 16


def one_direction(backend, precision="fp32"):
    """A run of forward and backward pass over fixed inputs."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def leaf(*shape, kind=dtype):
        return torch.randn(shape).to(kind).requires_grad_()

    u, delta, B, C = (leaf(1, BATCH, LENGTH, size) for size in (DIM, DIM, STATE, STATE))
    A = (-torch.rand(1, DIM, STATE) * STATE).requires_grad_()
    D, bias = leaf(1, DIM, kind=torch.float32), leaf(1, DIM, kind=torch.float32)
    z = leaf(BATCH, LENGTH, DIM)
    inputs = (u, delta, A, B, C, D, z, bias)
    grad = torch.randn(BATCH, LENGTH, DIM).to(dtype)
    return lambda: torch.autograd.grad(ops.directional_scan(*inputs, backend), inputs, grad)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def bench_against_other_scans(versus, backend, precision):
    """`reference` is the loop over time steps, over `unbind` and with plain autograd."""
    references = {name: one_direction(name, precision) for name in ("chunked", "reference")}
    versus(one_direction(backend, precision), references, rounds=9)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("part", ["scan forward", "scan backward", "conv forward", "conv backward"])
def bench_share_of_the_bound(versus, benchmark, backend, part, precision):
    """Both directions at Vim-Ti's width and batch 16, held against the rates of the same rounds."""
    cell = cell_of(Architecture(embed_dim=192, depth=2), (0, 0), 16, precision=precision)
    run, work = layer_runs(cell, CPU, backend)[part]
    probe = Probe(CPU, precision)
    seconds = versus(run, {}, rounds=15, roof=probe)
    rates = probe.rates(seconds)
    benchmark.extra_info["share_of_bound"] = round(rates.bound_s(work) / seconds["subject"], 3)
    benchmark.extra_info["share_of_exp_rate"] = round(work.exps / rates.exps / seconds["subject"], 3)


def bench_peak_memory(benchmark, backend):
    """What a forward and a backward pass add to the resident set at its largest, in a process of their own."""
    grown = benchmark.pedantic(_grown_mib, args=(backend,), rounds=1)
    benchmark.extra_info["peak_mib"] = round(grown, 1)


def _grown_mib(backend):
    code = f"""
import re, bench_scan

def resident(which):
    return int(re.search(which + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

bench_scan.BATCH = 1
bench_scan.one_direction({backend!r})()  # libraries and threads are up
bench_scan.BATCH = {BATCH}
run = bench_scan.one_direction({backend!r})
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = resident("VmRSS")
run()
print(resident("VmHWM") - before)
"""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent)}  # the package may not be installed
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here, env=environment
    )
    return int(done.stdout.split()[-1]) / 1024
