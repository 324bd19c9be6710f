"""Where the tests of the Triton kernels run: on a GPU where there is one, else under Triton's interpreter.

The interpreter must be asked for before the kernels are imported and would then be on for every other test of the
session. So one test of each file runs that file again in a process of its own, where TRITON_INTERPRET=1 is set.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from famba.scan import triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
compiles = pytest.mark.skipif(INTERPRETED or DEVICE.type == "cuda", reason="where nothing else compiles the kernels")


def with_kernels(test: Callable[..., None]) -> Callable[..., None]:
    """A test that runs the kernels, where they run."""
    reason = "runs in test_the_kernels_under_the_interpreter"
    here = triton.unavailable(DEVICE, torch.float32) is None
    return pytest.mark.kernels(pytest.mark.skipif(not here, reason=reason)(test))


class _Compiler:
    """A GPU as Triton's compiler sees it, where there is none to run what it compiles."""

    def get_current_target(self) -> object:
        return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 80, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(monkeypatch: pytest.MonkeyPatch, cache: Path) -> dict[str, str]:
    """From here on launches compile and nothing runs; gives the PTX by kernel, of the last launch each.

    The interpreter takes more than the compiler does, and does not show what the compiler duplicates.
    """
    runtime = pytest.importorskip("triton.runtime")
    ptx: dict[str, str] = {}
    run = runtime.JITFunction.run

    def compiled(kernel: Any, *args: object, grid: object, warmup: bool, **options: object) -> None:
        ptx[kernel.__name__] = run(kernel, *args, grid=grid, warmup=True, **options).asm["ptx"]

    monkeypatch.setattr(runtime.JITFunction, "run", compiled)
    monkeypatch.setattr(runtime.driver, "_active", _Compiler())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    return ptx


def run_under_the_interpreter(file: str) -> None:
    if DEVICE.type == "cuda" or INTERPRETED:
        pytest.skip("the other tests of this file run the kernels already")
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not gpu", file],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
