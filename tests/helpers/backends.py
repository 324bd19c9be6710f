"""The backends that tests compare with the reference: the C++ kernels once for each instruction set of this machine.

Triton's kernels run on a GPU where there is one, else under its interpreter, which must be asked for before they are
imported and would then be on for every other test of the session. So test_interpreter.py runs them in processes of
their own, where TRITON_INTERPRET=1 is set.
"""

import inspect
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from famba.ops import types
from famba.ops.cpp import build
from famba.ops.cpp import scan as cpp_scan
from famba.ops.cpp import tokens as cpp_tokens
from famba.ops.dispatch import BY_NAME
from famba.ops.triton import scan as triton_scan
from tests.helpers import ROOT

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
INSTRUCTION_SETS = ("DEFAULT", "AVX2", "AVX512", "AVX512_BF16")
CPP = [f"cpu {level}" for level in INSTRUCTION_SETS]
TRITON = pytest.param("triton", marks=pytest.mark.kernels)
EVERY = [*CPP, TRITON, pytest.param("mamba_ssm", marks=pytest.mark.gpu), "chunked", "reference"]


if INTERPRETED:
    from triton.runtime import interpreter

    # another Triton may call it otherwise: then look here again
    assert "_patch_lang(self.fn)" in inspect.getsource(interpreter.InterpretedFunction.__call__)
    patch_language = cache(interpreter._patch_lang)

    def called_once_patched(self: interpreter.InterpretedFunction, *args: object, **kwargs: object) -> object:
        """What Triton does where a kernel calls a function, but for patching its language at each, and its error.

        The kernel's start has patched it; what a function of Triton's own needs beside that stays.
        """
        patch_language(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = called_once_patched


@dataclass(frozen=True)
class Compared:
    """A backend, and where it runs."""

    name: str
    module: types.Backend
    device: torch.device

    @property
    def interpreted(self) -> bool:
        """Whether Triton's interpreter runs it, which takes seconds where a kernel takes microseconds."""
        return self.name == "triton" and self.device.type == "cpu"

    def random(self, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normal numbers, the same on every device and, but for their rounding, in every type."""
        values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)
        return values.to(self.device, dtype)

    def needs(self, dtype: torch.dtype) -> None:
        """Skips the test where the scan does not take the type."""
        if reason := self.module.unavailable(self.device, dtype):
            pytest.skip(f"{self.name} {reason}")


def compared(name: str, monkeypatch: pytest.MonkeyPatch) -> Compared:
    """The backend of that name, "cpu LEVEL" for an instruction set; skips the test where it does not run.

    Triton's scan is cut into short chunks, so that the state crosses from one to the next.
    """
    name, _, level = name.partition(" ")
    found = Compared(name, BY_NAME[name], torch.device("cpu") if name == "cpu" else DEVICE)
    if name == "triton" and DEVICE.type == "cpu" and not INTERPRETED:
        pytest.skip("runs in test_interpreter.py")
    found.needs(torch.float32)
    if level:
        here = build.instruction_set()
        if here not in INSTRUCTION_SETS or INSTRUCTION_SETS.index(level) > INSTRUCTION_SETS.index(here):
            pytest.skip(f"this processor is {here}")
        for module in (cpp_scan, cpp_tokens):
            monkeypatch.setattr(module, "library", lambda: build.library(level))
    monkeypatch.setattr(triton_scan, "CHUNK", 8)
    return found


def run_triton_under_its_interpreter(*files: str) -> None:
    """The tests of the kernels in these files of tests/ops."""
    if DEVICE.type == "cuda" or INTERPRETED:
        pytest.skip("the other tests of this file run the kernels already")
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "kernels and not gpu", *files],
        cwd=ROOT / "tests" / "ops",
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
