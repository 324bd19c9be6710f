"""What the compilers make of the GPU kernels: machine instructions, registers, spills. Needs no GPU.

    python benchmarks/sass.py                                                       # sm_90, Vim-Ti, bf16
    python benchmarks/sass.py --arch 80 --model vim_small --precision fp32 --out sass.json

famba's Triton kernels: a block's training step is compiled as the model launches it, and nothing runs. Where mamba-ssm
and causal-conv1d are installed, as in envs/famba-cuda.sif, the kernels of theirs that the released code's mixer
(benchmarks/released.py, fp32) launches for as many tokens are read from the compiled libraries.

Issued instructions bound the scan's time from below: a multiprocessor issues four a cycle, each for 32 lanes. `each`
divides those of the loops by what a turn of them works off: of the scan, states times steps; of the convolution,
outputs of both directions. famba's kernels alone have it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction
from triton.runtime.driver import driver

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the image has no famba installed

from famba.config import ARCHITECTURES
from famba.methods.famba_v import FambaV
from famba.methods.interface import Tokens
from famba.mixer import Mixer
from famba.model import Block
from famba.ops import dispatch
from famba.ops.triton import backend, conv_kernels, scan, scan_kernels

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
IMAGES, R = 128, 7
WARP = 32
# What mamba-ssm 2.3.2 and causal-conv1d 1.7.0 launch for 129 to 256 tokens that no vector divides, in mangled names
# (selective_scan_*_kernel.cuh, causal_conv1d_*.cu): width 4, B and C of every step, softplus, gate, SiLU; float32
LAUNCHED = {
    "causal_conv1d_cuda": (
        r"causal_conv1d_fwd_kernelI\w*traitsILi128ELi4ELb0EffEE",
        r"causal_conv1d_bwd_kernelI\w*traitsILi128ELi4ELb1ELb0EffELb0EE",
    ),
    "selective_scan_cuda": (
        r"selective_scan_fwd_kernelI\w*traitsILi32ELi8ELi1ELb0ELb1ELb1ELb1EffEE",
        r"selective_scan_bwd_kernelI\w*traitsILi32ELi8ELb0ELb1ELb1ELb1ELb1EffEE",
    ),
}


class Compiler:
    """A GPU as Triton's compiler sees it."""

    def __init__(self, arch: int) -> None:
        self._arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._arch, WARP)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(model: str, precision: str, arch: int) -> dict[str, Any]:
    """The kernels of one block that fuses and mixes, forward and backward, by name."""
    kernels: dict[str, Any] = {}
    run = JITFunction.run

    def compile_only(kernel: Any, *args: object, grid: object, warmup: bool, **options: object) -> None:
        kernels[kernel.__name__] = run(kernel, *args, grid=grid, warmup=True, **options)

    JITFunction.run = compile_only
    driver.set_active(Compiler(arch))
    backend.unavailable = lambda *_: None
    dispatch.token_backend = lambda _: backend
    a = ARCHITECTURES[model]
    mixer = Mixer(a.embed_dim, a.d_state, a.d_conv, a.expand, backend="triton")
    block = Block(mixer, a.embed_dim, 0, R, FambaV())
    stream, output = (torch.zeros(IMAGES, a.tokens, a.embed_dim, requires_grad=True) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        out, residual, _ = block(output, stream, Tokens(a.tokens // 2), torch.zeros(IMAGES, dtype=torch.long))
    (out.float().sum() + residual.sum()).backward()
    return kernels


def measured(kernel: Any) -> dict[str, Any]:
    """`counted` of a kernel that Triton has compiled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        return counted(cuobjdump("-sass", file.name), cuobjdump("-res-usage", file.name))


def cuobjdump(*arguments: str) -> str:
    return subprocess.run([TOOLS / "cuobjdump", *arguments], capture_output=True, text=True, check=True).stdout


def counted(sass: str, usage: str) -> dict[str, Any]:
    """Registers of a lane, spilled and shared bytes; instructions, in all and of each innermost loop."""
    code = re.findall(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@\S+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?);", sass, re.MULTILINE)
    code = [(int(address, 16), name, operands) for address, name, operands in code]
    loops = []
    for address, name, operands in code:
        target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        if target and int(target[1], 16) < address:
            loops.append((int(target[1], 16), address))
    inner = [x for x in loops if not any(x != y and x[0] <= y[0] and y[1] <= x[1] for y in loops)]
    registers, shared = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "SHARED"))
    spilled = [name for _, name, _ in code if name.startswith(("LDL", "STL"))]
    return {
        "registers": registers,
        "shared_bytes": shared,
        "spill_instructions": len(spilled),
        "instructions": len(code),
        "loops": [sum(start <= address <= end for address, _, _ in code) for start, end in inner],
    }


def released(arch: int, tokens: int) -> dict[str, Any]:
    """`counted` of the kernels of both extensions, by name; `of`: how many its library has for this GPU.

    Empty where the extensions are not installed.

    Raises LookupError if a library has no code for this GPU, or not one kernel of each name.
    """
    if not 128 < tokens <= 256 or tokens % 4 == 0:
        raise ValueError(f"{tokens} tokens: LAUNCHED holds the kernels for 129 to 256, and no multiple of 4")
    found: dict[str, Any] = {}
    for module, patterns in LAUNCHED.items():
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            return {}
        all_of_it = cuobjdump("-res-usage", "-arch", f"sm_{arch}", spec.origin)
        usage = dict(re.findall(r"^ Function (\w+):\n(.*)$", all_of_it, re.MULTILINE))
        for pattern in patterns:
            names = [name for name in usage if re.search(pattern, name)]
            if len(names) != 1:
                raise LookupError(f"{spec.origin}: {len(names)} kernels of sm_{arch} are like {pattern!r}, not 1")
            sass = cuobjdump("-sass", "-arch", f"sm_{arch}", "-fun", names[0], spec.origin)
            found[pattern.partition("_kernel")[0]] = counted(sass, usage[names[0]]) | {"of": len(usage)}
    return found


def each(name: str, loops: list[int]) -> float | None:
    """Instructions of a lane for what one turn of its loops works off; None where that is not counted."""
    if name.startswith("scan_"):
        return sum(loops) / (scan_kernels.SEGMENT.value * scan.TILE // WARP)
    if name.startswith("conv_"):
        return sum(loops) / (2 * conv_kernels.AT_ONCE.value * scan.CONVOLVED[1] // WARP)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, default=90, help="compute capability, 80 for 8.0 [%(default)s]")
    parser.add_argument("--model", choices=list(ARCHITECTURES), default="vim_tiny", help="[%(default)s]")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="[%(default)s]")
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args()
    kernels = {name: measured(kernel) for name, kernel in compiled(args.model, args.precision, args.arch).items()}
    for name, made in kernels.items():
        made["each"] = each(name, made["loops"])
    extensions = released(args.arch, ARCHITECTURES[args.model].tokens)
    print(f"{'kernel':<20}{'registers':>10}{'spills':>8}{'instructions':>14}{'each':>7}  innermost loops")
    for name, made in (kernels | extensions).items():
        share = "" if made.get("each") is None else f"{made['each']:.1f}"
        print(
            f"{name:<20}{made['registers']:>10}{made['spill_instructions']:>8}{made['instructions']:>14}{share:>7}  "
            f"{', '.join(map(str, made['loops'])) or '-'}"
        )
    if not extensions:
        print("mamba-ssm and causal-conv1d are not installed here: their kernels are left out")
    if args.out:
        about = {"triton": triton.__version__, **{key: getattr(args, key) for key in ("arch", "model", "precision")}}
        found = {**about, "images": IMAGES, "kernels": kernels, "extensions": extensions}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
