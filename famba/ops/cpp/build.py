"""Builds the C++ kernels on first use and caches them: a plain shared library with a C interface, seconds to compile.

It lies in $FAMBA_CACHE, else $XDG_CACHE_HOME/famba, else ~/.cache/famba, under a hash of sources, compiler, flags,
torch and processor. Several processes may ask at once: one builds, the others wait for it.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

DTYPES = (torch.float32, torch.bfloat16)
SOURCES = (
    "scan_forward.cpp",
    "scan_backward.cpp",
    "conv.cpp",
    "norm.cpp",
    "matching.cpp",
    "merging.cpp",
    "exp_rate.cpp",
)
HEADERS = ("simd.h", "tensors.h", "scan.h")
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared", "-w")
AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma", "-mprefer-vector-width=512")
# By the name of the best that a processor has, see `instruction_set`; any other name is the portable build.
INSTRUCTION_SETS = {
    "AVX512_BF16": (*AVX512, "-mavx512bf16"),
    "AVX512": AVX512,
    "AVX2": ("-mavx2", "-mfma"),
}
TYPICAL_SECONDS = 8


class BuildError(Exception):
    """The kernels cannot be built or loaded here. The message is a few words that follow "cpu"."""


def cache_dir() -> Path:
    """Where built kernels are cached."""
    if chosen := os.environ.get("FAMBA_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "famba"


def instruction_set() -> str:
    """What the kernels are built for here: torch's own judgement, which ATEN_CPU_CAPABILITY=avx2 or default lowers."""
    level = torch.backends.cpu.get_cpu_capability()
    return "AVX512_BF16" if level == "AVX512" and torch.cpu._is_avx512_bf16_supported() else level


@functools.cache
def library(level: str | None = None) -> ctypes.CDLL:
    """The kernels for this processor, built if need be. `level` is a name of INSTRUCTION_SETS, by default the best.

    Raises BuildError; the reason says what is missing.
    """
    level = level or instruction_set()
    compiler = _compiler()
    flags = [*FLAGS, *INSTRUCTION_SETS.get(level, ())]
    path = cache_dir() / f"scan-{level.lower()}-{_fingerprint(compiler, flags)}.so"
    try:
        if not path.exists():
            _build_once(path, compiler, flags)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"cannot save its kernels in {path.parent} ({error}); set FAMBA_CACHE to a folder") from error


def _compiler() -> str:
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else ("g++", "clang++", "c++"):
        if found := shutil.which(name):
            return found
    raise BuildError(f"needs a C++ compiler and finds no {asked or 'g++ or clang++'}; install g++ or set CXX")


def _fingerprint(compiler: str, flags: list[str]) -> str:
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in (*SOURCES, *HEADERS):
        digest.update((here / name).read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    for part in (version, platform.machine().encode(), torch.__version__.encode(), " ".join(flags).encode()):
        digest.update(part)
    return digest.hexdigest()[:16]


def _build_once(path: Path, compiler: str, flags: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), fallback_to_soft=False):
        if path.exists():  # another process was faster
            return
        print(f"building the C++ scan (once, ~{TYPICAL_SECONDS} s)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            here = Path(__file__).parent
            command = [compiler, *flags, *(str(here / name) for name in SOURCES), "-o", str(made), *_openmp_runtime()]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
                raise BuildError(f"could not be compiled by {compiler}: {reason.strip()}")
            os.replace(made, path)


def _openmp_runtime() -> list[str]:
    """torch's own OpenMP library, by name: two runtimes in one process would fight for the cores."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ["-Wl,--as-needed", str(found[0])] if found else []


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"runs on the CPU, not on {device.type}"
    if torch.compiler.is_compiling():
        return "is C++ that torch.compile cannot see into"
    if dtype not in DTYPES:
        return f"takes float32 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    try:
        library()
    except BuildError as error:
        return str(error)
    return None
