"""Which backend runs, and why. `auto` explains itself, a requested one runs or is refused; nothing falls back silently.

Two questions, each answered once per process: which backend runs the scan of some type on some device, where a user may
request one (`choose`, `scan_backend`); and which runs norm, matching and merging on that device (`token_backend`). A
model stores no answer: `.to()`, autocast and torch.compile would make it stale, and a Python module can be neither
copied nor pickled.
"""

import functools
from dataclasses import dataclass

import torch

from famba.errors import InputError
from famba.ops import chunked, mamba_ssm, reference, traced
from famba.ops.cpp import backend as cpp
from famba.ops.triton import backend as triton
from famba.ops.types import Backend
from famba.text import nearest

# In the order of preference. Kernels come first, the fastest of them in front: `triton` has not run on a GPU yet, so
# mamba-ssm's go before it. The other two run float64, GPUs without kernels, and on a CPU float16 and torch.compile.
# `chunked` is there for its memory: per image and layer of Vim-Ti, in float32, it saves 0.7 MiB beyond the scan's
# inputs, the reference 20.8 MiB. In speed it is now above and now below the reference (benchmarks/results).
# A new backend is also named in config (ScanName), flops (_saved_by_scan) and tests/helpers/backends.py (EVERY).
BY_NAME: dict[str, Backend] = {
    "mamba_ssm": mamba_ssm,
    "cpu": cpp,
    "triton": triton,
    "chunked": chunked,
    "reference": reference,
}
BACKENDS = tuple(BY_NAME)


@dataclass(frozen=True)
class Selection:
    """The backend that will run and one sentence that says why; both are stored with every result."""

    name: str
    reason: str


def available(device: torch.device | str, dtype: torch.dtype = torch.float32) -> list[tuple[str, bool, str]]:
    """(name, can it run, why not) for every backend on `device`, in the order of preference."""
    device = torch.device(device)
    reasons = [(name, backend.unavailable(device, dtype)) for name, backend in BY_NAME.items()]
    return [(name, reason is None, reason or "ready") for name, reason in reasons]


def choose(device: torch.device | str, dtype: torch.dtype = torch.float32, requested: str = "auto") -> Selection:
    """The backend of the scan for streams of `dtype` on `device`.

    `auto` takes the first that can run. Raises InputError if `requested` is unknown or cannot run here.
    """
    chosen = _choose.__wrapped__ if torch.compiler.is_compiling() else _choose  # other backends run then
    return chosen(torch.device(device), dtype, requested)


def scan_backend(device: torch.device, dtype: torch.dtype, requested: str = "auto") -> Backend:
    """The backend that `choose` names: for scan, convolution and mixer. Under torch.export `auto` has its own."""
    if requested == "auto" and torch.compiler.is_exporting():
        return traced
    return BY_NAME[choose(device, dtype, requested).name]


def token_backend(device: torch.device) -> Backend:
    """The backend of norm, matching and merging on `device`, whatever runs the scan: its kernels, or the reference."""
    # torch.compile cannot see into kernels; what the reference does it can fuse
    return reference if torch.compiler.is_compiling() else _token_backend(device)


@functools.cache
def _token_backend(device: torch.device) -> Backend:
    kernels: Backend = cpp if device.type == "cpu" else triton
    return kernels if kernels.unavailable(device, torch.float32) is None else reference


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


def require_known(name: str) -> None:
    """Raises InputError for a name that is neither `auto` nor a backend's, whether or not that can run here."""
    known = ("auto", *BACKENDS)
    if name not in known:
        raise InputError(
            f"scan backend {name!r} is unknown: expected {', '.join(known)}{nearest(str(name), known, '')}"
        )


def _requested(device: torch.device, dtype: torch.dtype, name: str) -> Selection:
    require_known(name)
    reason = BY_NAME[name].unavailable(device, dtype)
    if reason is not None:
        runs = ", ".join(other for other, ok, _ in available(device, dtype) if ok)
        raise InputError(f"scan backend {name!r} {reason}; choose auto or one of: {runs or 'none runs here'}")
    return Selection(name, "requested")


def _because(passed_over: list[str]) -> str:
    return f" ({'; '.join(passed_over)})" if passed_over else ""


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
