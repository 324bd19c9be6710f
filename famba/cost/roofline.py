"""What a device can do at most in a second: matrix products, exponentials, memory traffic.

Rates are measured where the device is, or calculated from its datasheet where it is not. The bound of some work is the
sum of the three times: on a CPU's core nothing overlaps, and a GPU that overlaps them may stay below it.
"""

import ctypes
import functools
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from famba.flops import Work
from famba.ops.cpp import build
from famba.system.host import cpu_name

CALCULATED = "calculated, not measured"
MEASURED = "measured"
_QUEUEING_CYCLES = 20_000_000  # of a GPU's clock: ten milliseconds, in which the host launches a thousand kernels


@dataclass(frozen=True)
class Rates:
    """Per second, at one precision: FLOPs in matrix products, exponentials, bytes read and written in a copy."""

    device: str
    source: str
    gemm_flops: float
    exps: float
    moved: float

    def bound_s(self, work: Work) -> float:
        """Seconds that the work takes at least."""
        return work.gemm_flops / self.gemm_flops + work.exps / self.exps + work.moved / self.moved


# bf16: tensor cores at 80 % of the datasheet's rate; fp32: its plain rate, without TF32; 16 exponentials per clock and
# multiprocessor; the bandwidth that a copy reaches.
PROFILES = {
    "a100": {
        "fp32": Rates("A100", CALCULATED, 19.5e12, 16 * 108 * 1.41e9, 1.6e12),
        "bf16": Rates("A100", CALCULATED, 250e12, 16 * 108 * 1.41e9, 1.6e12),
    },
    "h200": {
        "fp32": Rates("H200", CALCULATED, 67e12, 16 * 132 * 1.755e9, 4.3e12),
        "bf16": Rates("H200", CALCULATED, 790e12, 16 * 132 * 1.755e9, 4.3e12),
    },
}


def elapsed_s(run: Callable[[], Any], device: torch.device, queued: bool = False) -> float:
    """Seconds that one call takes on the device, from an idle queue to its end.

    `queued`: its kernels wait in the queue before the first one starts, so that nothing of the host's time counts, as
    in a captured graph; for runs of at most some hundred kernels.
    """
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        if queued:
            torch.cuda._sleep(_QUEUEING_CYCLES)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def interleaved_s(
    runs: dict[str, Callable[[], Any]],
    device: torch.device,
    rounds: int,
    warm_up: int = 1,
    queued: Collection[str] = (),
) -> dict[str, float]:
    """Median seconds of each, one after the other in every round, so that a slow minute meets them all alike.

    `queued`: the names of those that `elapsed_s` is to time without the host.
    """
    for run in [run for run in runs.values() for _ in range(warm_up)]:
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(elapsed_s(run, device, name in queued))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


class Probe:
    """Small runs that load one part of the device alone; `rates` makes rates of their seconds."""

    def __init__(self, device: torch.device, precision: str, small: bool = False) -> None:
        self.device = device
        cuda = device.type == "cuda"
        side = 256 if small else 8192 if cuda else 1024
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
        c = torch.empty_like(a)
        # far beyond the last cache, and no zeros: chips move those for less
        source = torch.rand((1 if small else 256 if cuda else 32) << 20, device=device)
        target = torch.empty_like(source)
        self._work: dict[str, tuple[Callable[[], Any], float]] = {
            "gemm": (lambda: torch.mm(a, b, out=c), 2 * side**3),
            "copy": (lambda: target.copy_(source), 2 * source.nbytes),
        }
        if not cuda:
            self._work["exp"] = _cpu_exponentials(1 << (11 if small else 16))

    @property
    def runs(self) -> dict[str, Callable[[], Any]]:
        """By name; to be interleaved with what is compared with them."""
        return {name: run for name, (run, _) in self._work.items()}

    def rates(self, seconds: Mapping[str, float]) -> Rates:
        rate = {name: amount / seconds[name] for name, (_, amount) in self._work.items()}
        if self.device.type == "cuda":
            chip = torch.cuda.get_device_properties(self.device)
            # no operator of torch is bound by the special function units: 16 a clock, as on every chip since Volta
            rate["exp"] = 16 * chip.multi_processor_count * getattr(chip, "clock_rate", 1_755_000) * 1e3
            return Rates(chip.name, MEASURED, rate["gemm"], rate["exp"], rate["copy"])
        return Rates(cpu_name(), MEASURED, rate["gemm"], rate["exp"], rate["copy"])


def _cpu_exponentials(rounds: int) -> tuple[Callable[[], Any], float]:
    """A run of exponentials on all threads, and how many it makes: the C++ scan's own where it can be built."""
    threads = torch.get_num_threads()
    try:
        kernel = _exp_kernel()
    except build.BuildError:
        x = -torch.rand(1 << 20)
        out = torch.empty_like(x)
        return lambda: torch.exp2(x, out=out), x.numel()
    sink = ctypes.c_float()
    each = kernel(1, threads, ctypes.byref(sink))
    return lambda: kernel(rounds, threads, ctypes.byref(sink)), rounds * each * threads


@functools.cache
def _exp_kernel() -> Any:
    """`exp_rate` of exp_rate.cpp. Raises BuildError."""
    kernel = build.library().exp_rate
    kernel.restype, kernel.argtypes = ctypes.c_int64, (ctypes.c_int64, ctypes.c_int, ctypes.c_void_p)
    return kernel
