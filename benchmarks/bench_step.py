"""A whole training step of Vim-Ti at 224 pixels: against other scans, its bound, its fused cells and its prediction."""

from contextlib import nullcontext

import pytest
import torch

from famba.config import ARCHITECTURES, Architecture
from famba.cost.bench import cell_of
from famba.cost.calibrate import Probes
from famba.cost.roofline import Probe
from famba.flops import scheduled_tokens
from famba.model import vim_tiny
from famba.strategies import STRATEGIES, strategy
from famba.training.activations import saved_activation_bytes
from famba.training.timing import running

CPU, CLASSES = torch.device("cpu"), 100
SLOW_BF16 = torch.backends.cpu.get_cpu_capability() != "AVX512"  # then slower than fp32: cpu-avx2-steps.json
VIM_TINY = ARCHITECTURES["vim_tiny"]


def step_of(strategy_name, batch, backend, precision="fp32", architecture=VIM_TINY):
    """The cost by count, and the step as a run."""
    cell = cell_of(architecture, strategy(strategy_name, architecture.depth), batch, precision=precision)
    counted, run, _ = running(cell, CPU, backend, CLASSES)
    return counted, run


@pytest.mark.parametrize("batch", [8, 16])
def bench_against_other_scans(versus, benchmark, backend, batch):
    """`reference` is the loop over time steps with plain autograd, run once, at batch 8 only."""
    slow = ("reference", "bf16") if SLOW_BF16 else ("reference",)
    counted, run = step_of("baseline", batch, backend)
    references = {
        "chunked": step_of("baseline", batch, "chunked")[1],
        "bf16": step_of("baseline", batch, backend, "bf16")[1],
    }
    if batch == 8:
        references["reference"] = step_of("baseline", batch, "reference")[1]
    probe = Probe(CPU, "fp32")
    seconds = versus(run, references, rounds=5, slow=slow, roof=probe)
    without_data = counted.work + counted.augmentation * -batch
    benchmark.extra_info["share_of_bound"] = round(probe.rates(seconds).bound_s(without_data) / seconds["subject"], 3)


@pytest.mark.parametrize("batch", [8, 16])
def bench_fused_cells(versus, benchmark, backend, batch):
    """Time and saved memory of each strategy over the baseline's, beside the share of the tokens that it keeps.

    The larger the batch, the less the update of the weights, the same for all, keeps the ratios up.
    """
    runs = {name: step_of(name, batch, backend)[1] for name in STRATEGIES}
    baseline = runs.pop("baseline")
    seconds = versus(baseline, runs, rounds=9)
    saved = {name: saved_activation_bytes(vim_tiny(fusion=name, scan=backend), CPU, nullcontext) for name in STRATEGIES}
    benchmark.extra_info["saved_mib_per_image"] = round(saved["baseline"] / 2**20, 2)
    for name in STRATEGIES[1:]:
        tokens = scheduled_tokens(VIM_TINY, strategy(name))[:-1]
        benchmark.extra_info[name] = {
            "tokens": round(sum(tokens) / (len(tokens) * VIM_TINY.tokens), 3),
            "time": round(seconds[name] / seconds["subject"], 3),
            "saved": round(saved[name] / saved["baseline"], 3),
        }


UNSEEN = {
    "vim_tiny-upper": ("upper", VIM_TINY),
    "vim_tiny-baseline": ("baseline", VIM_TINY),
    "wide-shallow-lower": ("lower", Architecture(embed_dim=256, depth=8)),
    "long-all": ("all", Architecture(embed_dim=96, depth=12, patch_size=14, img_size=252)),
}


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def bench_prediction(versus, benchmark, backend, name, precision):
    """`famba plan`'s calibrated prediction of a configuration that its probes have not seen, over the measured step."""
    if precision == "bf16" and SLOW_BF16:
        pytest.skip("bf16 products are slower than fp32 on this processor")
    strategy_name, architecture = UNSEEN[name]
    counted, run = step_of(strategy_name, 8, backend, precision, architecture)
    cell = cell_of(architecture, strategy(strategy_name, architecture.depth), 8, precision=precision)
    probes = Probes(cell, CPU, backend, CLASSES)
    seconds = versus(run, {}, rounds=5, roof=probes)
    predicted = probes.calibration(seconds).step_s(counted)
    benchmark.extra_info["predicted_over_measured"] = round(predicted / seconds["subject"], 3)
