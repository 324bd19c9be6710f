"""Which backend of the scan runs, and why; and which kernels of norm, matching and merging (`kernels`).

`auto` explains itself, a request is met or refused; nothing falls back silently.
"""

import functools
import importlib
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from famba.errors import InputError
from famba.ops.autograd import AutogradBackend
from famba.ops.cpp import tokens as cpp_tokens
from famba.ops.triton import tokens as triton_tokens
from famba.ops.types import Kernels, Rows, ScanTensors
from famba.text import nearest

# Fastest first, as far as measured: `triton` has not run on a GPU yet, so mamba-ssm's kernels go before it.
BACKENDS = ("mamba_ssm", "cpu", "triton", "chunked", "reference")
AUTOGRAD_BACKENDS = ("cpu", "triton")
MODULES = {"cpu": "cpp.scan", "triton": "triton.scan"}  # of this package; the others have their name


class Backend(Protocol):
    """What a backend offers.

    `interface` has checked the shapes and settled the types before it calls: `u`, `delta`, `B`, `C`, `z` (and `x` of
    the convolution) share one floating type; the parameters `A`, `D`, `delta_bias`, `weight`, `bias` are in the state's
    type, float64 for float64 inputs and float32 for all others. Any tensor may be strided. The result has `u`'s type.
    """

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why this backend cannot run here, in a few words; None if it can."""

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """SiLU of the depthwise causal convolution: (B, L, D), (K, D, W), (K, D) -> (K, B, L, D)."""

    def scan(self, inputs: ScanTensors, softplus: bool) -> Tensor:
        """The gated sum of the directions, (B, L, D); direction 1 runs from the last step to the first."""


@dataclass(frozen=True)
class Selection:
    """The backend that will run and one sentence that says why; both are stored with every result."""

    name: str
    reason: str


def load(name: str) -> Backend:
    """The backend of that name: a module, or what a module of kernels makes."""
    module = importlib.import_module(f"famba.ops.{MODULES.get(name, name)}")
    return AutogradBackend(cast(Kernels, module)) if name in AUTOGRAD_BACKENDS else cast(Backend, module)


def available(device: torch.device | str, dtype: torch.dtype = torch.float32) -> list[tuple[str, bool, str]]:
    """(name, can it run, why not) for every backend on `device`, fastest first."""
    device = torch.device(device)
    reasons = [(name, load(name).unavailable(device, dtype)) for name in BACKENDS]
    return [(name, reason is None, reason or "ready") for name, reason in reasons]


def choose(device: torch.device | str, dtype: torch.dtype = torch.float32, requested: str = "auto") -> Selection:
    """The backend for tensors of `dtype` on `device`.

    `auto` takes the fastest that can run. Raises InputError if `requested` is unknown or cannot run here.
    """
    chosen = _choose.__wrapped__ if torch.compiler.is_compiling() else _choose  # other backends run then
    return chosen(torch.device(device), dtype, requested)


@functools.cache
def _choose(device: torch.device, dtype: torch.dtype, requested: str) -> Selection:
    if requested != "auto":
        return _requested(device, dtype, requested)
    passed_over: list[str] = []
    for name, ok, reason in available(device, dtype):
        if ok:
            return Selection(name, f"the fastest that runs {_short(dtype)} on {device.type}" + _because(passed_over))
        passed_over.append(f"{name} {reason}")
    raise InputError(f"scan: no backend runs {_short(dtype)} on {device.type}{_because(passed_over)}")


def _requested(device: torch.device, dtype: torch.dtype, name: str) -> Selection:
    if name not in BACKENDS:
        known = ("auto", *BACKENDS)
        raise InputError(f"scan backend {name!r} is unknown: expected {', '.join(known)}{nearest(name, known, '')}")
    reason = load(name).unavailable(device, dtype)
    if reason is not None:
        runs = ", ".join(other for other, ok, _ in available(device, dtype) if ok)
        raise InputError(f"scan backend {name!r} {reason}; choose auto or one of: {runs or 'none runs here'}")
    return Selection(name, "requested")


def _because(passed_over: list[str]) -> str:
    return f" ({'; '.join(passed_over)})" if passed_over else ""


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kernels(device: torch.device, dtype: torch.dtype = torch.float32, merging: bool = False) -> Rows | None:
    """The kernels of norm, matching and merging that run here; None: torch's own operators do.

    They take float32; merging also takes what the scan does.
    """
    if torch.compiler.is_compiling() or not (merging or dtype == torch.float32):
        return None
    module = cpp_tokens if device.type == "cpu" else triton_tokens
    return cast(Rows, module) if module.unavailable(device, dtype) is None else None
