"""The released code's way through mamba-ssm's kernels, up to every launch. Needs no GPU, but a CUDA build of torch.

    apptainer exec --cleanenv envs/famba-cuda.sif python benchmarks/launches.py

A training step of `released.py`, with block fusion, and famba's mixer over mamba-ssm run on torch's fake tensors:
those have device, type, strides and shape of CUDA tensors, and no data. Both extensions check all four in C++, set the
kernel's parameters, and then ask CUDA for the device. Here CUDA answers that there is none. Every call must end in that
answer: one that ends earlier, in a check, fails this script. What the kernels compute takes a GPU (benchmarks/gpu.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import released

from famba.config import ARCHITECTURES
from famba.mixer import Mixer
from famba.model import VisionMamba
from famba.ops import mamba_ssm

NO_GPU = re.compile("no NVIDIA driver|no CUDA-capable device|driver version is insufficient", re.IGNORECASE)
IMAGES = 2


class Launches:
    """Stands in for both extensions: calls them, and returns what a launch would have filled."""

    def __init__(self) -> None:
        import causal_conv1d_cuda  # noqa: PLC0415
        import selective_scan_cuda  # noqa: PLC0415
        from causal_conv1d import cpp_functions  # noqa: PLC0415
        from mamba_ssm.ops import selective_scan_interface  # noqa: PLC0415

        self.calls: Counter[str] = Counter()
        self._scan, self._conv = selective_scan_cuda, causal_conv1d_cuda
        selective_scan_interface.selective_scan_cuda = self
        cpp_functions.causal_conv1d_cuda = self
        for name in ("_causal_conv1d_fwd_cpp", "_causal_conv1d_bwd_cpp"):  # operators would not run on fake tensors
            setattr(cpp_functions, name, getattr(cpp_functions, name)._init_fn)

    def _reached(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            function(*args)
        except RuntimeError as error:
            if not NO_GPU.search(str(error)):
                raise
            self.calls[function.__name__] += 1
            return
        raise SystemExit(f"launches.py: {function.__name__} came back without a GPU")

    def fwd(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Any) -> list[Tensor]:
        """out, the states at each chunk's end and, with a gate, out ⊙ SiLU(z)."""
        self._reached(self._scan.fwd, u, delta, A, B, C, *rest)
        states = u.new_empty(*u.shape[:2], -(-u.shape[2] // 2048), 2 * A.shape[1], dtype=A.dtype)
        z = rest[1]
        return [torch.empty_like(delta), states, *([] if z is None else [torch.empty_like(z)])]

    def bwd(self, *args: Any) -> list[Tensor | None]:
        """The gradients of u, delta, A, B, C, D, delta_bias and, with a gate, z."""
        self._reached(self._scan.bwd, *args)
        u, delta, A, B, C, D, z, delta_bias = args[:8]
        wanted = [u, delta, A, B, C, D, delta_bias, *([] if z is None else [z])]
        return [None if x is None else torch.empty_like(x) for x in wanted]

    def causal_conv1d_fwd(self, *args: Any) -> None:
        self._reached(self._conv.causal_conv1d_fwd, *args)

    def causal_conv1d_bwd(self, *args: Any) -> None:
        self._reached(self._conv.causal_conv1d_bwd, *args)


def fake(module: nn.Module, device: str) -> None:
    """Put a module's parameters and buffers on `device`, under the fake mode that is active."""
    for part in module.modules():
        for name, x in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(torch.empty(x.shape, dtype=x.dtype, device=device)))
        for name, x in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(x.shape, dtype=x.dtype, device=device))


def differentiate(output: Tensor) -> None:
    """Call the backward pass of every autograd function of both packages behind `output`.

    Not by the engine: it asks CUDA for the device before it starts.
    """
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if node.name() in {"SelectiveScanFnBackward", "CausalConv1dFnBackward"}:
            shape = node.saved_tensors[0].shape  # of u and of x; the output's is the same
            node.apply(torch.empty(shape, dtype=node.saved_tensors[0].dtype, device="cuda"))


def short_sequence_is_refused() -> bool:
    """A control: with one step less in B than in the rest, the scan ends in its checks."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: PLC0415

    u, A, B, C = (torch.empty(shape, device="cuda") for shape in ((2, 8, 9), (8, 16), (2, 16, 8), (2, 16, 9)))
    try:
        selective_scan_fn(u, u, A, B, C)
    except RuntimeError as error:
        return "must have shape" in str(error)
    return False


def stop(reason: str) -> int:
    print(f"launches.py: {reason}", file=sys.stderr)
    return 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(ARCHITECTURES), default="vim_tiny", help="[%(default)s]")
    args = parser.parse_args()
    if not all(map(importlib.util.find_spec, ("causal_conv1d_cuda", "selective_scan_cuda"))):
        return stop("mamba-ssm and causal-conv1d are not installed: run it in envs/famba-cuda.sif")
    if torch.cuda.is_available():
        return stop("a GPU is here, on which every launch would run: see benchmarks/gpu.py")
    a = ARCHITECTURES[args.model]
    model = VisionMamba(**a.model_dump(), num_classes=100, fusion="upper", scan="reference")
    mixer = Mixer(a.embed_dim, a.d_state, a.d_conv, a.expand, backend="mamba_ssm")
    launches = Launches()
    mamba_ssm.unavailable = lambda *_: None
    warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
    with FakeTensorMode():
        if not short_sequence_is_refused():
            return stop("mamba-ssm's checks did not refuse a sequence that is too short")
        fake(model, "cuda")
        fake(mixer, "cuda")
        logits = released.Released(model)(torch.empty(IMAGES, 3, a.img_size, a.img_size, device="cuda"))
        differentiate(logits)
        print(f"released.py, {args.model}, {a.depth} blocks: logits {tuple(logits.shape)}, {dict(launches.calls)}")
        of_released, launches.calls = launches.calls, Counter()
        out = mixer(torch.empty(IMAGES, a.tokens, a.embed_dim, device="cuda"))
        differentiate(out)
        print(f"famba's mixer over mamba-ssm: {tuple(out.shape)}, {dict(launches.calls)}")
    # one scan and one convolution a direction, or one for both of them, forward and backward
    kernels = ("fwd", "bwd", "causal_conv1d_fwd", "causal_conv1d_bwd")
    if of_released != dict.fromkeys(kernels, 2 * a.depth) or launches.calls != dict.fromkeys(kernels, 1):
        print("launches.py: these are not the launches of a step", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
